"""What decoding costs for each token, one event a read: the protocols beside json.loads alone.

    python benchmarks/decoding_cost.py [--tokens 2000] [--repeats 60]

Prints the least and the median over the repeats, in microseconds of CPU a token, making the decoder and closing it included.
Both are measured in turns; on a shared machine the least is the one to compare.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time

import tgibench as tb
from tgibench.protocols import ResponseHead

STREAM = ResponseHead(200, {"content-type": "text/event-stream"})
TEXTS = (" the", " caf\u00e9", '"', "\n", " tokens", ",", " \U0001f600", " server")


def tgi_events(tokens):
    """As TGI 3.3 writes them."""
    for index in range(1, tokens + 1):
        token = {"id": 100 + index % 30_000, "text": TEXTS[index % 8], "logprob": -index / 7919, "special": False}
        ended = index == tokens
        details = {"finish_reason": "length", "generated_tokens": tokens, "seed": None, "input_length": 9}
        yield {
            "index": index,
            "token": token,
            "generated_text": "all" if ended else None,
            "details": details if ended else None,
        }


def chat_events(tokens):
    """As TGI 3.3 writes them."""
    head = {"object": "chat.completion.chunk", "id": "", "created": 1_700_000_000, "model": "tgi"}
    for index in range(1, tokens + 1):
        delta = {"role": "assistant", "content": TEXTS[index % 8]}
        reason = "length" if index == tokens else None
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        yield {**head, "system_fingerprint": "3.3.7-native", "choices": [choice], "usage": None}


def reads_of(events):
    """One event a read, compact and in UTF-8."""
    return [f"data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n".encode() for event in events]


def decode(protocol, reads):
    """One whole answer."""
    decoder = protocol.decoder(STREAM)
    for read in reads:
        decoder.feed(read)
    completion = decoder.close()
    assert completion.failure is None, completion


def parse(reads):
    """The JSON of each event and nothing else."""
    for read in reads:
        json.loads(read[6:-2])


def cpu_us(work, *arguments):
    """What one call costs."""
    start = time.process_time_ns()
    work(*arguments)
    return (time.process_time_ns() - start) / 1000


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2000, help="in each answer")
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    print(f"Python {platform.python_version()} on {platform.machine()} {sys.platform}; CPU microseconds a token")
    for protocol, events in ((tb.TgiProtocol(), tgi_events), (tb.OpenAIChatProtocol(), chat_events)):
        reads = reads_of(events(options.tokens))
        turns = [(cpu_us(decode, protocol, reads), cpu_us(parse, reads)) for _ in range(options.repeats)]
        for name, costs in zip((protocol.name, "  json.loads alone"), zip(*turns, strict=True), strict=True):
            least, median = min(costs) / options.tokens, statistics.median(costs) / options.tokens
            print(f"{name:20} least {least:6.2f}   median {median:6.2f}")
        print(f"{'  ratio of the least':20} {min(turn[0] for turn in turns) / min(turn[1] for turn in turns):12.2f}")


if __name__ == "__main__":
    main()
