"""The shipped fakes, under the name by which tests know them."""

from __future__ import annotations

from tgibench.testing.fakes import FakeServer, exchange

__all__ = ["FakeServer", "exchange"]
