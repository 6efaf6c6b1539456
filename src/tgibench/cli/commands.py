"""The command's group. Each of its commands is imported when it is asked for: none waits for the modules of the others."""

from __future__ import annotations

import importlib

import click

import tgibench as tb

__all__ = ["tgibench"]

_COMMANDS = ("calibrate", "cleanup", "demo", "emulate", "predict", "prices", "report", "run", "show")


class _Group(click.Group):
    """Finds a command in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"tgibench.cli.{cmd_name}"), cmd_name)
        return command


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tb.__version__)
def tgibench() -> None:
    """Measure and choose how to serve large language models."""
