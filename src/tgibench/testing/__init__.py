"""What those who extend tgibench test with: the contracts of backends and protocols, and servers of known behaviour.

A contract is a class of tests. Derive one in a file that pytest collects and say what it is about::

    class TestMyProtocol(ProtocolContract):
        protocol = MyProtocol()
        answers = (Answer(body=..., end=..., text=...),)

The tests are plain functions that raise `AssertionError` with a sentence: nothing here imports pytest, and any runner will do.
"""

from __future__ import annotations

from tgibench.testing.backend_contract import BackendContract
from tgibench.testing.fakes import FakeServer
from tgibench.testing.protocol_contract import Answer, ProtocolContract
from tgibench.testing.scripted_server import ABORT, RESET, scripted_server

__all__ = ["ABORT", "RESET", "Answer", "BackendContract", "FakeServer", "ProtocolContract", "scripted_server"]
