"""The names that modules export: real, documented, and the same for a type checker as for Python."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import tgibench as tb

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(tb.__path__, "tgibench.") if not module.name.endswith("__main__")
)


def names_for_type_checkers():
    """What the package's `if TYPE_CHECKING` block imports, as ``{name: (module, name there)}``."""
    tree = ast.parse(Path(inspect.getfile(tb)).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name: (statement.module, alias.name)
        for statement in block.body
        for alias in statement.names
    }


def test_type_checkers_see_exactly_the_names_that_are_there():
    """The imports for type checkers are those of `__all__`, no more and no fewer."""
    assert set(names_for_type_checkers()) == set(tb.__all__)


def test_type_checkers_see_each_name_at_its_home():
    """A name looked up at run time is the very object that a type checker follows."""
    for name, (module, there) in names_for_type_checkers().items():
        found = getattr(importlib.import_module(module), there, None) or importlib.import_module(f"{module}.{there}")
        assert getattr(tb, name) is found, name


def test_every_public_class_and_function_has_a_docstring():
    """Whoever asks `help` for a public name gets an answer."""
    named = {name: getattr(tb, name) for name in tb.__all__}
    assert [
        n for n, x in named.items() if (inspect.isclass(x) or inspect.isfunction(x)) and not inspect.getdoc(x)
    ] == []


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_exports_is_there(name):
    """Each name in a module's `__all__` exists, and stands there once."""
    module = importlib.import_module(name)
    exported = list(getattr(module, "__all__", ()))
    assert [entry for entry in exported if not hasattr(module, entry)] == []
    assert len(exported) == len(set(exported))
