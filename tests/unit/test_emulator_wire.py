"""The emulator's wire format, byte by byte and version by version."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgibench.backends.emulator.answers import Answer, count_tokens
from tgibench.backends.emulator.bodies import RequestRefusedError, parse_body
from tgibench.backends.emulator.faults import FaultKind, Faults
from tgibench.backends.emulator.log_lines import LogFormat, rust_duration, success_line
from tgibench.backends.emulator.parameters import native
from tgibench.backends.emulator.server_metrics import Histogram
from tgibench.backends.emulator.wire import RequestTimes, TgiVersion, frame, generate_event, timing_headers
from tgibench.backends.emulator.wire_openai import OpenAIWire
from tgibench.errors import DeployError, InvalidValueError
from tgibench.twin.policy import EngineSettings

SETTINGS = EngineSettings(max_input_tokens=10, max_total_tokens=20)
TIMES = RequestTimes(validation_s=0.0004012, queue_s=59.8e-6, inference_s=1.22, total_s=1.2304610, generated_tokens=50)


def asked(parameters, *, version="1.0.3", inputs="a few words", stream=False):
    body = {"inputs": inputs, "parameters": parameters}
    raw = json.dumps(body).encode()
    return native(body, raw, version=TgiVersion.of(version), settings=SETTINGS, stream=stream)


@pytest.mark.parametrize(
    ("version", "framed"),
    [
        ("1.0.3", b'data:{"a":1}\n\n'),
        ("2.0.4", b'data:{"a":1}\n\n'),
        ("2.1.0", b'data: {"a":1}\n\n'),
        ("3.3.7", b'data: {"a":1}\n\n'),
    ],
)
def test_framing(version, framed):
    """The space after the colon came with 2.1.0."""
    assert frame(TgiVersion.of(version), {"a": 1}) == framed


@pytest.mark.parametrize(
    ("version", "keys", "details"),
    [
        ("1.0.3", ["token", "generated_text", "details"], ["finish_reason", "generated_tokens", "seed"]),
        ("1.4.0", ["index", "token", "generated_text", "details"], ["finish_reason", "generated_tokens", "seed"]),
        (
            "2.3.0",
            ["index", "token", "generated_text", "details"],
            ["finish_reason", "generated_tokens", "seed", "input_length"],
        ),
    ],
)
def test_keys_of_the_last_event(version, keys, details):
    """`index` came with 1.4.0 and `input_length` with 2.3.0."""
    answer = Answer.to("hello", natural_tokens=5, max_new_tokens=5)
    event = generate_event(TgiVersion.of(version), answer, 4, text=answer.text, details=True, seed=None, input_tokens=1)
    assert list(event) == keys
    assert list(event["details"]) == details


def test_an_early_end_is_a_special_token_without_text():
    """An answer that ends by itself counts its end token, which adds nothing to the text."""
    answer = Answer.to("hello", natural_tokens=4, max_new_tokens=9)
    assert (answer.finish_reason, answer.tokens, len(answer.text.split())) == ("eos_token", 4, 3)
    assert (answer.token(3).text, answer.token(3).special) == ("</s>", True)


def test_a_stop_sequence_stays_in_the_text():
    """Generation ends with the stop sequence, and the text keeps it."""
    whole = Answer.to("hello", natural_tokens=9, max_new_tokens=9)
    third = whole.token(2).text.strip()
    cut = Answer.to("hello", natural_tokens=9, max_new_tokens=9, stop=(third,))
    assert (cut.finish_reason, cut.tokens) == ("stop_sequence", 3)
    assert cut.text.endswith(third)


@given(st.text(max_size=50), st.integers(1, 60), st.integers(1, 60))
def test_an_answers_text_is_its_tokens(prompt, natural, limit):
    """The text is the visible tokens in order, and never more than were asked for."""
    answer = Answer.to(prompt, natural_tokens=natural, max_new_tokens=limit)
    assert answer.tokens == min(natural, limit)
    assert answer.text == "".join(answer.token(index).visible for index in range(answer.tokens))


def test_prompts_of_words_count_a_token_each():
    """The words of a synthetic prompt are a token each; blanks belong to what follows."""
    assert count_tokens("one two  three, four") == 5


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"temperature": 0}, "`temperature` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"truncate": 11}, "`truncate` must be strictly positive and less than 10. Given: 11"),
        ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        (
            {"max_new_tokens": 18},
            "`inputs` tokens + `max_new_tokens` must be <= 20. Given: 3 `inputs` tokens and 18 `max_new_tokens`",
        ),
    ],
)
def test_refused_parameters(parameters, text):
    """A parameter out of range is refused in TGI's words, with status 422."""
    with pytest.raises(RequestRefusedError) as refused:
        asked(parameters)
    expected = {"error": f"Input validation error: {text}", "error_type": "validation"}
    assert (refused.value.status, json.loads(refused.value.body)) == (422, expected)


