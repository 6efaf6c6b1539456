"""The version, read from the installed package's metadata when asked for."""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("tgibench")
