"""What Amazon's frames add to decoding a stream, one frame and one event a read: SageMaker's decoder beside the inner protocol's.

    python benchmarks/event_stream_cost.py [--tokens 2000] [--repeats 60]

Prints the least and the median over the repeats, in microseconds of CPU a frame; botocore's own parser (the frames alone, without
the events in them) beside it. All are measured in turns; on a shared machine the least is the one to compare.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys

from botocore.eventstream import EventStreamBuffer
from decoding_cost import chat_events, cpu_us, decode, reads_of, tgi_events

import tgibench as tb
from tgibench.protocols import ResponseHead
from tgibench.protocols._event_stream import MEDIA_TYPE, encode_frame

HEADERS = {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}


class Framed:
    """SageMaker's protocol as `decode` wants it."""

    def __init__(self, inner):
        self._protocol = tb.SageMakerProtocol(endpoint_name="e", inner=inner)

    def decoder(self, head):
        """A decoder for frames."""
        return self._protocol.decoder(ResponseHead(head.status, {"content-type": MEDIA_TYPE}))


def theirs(frames):
    """botocore's parser over the same frames."""
    buffer = EventStreamBuffer()
    for frame in frames:
        buffer.add_data(frame)
        for event in buffer:
            assert event.payload


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2000, help="in each answer")
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    print(f"Python {platform.python_version()} on {platform.machine()} {sys.platform}; CPU microseconds a frame")
    for inner, events in ((tb.TgiCompatProtocol(), tgi_events), (tb.OpenAIChatProtocol(), chat_events)):
        reads = reads_of(events(options.tokens))
        frames = [encode_frame(HEADERS, read) for read in reads]
        framed = Framed(inner)
        turns = [
            (cpu_us(decode, framed, frames), cpu_us(decode, inner, reads), cpu_us(theirs, frames))
            for _ in range(options.repeats)
        ]
        names = (f"sagemaker:{inner.name}", f"  {inner.name} alone", "  botocore, frames alone")
        for name, costs in zip(names, zip(*turns, strict=True), strict=True):
            least, median = min(costs) / options.tokens, statistics.median(costs) / options.tokens
            print(f"{name:24} least {least:6.2f}   median {median:6.2f}")
        least = (min(turn[0] for turn in turns) - min(turn[1] for turn in turns)) / options.tokens
        median = statistics.median(turn[0] - turn[1] for turn in turns) / options.tokens
        print(f"{'  what frames add':24} least {least:6.2f}   median {median:6.2f}")


if __name__ == "__main__":
    main()
