"""The command, as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import tgibench as tb
from commands import TGIBENCH, run_here, run_process
from tgibench.cli import demo


def eventually(look, *, process):
    """What `look` returns once it is true, as long as the process lives."""
    while not (found := look()):
        assert process.poll() is None, f"ended early with exit code {process.returncode}"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The emulator as a process of its own; its URL."""
    log = tmp_path_factory.mktemp("emulator") / "log"
    with log.open("w") as output:  # a pipe that nobody empties would stop the server once it is full
        # 6 ms a token, so that tests are quick
        machine = ("--instance-type", "ml.p4d.24xlarge", "--tensor-parallel", "8")
        process = subprocess.Popen([*TGIBENCH, "emulate", "--port", "0", *machine], stdout=output)
    try:
        yield eventually(lambda: re.search(r"http://\S+", log.read_text()), process=process)[0]
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
    assert code == 0


def test_json_is_the_only_thing_on_standard_output(server):
    """A list of cells with counts, failures, warnings and metrics under their names."""
    done = run_process(
        "run", "--url", server, "--concurrency", "1,4", "--requests", "12", "--max-new-tokens", "8", "--json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)
    assert [cell["load"] for cell in cells] == ["1 user", "4 users"]
    for cell in cells:
        assert cell["source"] == "EMULATED"
        assert cell["counts"] == {"issued": 12, "succeeded": 12, "failed": 0, "unsent": 0}
        assert cell["failures"] == {}
        assert isinstance(cell["warnings"], list)
        ttft = cell["metrics"]["ttft_s"]
        assert set(ttft) == {"count", "mean", "min", "max", "p50", "p90", "p95", "p99", "intervals"}
        assert 0 < ttft["min"] <= ttft["p50"] <= ttft["max"]
        assert cell["metrics"]["output_tokens"]["mean"] == 8
        assert cell["metrics"]["output_throughput_tps"] > 0


@pytest.mark.parametrize("protocol", ["tgi", "tgi-compat", "openai-chat", "openai-completions"])
def test_every_protocol_counts_the_same_tokens(server, protocol):
    """Ten requests of eight tokens."""
    done = run_here(
        "run", "--url", server, "--protocol", protocol, "--rate", "50", "--arrivals", "constant", "--requests", "10",
        "--max-new-tokens", "8", "--json",
    )  # fmt: skip
    (cell,) = json.loads(done.stdout)
    assert cell["counts"]["succeeded"] == 10, cell
    assert cell["metrics"]["output_tokens"]["mean"] == 8


def test_results_are_stored_shown_and_not_measured_again(server, tmp_path):
    """The second run returns the stored cell; `show` prints it."""
    arguments = ["run", "--url", server, "--concurrency", "2", "--requests", "4", "--store", str(tmp_path), "--json"]
    first, second = run_process(*arguments), run_here(*arguments)
    assert json.loads(first.stdout) == json.loads(second.stdout)
    shown = run_here("show", str(tmp_path))
    assert "EMULATED" in shown.stdout
    assert json.loads(run_here("show", str(tmp_path), "--json").stdout) == json.loads(first.stdout)


def test_a_run_that_gave_up_is_shown_and_run_again(server, tmp_path):
    """Of a path that the server does not have: exit code 2, and the second run asks again."""
    arguments = ["run", "--url", f"{server}/foo", "--concurrency", "2", "--requests", "50", "--store", str(tmp_path)]
    first, second = run_here(*arguments), run_here(*arguments)
    assert (first.returncode, second.returncode) == (2, 2)
    assert "the run stopped early: gave up after 20 failures in a row" in first.stdout
    assert (tmp_path / "study.jsonl").read_text().count('"kind": "measurement"') == 2


def test_what_is_stored_of_a_url_does_not_stand_for_another_path(server, tmp_path):
    """The second run asks the server; its cells say where they are from."""
    arguments = ["--concurrency", "1", "--requests", "2", "--store", str(tmp_path), "--json"]
    (first,) = json.loads(run_here("run", "--url", server, *arguments).stdout)
    (second,) = json.loads(run_here("run", "--url", f"{server}/foo/", *arguments).stdout)
    assert (first["counts"]["succeeded"], second["counts"]["succeeded"]) == (2, 0)
    assert second["deployment"] == f"{first['deployment']}/foo"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "-1", "--duration", "5"], "rate_rps must be a number above 0, got -1.0"),
        (["--concurrency", "0", "--duration", "5"], "concurrency must be a whole number of at least 1, got 0"),
        (["--concurrency", "1", "--duration", "5", "--seed", "-1"], "-1 is not in the range x>=0"),
        (["--concurrency", "x", "--duration", "5"], "--concurrency must be numbers with commas"),
        (["--concurrency", "1"], "give either --duration"),
        (["--duration", "5"], "give either --concurrency or --rate"),
        (["--concurrency", "1", "--rate", "1", "--duration", "5"], "give either --concurrency or --rate"),
        (["--concurrency", "1", "--duration", "5", "--protocol", "grpc"], "unknown protocol 'grpc'; known are"),
        (["--concurrency", "1", "--duration", "5", "--prompts", "absent.json"], "cannot read the prompt file"),
        (["--concurrency", "1", "--duration", "5", "--api-key-env", "NOT_SET_ANYWHERE"], "which is not set"),
        (["--concurrency", "1", "--duration", "5", "--url", "nowhere"], "url must be http"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(arguments, words):
    """No traceback, nothing on standard output."""
    done = run_here("run", *(["--url", "http://127.0.0.1:9"] if "--url" not in arguments else []), *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_more_users_than_a_machine_can_have_are_refused_before_the_load(server):
    """One sentence with the number, instead of a run that fails in its midst."""
    done = run_here("run", "--url", server, "--concurrency", "10000000", "--duration", "5")
    assert done.returncode == 2
    assert done.stderr.startswith("tgibench: 10000000 requests in flight need ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_an_unreachable_server_is_one_sentence_and_exit_code_2():
    """It names the URL."""
    url = "http://127.0.0.1:9"
    done = run_here("run", "--url", url, "--concurrency", "1", "--requests", "1", "--ready-timeout", "1")
    assert done.returncode == 2
    assert f"{url} was not ready within 1 s" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_one_sentence_and_exit_code_2():
    """It names the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_here("emulate", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "is in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_prints_what_was_measured(server, tmp_path):
    """The first load is finished, the second interrupted: the first one's row is there, exit code 130."""
    process = subprocess.Popen(
        [
            *TGIBENCH, "run", "--url", server, "--concurrency", "2,3", "--duration", "3", "--max-new-tokens", "4",
            "--store", str(tmp_path), "--json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    stored = '"kind": "measurement"'
    eventually(lambda: any(stored in file.read_text() for file in tmp_path.iterdir()), process=process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert [cell["load"] for cell in json.loads(stdout)] == ["2 users"]


def test_the_api_key_appears_nowhere(server, tmp_path):
    """Neither in output nor in the store."""
    environment = {**os.environ, "MY_KEY": "sk-verysecret"}
    done = run_process(
        "run", "--url", server, "--concurrency", "1", "--requests", "2", "--api-key-env", "MY_KEY",
        "--store", str(tmp_path), env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = "".join(file.read_text() for file in tmp_path.iterdir())
    assert "verysecret" not in done.stdout + done.stderr + written


def test_the_demo_measures_in_virtual_time_and_once_over_http(tmp_path, monkeypatch):
    """Sixteen cells and one more, each EMULATED and without a failure, printed, stored and on a page; the winners in words."""
    monkeypatch.setattr(demo, "_REAL_TIME_LOAD", tb.ClosedLoop(5, requests=10))  # not the whole eight seconds
    done = run_here("demo", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    cells = json.loads(run_here("show", str(tmp_path), "--json").stdout)
    assert len(cells) == 17
    assert {cell["source"] for cell in cells} == {"EMULATED"}
    assert {cell["counts"]["failed"] for cell in cells} == {0}
    rows = [line for line in done.stdout.splitlines() if line.endswith("│") and "EMULATED" in line]
    assert len(rows) == 17
    for goal in ("Cheapest", "Fastest", "Highest throughput"):
        assert re.search(rf"^{goal}: Llama-2-7b-hf @ .* worse", done.stdout, re.MULTILINE), goal
    assert "<h1>How to serve Llama-2-7b-hf and Llama-2-13b-hf</h1>" in (tmp_path / "report.html").read_text()


def test_ctrl_c_in_the_demo_starts_nothing_further(tmp_path):
    """Interrupted in virtual time, it runs nothing over HTTP: exit code 130."""
    process = subprocess.Popen(
        [*TGIBENCH, "demo", "--out", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    stored = '"kind": "measurement"'
    eventually(lambda: any(stored in file.read_text() for file in tmp_path.iterdir()), process=process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "over HTTP" not in stdout


def run_on_terminal(*arguments):
    """Run the command with a terminal of 150 columns for its standard error: its exit code, standard output, and what was drawn."""
    terminal, its_end = pty.openpty()
    drawn = []

    def read():
        try:
            while data := os.read(terminal, 65536):
                drawn.append(data)
        except OSError:  # Linux's way of saying that nobody writes any more
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        process = subprocess.Popen(
            [*TGIBENCH, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=its_end,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "50"},
            text=True,
        )
    finally:
        os.close(its_end)
    stdout, _ = process.communicate(timeout=100)
    reader.join(timeout=30)
    os.close(terminal)
    return process.returncode, stdout, b"".join(drawn).decode()


@pytest.mark.parametrize("options", [["--json"], []])
def test_table_and_bar_are_drawn_live_on_the_terminal_and_standard_output_stays_clean(server, options):
    """While the second load runs, the first one's row stands above a moving bar; all of it is wiped out at the end."""
    code, stdout, drawn = run_on_terminal(
        "run", "--url", server, "--concurrency", "1,2", "--duration", "1.5", "--max-new-tokens", "4", *options
    )  # fmt: skip
    assert code == 0, drawn
    frames = drawn.split("Measurements (times in ms")[1:]
    assert len(frames) > 5, "drawn again and again"
    first = [frame for frame in frames if ": 1 user " in frame and "in flight" in frame]
    second = [frame for frame in frames if ": 2 users " in frame and "in flight" in frame]
    assert first
    assert not any("EMULATED" in frame for frame in first), "no row before there is a cell"
    assert second
    assert all("EMULATED" in frame for frame in second), "the finished cell's row"
    assert all("1/2" in frame for frame in second), "the bar"
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in drawn
    assert drawn.rstrip().endswith("\x1b[2K"), "the last thing is that a line is erased"
    assert "\x1b" not in stdout
    if options:
        assert [cell["load"] for cell in json.loads(stdout)] == ["1 user", "2 users"]
    else:
        assert stdout.count("EMULATED") == 2


def test_without_a_terminal_nothing_is_drawn(server):
    """Logs of a batch job hold no escape codes, no bar and no half-finished table."""
    done = run_process("run", "--url", server, "--concurrency", "1", "--requests", "2", "--max-new-tokens", "4")
    assert done.stderr == ""
    assert "\x1b" not in done.stdout


def python(code):
    """Run a piece of Python in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_a_command_is_loaded_without_the_others():
    """Predictions, pages and the collector of leftovers are no part of a run."""
    load = "from tgibench.cli.commands import tgibench; tgibench.get_command(None, 'run')"
    done = python(f"import sys; {load}; print(*(name for name in sys.modules if name.startswith('tgibench.')))")
    loaded = set(done.stdout.split())
    assert "tgibench.cli.run" in loaded
    assert not loaded & {
        "tgibench.cli.predict",
        "tgibench.cli.cleanup",
        "tgibench.reports.page",
        "tgibench.predictions",
    }


def test_every_command_is_listed_and_has_its_own_help():
    """The group knows its commands by name alone."""
    listed = run_here("--help").stdout
    for name in ("calibrate", "cleanup", "demo", "emulate", "predict", "prices", "report", "run", "show"):
        assert f"  {name} " in listed
        assert f"tgibench {name}" in run_here(name, "--help").stdout
    unknown = run_here("deploy")
    assert unknown.returncode == 2
    assert "No such command 'deploy'" in unknown.stderr


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_extra_is_one_sentence(missing):
    """Whichever module first asks for it."""
    done = python(
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['tgibench', 'show', 'x']; "
        "from tgibench.cli import main; main()"
    )
    assert (done.returncode, done.stderr) == (
        2,
        f'tgibench: the command needs {missing}: pip install "tgibench[cli]"\n',
    )
