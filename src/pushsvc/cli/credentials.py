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
    """Return the token of a file, or of the environment; None without any."""
    if file is None:
        return os.environ.get("PUSHSVC_TOKEN", "").strip() or None

    def read() -> str:
        try:
            return file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StartupError(f"cannot read the token in {file}: {error}") from error

    return read
