"""One way to check everything: `nox` runs all sessions, `nox -s tests -- -k sweeps` some of the tests."""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.10.9"
nox.options.error_on_missing_interpreters = True
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")


def _install(session: nox.Session, *groups: str) -> None:
    dependencies = [name for group in groups for name in nox.project.dependency_groups(PROJECT, group)]
    session.install(".[cli,dask,docker,report,twin]", *dependencies)


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint and import layers."""
    _install(session, "dev")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports")


@nox.session
def typing(session: nox.Session) -> None:
    """Types, strictly; and the public signatures as callers see them."""
    _install(session, "dev")
    session.run("mypy")
    session.run("mypy", "tests/typing/api.py")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests against the installed package, examples and the code in README and docs included."""
    _install(session, "dev")
    arguments = session.posargs or [
        "-n",
        "2",
        "--dist=loadfile",
        "--cov=tgibench",
        "--cov-branch",
        "--cov-report=term:skip-covered",
    ]
    session.run("pytest", *arguments)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    _install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def size(session: nox.Session) -> None:
    """The core installation, dependencies included, stays below 100 MB."""
    session.install(".")
    measured = (
        "import pathlib, sysconfig; root = pathlib.Path(sysconfig.get_path('purelib'));"
        "installers = ('pip', 'setuptools', 'wheel', 'pkg_resources', '_distutils_hack');"
        "kept = [p for p in root.iterdir() if not p.name.startswith(installers)];"
        "files = [f for p in kept for f in ([p] if p.is_file() else p.rglob('*')) if f.is_file()];"
        "megabytes = sum(f.stat().st_size for f in files) / 1e6;"
        "assert files; print(f'{megabytes:.0f} MB'); raise SystemExit(megabytes >= 100)"
    )
    session.run("python", "-c", measured)
