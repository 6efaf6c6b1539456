"""TGI's log lines as times: every form in which they are found."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgibench.backends.emulator.log_lines import LogFormat, rust_duration, success_line
from tgibench.backends.emulator.wire import RequestTimes, TgiVersion
from tgibench.protocols.tgi_logs import logged_request, logged_requests, rust_seconds

AT = datetime(2023, 8, 31, 12, 34, 56, 789012, tzinfo=UTC)
TIMES = RequestTimes(validation_s=401.2e-6, queue_s=59e-9, inference_s=1.22, total_s=1.2204013, generated_tokens=50)


def line(version="1.0.3", span="generate_stream", log_format=LogFormat.ANSI, **parameters):
    return success_line(
        AT, TgiVersion.of(version), TIMES, span=span, parameters=parameters, seed=None, log_format=log_format
    )


def is_right(request):
    assert request.ended_at == AT
    assert request.server.validation_s == pytest.approx(401.2e-6)
    assert request.server.queue_s == pytest.approx(59e-9)
    assert request.server.inference_s == pytest.approx(1.22)
    assert request.server.total_s == pytest.approx(1.2204013)
    assert request.server.time_per_token_s == pytest.approx(1.22 / 50)


@pytest.mark.parametrize("log_format", LogFormat)
@pytest.mark.parametrize("version", ["1.0.3", "1.4.5", "2.0.4", "3.3.7"])
@pytest.mark.parametrize("span", ["generate", "generate_stream", "chat_completions", "completions"])
def test_every_version_and_form_tells_the_same_times(version, log_format, span):
    """Plain, coloured and JSON lines of all generations."""
    request = logged_request(line(version, span, log_format))
    is_right(request)
    assert request.span == span


@pytest.mark.parametrize("escape", ["#033", "\\u001b", "\\x1b", "\\033"])
def test_colours_that_a_log_service_rewrote_are_taken_off(escape):
    """CloudWatch shows the escape byte as #033."""
    is_right(logged_request(line().replace("\x1b", escape)))


def test_a_line_as_the_launcher_of_2023_wrote_it():
    """Word for word, spans of the HTTP request and of the compatible route included."""
    text = (
        "#033[2m2023-08-11T09:05:17.306201Z#033[0m #033[32m INFO#033[0m #033[1mHTTP request#033[0m#033[1m{#033[0m"
        "#033[3motel.name#033[0m#033[2m=#033[0mPOST /invocations #033[3mhttp.method#033[0m#033[2m=#033[0mPOST#033[1m}#033[0m"
        "#033[2m:#033[0m#033[1mcompat_generate#033[0m#033[1m{#033[0m#033[3mdefault_return_full_text#033[0m#033[2m=#033[0m"
        "Extension(false)#033[1m}#033[0m#033[2m:#033[0m#033[1mgenerate#033[0m#033[1m{#033[0m#033[3mparameters#033[0m#033[2m=#033[0m"
        'GenerateParameters { best_of: None, stop: ["total_time=\\"9s\\""], seed: None } #033[3mtotal_time#033[0m#033[2m=#033[0m'
        '"1.462309917s" #033[3mvalidation_time#033[0m#033[2m=#033[0m"462.75\u00b5s" #033[3mqueue_time#033[0m#033[2m=#033[0m'
        '"58.2\u00b5s" #033[3minference_time#033[0m#033[2m=#033[0m"1.461788966s" #033[3mtime_per_token#033[0m#033[2m=#033[0m'
        '"29.235779ms" #033[3mseed#033[0m#033[2m=#033[0m"None"#033[1m}#033[0m#033[2m:#033[0m '
        "#033[2mtext_generation_router::server#033[0m#033[2m:#033[0m #033[2mrouter/src/server.rs#033[0m#033[2m:#033[0m289"
        "#033[2m:#033[0m Success"
    )
    request = logged_request(text)
    assert request.span == "generate"
    assert request.server.total_s == 1.462309917
    assert request.server.time_per_token_s == pytest.approx(0.029235779)
    assert request.ended_at == datetime(2023, 8, 11, 9, 5, 17, 306201, tzinfo=UTC)


@pytest.mark.parametrize("log_format", LogFormat)
def test_times_in_the_prompts_own_stop_texts_are_not_taken(log_format):
    """A stop sequence that looks like a field changes nothing."""
    is_right(logged_request(line(log_format=log_format, stop=['total_time="9s" Success', "queue_time=9s"])))


def test_a_json_line_of_a_stream_is_read_from_its_own_span():
    """`spans` may hold those of another request."""
    event = json.loads(line(log_format=LogFormat.JSON))
    event["spans"] = [{"name": "other", "total_time": "99s"}]
    is_right(logged_request(json.dumps(event)))


@pytest.mark.parametrize(
    "other",
    [
        "",
        "Success",
        "2023-08-31T12:34:56Z  INFO text_generation_launcher: Successfully downloaded weights",
        '2023-08-31T12:34:56Z ERROR generate{total_time="1s"}: text_generation_router::server: Success is not near',
        '{"message": "Success", "span": {"total_time": "soon"}}',
        '{"message": "Success", "span": "total_time"}',
        '{"message": "Success total_time"',
        'generate{total_time="5 parsecs"}: Success',
    ],
)
def test_any_other_line_tells_nothing(other):
    """No error either."""
    assert logged_request(other) is None


def test_a_log_is_read_in_its_order():
    """Lines between are passed over."""
    lines = ["Connected", line(span="generate"), "noise", line(span="completions")]
    assert [request.span for request in logged_requests(lines)] == ["generate", "completions"]


def test_a_stamp_that_is_no_date_is_no_instant():
    """The times are kept."""
    request = logged_request(line(log_format=LogFormat.PLAIN).replace("2023-08-31", "2023-13-41"))
    assert request.ended_at is None
    assert request.server.total_s is not None


@given(st.floats(min_value=0, max_value=1e4))
def test_durations_come_back_to_the_nanosecond(seconds):
    """What Rust prints is what it measured."""
    assert rust_seconds(rust_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize("text", ["", "s", "1", "1m", "-1s", "1.5.2s", "1 s 2"])
def test_what_is_no_duration_is_none(text):
    """Never 0."""
    assert rust_seconds(text) is None


@given(st.text())
def test_no_text_makes_the_parser_raise(text):
    """Whatever a log holds."""
    logged_request(text)
    logged_request(f"total_time Success {text}")
    logged_request(f'{{"message": "Success", "total_time": {text}')
