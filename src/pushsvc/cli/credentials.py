"""The server that commands use, and the token that they present: never on a command line, which others can read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pushsvc.cli.options import option
from pushsvc.errors import StartupError

if TYPE_CHECKING:
    from pushsvc_client.credentials import Token

url_option = option(
    "--url", default="http://127.0.0.1:8000", show_default=True, metavar="URL", help="The server to use."
)

token_option = option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the token or API key to present; read again when it is refused. [default: $PUSHSVC_TOKEN]",
)


def token_from(file: Path | None) -> Token | None:
    """Return the token of the environment, or a function that reads that of a file; None without any. For a text that
    is no token StartupError is raised, here or by the function."""
    if file is None:
        text = os.environ.get("PUSHSVC_TOKEN", "").strip()
        return _checked(text, "PUSHSVC_TOKEN") if text else None

    def read() -> str:
        try:
            text = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StartupError(f"cannot read the token in {file}: {error}") from error
        return _checked(text, str(file))

    return read


def _checked(text: str, place: str) -> str:
    from pushsvc_client.credentials import check_token

    try:
        return check_token(text)
    except ValueError as error:
        raise StartupError(f"{place}: {error}") from None