def test_a_prompt_beyond_the_limit_is_refused():
    """A prompt of exactly the limit passes, one more token does not."""
    assert asked({"max_new_tokens": 1}, inputs="w " * 9 + "w").input_tokens == 10
    with pytest.raises(RequestRefusedError, match=r"must have less than 10 tokens. Given: 11"):
        asked({"max_new_tokens": 1}, inputs="w " * 10 + "w")


@pytest.mark.parametrize(
    ("version", "asked_for", "granted"),
    [("1.0.3", None, None), ("1.3.4", None, 17), ("3.0.0", None, 17), ("3.3.7", 99, 17)],
)
def test_the_length_that_a_version_grants(version, asked_for, granted):
    """The default is 20, 100 or the whole length by version, and 3.1.1 cuts what 1.0.3 refuses."""
    parameters = {} if asked_for is None else {"max_new_tokens": asked_for}
    if granted is None:
        with pytest.raises(RequestRefusedError, match="20 `max_new_tokens`"):
            asked({"details": True, **parameters}, version=version)
    else:
        assert asked({"details": True, **parameters}, version=version).max_new_tokens == granted


@pytest.mark.parametrize(
    ("raw", "content_type", "status", "begins"),
    [
        (b"{}", "text/plain", 415, "Expected request with `Content-Type: application/json`"),
        (b"{", "application/json", 400, "Failed to parse the request body as JSON"),
        (b'{"inputs": "\\ud800"}', "application/json", 400, "Failed to parse the request body as JSON"),
        (100_000 * b"[", "application/json", 400, "Failed to parse the request body as JSON"),
        (b"[]", "application/json", 422, "Failed to deserialize the JSON body into the target type: invalid type"),
    ],
)
def test_bodies_that_are_no_object(raw, content_type, status, begins):
    """The web framework refuses them in plain text."""
    with pytest.raises(RequestRefusedError) as refused:
        parse_body(raw, content_type)
    assert (refused.value.status, refused.value.content_type) == (status, "text/plain; charset=utf-8")
    assert refused.value.body.decode().startswith(begins)


def test_a_missing_field_is_refused_in_plain_text():
    """TGI's framework names the field and the place."""
    with pytest.raises(RequestRefusedError) as refused:
        native({}, b"{}", version=TgiVersion.of("3.3.7"), settings=SETTINGS, stream=False)
    assert refused.value.body == (
        b"Failed to deserialize the JSON body into the target type: missing field `inputs` at line 1 column 2"
    )


@pytest.mark.parametrize(
    ("version", "compute_time", "counts"),
    [("1.0.3", "1230", False), ("1.4.2", "1230", True), ("1.4.3", "1.230461", True)],
)
def test_timing_headers(version, compute_time, counts):
    """Compute time is whole milliseconds until 1.4.2 and seconds after; token counts came with 1.4.0."""
    headers = timing_headers(TgiVersion.of(version), TIMES, compute_type="gpu", characters=5, input_tokens=3)
    assert headers["x-compute-time"] == compute_time
    assert (headers["x-total-time"], headers["x-time-per-token"]) == ("1230", "24")
    assert ("x-prompt-tokens" in headers, "x-generated-tokens" in headers) == (counts, counts)


