"""The program ``pushsvc`` and its commands."""

from __future__ import annotations

from typing import Any

import click

from pushsvc import __version__
from pushsvc.cli import child_commands, client_commands, server_commands
from pushsvc.errors import PushError


class _Program(click.Group):
    """Prints a PushError as one line and exits with code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PushError as error:
            raise click.ClickException(error.detail) from error


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pushsvc")
def program() -> None:
    """Publish events and watch rolling statistics of them live in the browser."""


for _command in (*server_commands.COMMANDS, *client_commands.COMMANDS, *child_commands.COMMANDS):
    program.add_command(_command)
