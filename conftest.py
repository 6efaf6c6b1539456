"""Runs the Python code blocks of README and docs as tests."""

from __future__ import annotations

import sys
import types

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser


class Page(types.ModuleType):
    """A page's code as a module of its own, so that what it defines can be pickled as from any file."""

    def __init__(self, namespace: dict[str, object]) -> None:
        super().__init__("page")
        self._namespace = namespace

    def __getattr__(self, name: str) -> object:
        try:
            return self._namespace[name]
        except KeyError:
            raise AttributeError(name) from None


def begin(namespace: dict[str, object]) -> None:
    """A page begins."""
    namespace["__name__"] = "page"
    sys.modules["page"] = Page(namespace)


pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"], setup=begin).pytest()