@pytest.mark.parametrize(
    ("version", "chat_object", "chat_reason", "stream_reason"),
    [
        ("1.4.5", "text_completion", "eos_token", ""),
        ("2.2.0", "chat.completion.chunk", "eos_token", ""),
        ("2.4.1", "chat.completion.chunk", "stop", ""),
        ("3.3.7", "chat.completion.chunk", "stop", "eos_token"),
    ],
)
def test_openai_chunks(version, chat_object, chat_reason, stream_reason):
    """Names of objects and of the reason to finish, by version and route."""
    answer = Answer.to("hello", natural_tokens=2, max_new_tokens=9)
    version = TgiVersion.of(version)
    chat = OpenAIWire(version=version, model="m", created=1, chat=True).chunk(0, answer, range(1, 2))
    text = OpenAIWire(version=version, model="m", created=1, chat=False).chunk(0, answer, range(1, 2))
    assert (chat["object"], chat["choices"][0]["finish_reason"]) == (chat_object, chat_reason)
    assert chat["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text["choices"][0]["finish_reason"] == stream_reason


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.234567, "1.234567s"),
        (90.5, "90.5s"),
        (0.0123, "12.3ms"),
        (45.6e-6, "45.6\u00b5s"),
        (789e-9, "789ns"),
        (1.05, "1.05s"),
        (0.0, "0ns"),
    ],
)
def test_durations_as_rust_prints_them(seconds, text):
    """The unit is the largest with something before the point, and there are no minutes."""
    assert rust_duration(seconds) == text


def line(log_format, **changes):
    asked_for = {"span": "generate", "parameters": {"max_new_tokens": 50}, "seed": None} | changes
    at = datetime(2023, 9, 1, 12, tzinfo=UTC)
    return success_line(at, TgiVersion.of("1.0.3"), TIMES, log_format=log_format, **asked_for)


def test_log_lines_hold_the_fields_of_the_2023_study():
    """Plain and coloured lines hold the same quoted durations, and the study's own pattern finds them."""
    plain, coloured = line(LogFormat.PLAIN), line(LogFormat.ANSI)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    assert plain.endswith(": text_generation_router::server: router/src/server.rs:289: Success")
    as_in_cloudwatch = coloured.replace("\x1b", "#033")
    found = dict(re.findall(r'#\d+\[3m(\w+)#\d+\[0m#\d+\[2m=#\d+\[0m"([^"]+)"', as_in_cloudwatch))
    assert (found["total_time"], found["time_per_token"], found["seed"]) == ("1.230461s", "24.4ms", "None")


def test_json_log_lines():
    """The span holds the same fields."""
    event = json.loads(line(LogFormat.JSON, seed=17))
    assert (event["message"], event["span"]["name"]) == ("Success", "generate")
    assert (event["span"]["queue_time"], event["span"]["seed"]) == ("59.8\u00b5s", "Some(17)")


def test_every_nth_hits_exactly():
    """Of 100 requests each fourth is hit, whatever the seed."""
    faults = Faults.every_nth(4, "truncate")
    rng = np.random.default_rng(0)
    hit = [number for number in range(1, 101) if FaultKind.TRUNCATE in faults.befalling(number, rng)]
    assert hit == list(range(4, 101, 4))


def test_drawn_faults_repeat_with_their_seed():
    """The same seed hits the same requests."""
    faults = Faults.sometimes(0.5, "abort") | Faults.every_nth(1, "crlf")
    draws = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        draws.append([sorted(faults.befalling(number, rng)) for number in range(50)])
    assert draws[0] == draws[1]
    assert all("crlf" in each for each in draws[0])


def test_unknown_faults_and_versions_are_named():
    """A wrong name is told with what would be right."""
    with pytest.raises(InvalidValueError, match=r"kind must be one of truncate.*got 'explode'"):
        Faults.every_nth(1, "explode")
    with pytest.raises(DeployError, match=r"numbers with dots.*got 'latest'"):
        TgiVersion.of("latest")


def test_histograms_count_up():
    """Buckets are cumulative and the last one holds everything."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 3.0):
        histogram.observe(value)
    assert list(histogram.lines("x"))[1:] == [
        'x_bucket{le="1.0"} 2',
        'x_bucket{le="2.0"} 3',
        'x_bucket{le="+Inf"} 4',
        "x_sum 6.0",
        "x_count 4",
    ]
