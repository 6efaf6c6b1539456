"""What a whole run costs this machine, and how far its figures are off, beside other tools on the same server.

    python benchmarks/peers.py --aiperf BIN --guidellm BIN --llmeter PYTHON [--streams 64 256] [--answers-each 3]

Each tool keeps so many chat streams in flight against `token_server.c` (100 tokens an answer, first after 200 ms, then one every 20 ms),
started by its own command line as its users start it: aiperf 0.13 and guidellm 0.8 by their programs, llmeter 0.2 by the Python that has
it (with openai below 3), tgibench by `tgibench run --json`. Tools that are not given are left out; they need environments of their own.

CPU is of the tool's whole tree of processes from start to end, loading it included. Errors are the mean that the tool reports minus the
server's own, which it keeps of the tokens it wrote. Needs a C compiler and two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tgibench as tb

TOKENS, FIRST_MS, GAP_MS = 100, 200.0, 20.0
LIMIT_S = 300
LLMETER = """
import asyncio, json, sys
from llmeter.endpoints.openai import OpenAICompletionStreamEndpoint as Endpoint
from llmeter.runner import Runner
url, clients, each, tokens = sys.argv[1], *map(int, sys.argv[2:])
endpoint = Endpoint(model_id="token-server", base_url=url + "/v1", api_key="none")
payload = Endpoint.create_payload("Hello there", max_tokens=tokens)
stats = asyncio.run(Runner(endpoint).run(payload=payload, n_requests=each, clients=clients)).stats
print(json.dumps([stats["total_requests"] - stats["failed_requests"],
    stats["time_to_first_token-average"] * 1e3, stats["time_per_output_token-average"] * 1e3]))
"""
TOKENIZER = {  # aiperf loads one whatever it counts with, and would fetch it
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "Hello": 1, "there": 2}, "unk_token": "[UNK]"},
}


def run(command, folder):
    """What it printed; its errors are shown when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def with_tgibench(_, url, folder, streams, each):
    own = ["--url", url, "--protocol", "openai-chat", "--model", "token-server", "--concurrency", str(streams)]
    load = ["--requests", str(streams * each), "--max-new-tokens", str(TOKENS), "--json"]
    (cell,) = json.loads(run([sys.executable, "-m", "tgibench", "run", *own, *load], folder))
    metrics = cell["metrics"]
    return cell["counts"]["succeeded"], metrics["ttft_s"]["mean"] * 1e3, metrics["tpot_s"]["mean"] * 1e3


def with_aiperf(program, url, folder, streams, each):
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "prompts.jsonl").write_text('{"text": "Hello there"}\n' * streams * each)
    server = ["--model", "token-server", "--url", url, "--endpoint-type", "chat", "--streaming"]
    counting = ["--tokenizer", "tokenizer", "--use-server-token-count"]
    load = ["--input-file", "prompts.jsonl", "--custom-dataset-type", "single_turn", "--concurrency", str(streams)]
    quiet = ["--ui", "none", "--no-gpu-telemetry", "--no-server-metrics", "--artifact-dir", "out"]
    run([program, "profile", *server, *counting, *load, "--request-count", str(streams * each), *quiet], folder)
    found = json.loads((folder / "out" / "profile_export_aiperf.json").read_text())
    return tuple(found[name]["avg"] for name in ("request_count", "time_to_first_token", "inter_token_latency"))


def with_guidellm(program, url, folder, streams, each):
    (folder / "prompts.jsonl").write_text('{"prompt": "Hello there"}\n' * streams * each)
    load = [
        "--profile",
        f"kind=concurrent,streams={streams}",
        "--constraint",
        f"kind=max_requests,count={streams * each}",
    ]
    data = ["--data", f"kind=json_file,path={folder}/prompts.jsonl", "--output", f"kind=json,path={folder}/out.json"]
    run([program, "run", "--backend", f"kind=openai_http,target={url}", *load, *data, "--disable-console"], folder)
    (found,) = json.loads((folder / "out.json").read_text())["benchmarks"]
    figures = found["metrics"]
    means = (figures[name]["successful"]["mean"] for name in ("time_to_first_token_ms", "inter_token_latency_ms"))
    return figures["request_totals"]["successful"], *means


def with_llmeter(python, url, folder, streams, each):
    (folder / "run.py").write_text(LLMETER)
    printed = run([python, "run.py", url, str(streams), str(each), str(TOKENS)], folder)
    return tuple(json.loads(printed[printed.rindex("[") :]))


TOOLS = {"aiperf": with_aiperf, "guidellm": with_guidellm, "llmeter": with_llmeter, "tgibench": with_tgibench}


def measure(name, program, server, streams, each):
    """One tool in a folder of its own, against a fresh server."""
    command = [server, str(TOKENS), str(FIRST_MS), str(GAP_MS), "0"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        succeeded, ttft_ms, gap_ms = TOOLS[name](program, url, Path(folder), streams, each)
        after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began_s
        process.stdin.close()
        true_ttft_ms, true_gap_ms = map(float, process.stdout.read().split())
        process.wait(10)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert succeeded == streams * each, f"{name}: {succeeded} of {streams * each} requests succeeded"
    return cpu_s, wall_s, ttft_ms - true_ttft_ms, 100 * (gap_ms / true_gap_ms - 1)


def main():
    """Run every tool that is given at each number of streams, tgibench last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("aiperf", "guidellm", "llmeter"):
        parser.add_argument(f"--{name}", type=os.path.abspath)
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--answers-each", type=int, default=3)
    arguments = parser.parse_args()
    programs = {name: getattr(arguments, name, None) for name in TOOLS}
    print(
        f"{platform.platform()}, Python {platform.python_version()}, tgibench {tb.__version__}, {os.cpu_count()} cores"
    )
    with tempfile.TemporaryDirectory() as folder:
        server = f"{folder}/token_server"
        subprocess.run(["cc", "-O2", "-o", server, Path(__file__).with_name("token_server.c")], check=True)
        for streams in arguments.streams:
            print(f"\n{streams} streams, {arguments.answers_each} answers of {TOKENS} tokens each")
            print(f"{'':10}{'CPU s':>8}{'x tgibench':>12}{'wall s':>8}{'TTFT error ms':>15}{'gap error %':>13}")
            tools = [name for name in TOOLS if programs[name] or name == "tgibench"]
            found = {
                name: measure(name, programs[name], server, streams, arguments.answers_each) for name in reversed(tools)
            }
            for name, (cpu_s, wall_s, ttft_ms, gap_percent) in found.items():
                times = cpu_s / found["tgibench"][0]
                print(f"{name:10}{cpu_s:8.1f}{times:12.1f}{wall_s:8.1f}{ttft_ms:15.2f}{gap_percent:13.3f}")


if __name__ == "__main__":
    main()
