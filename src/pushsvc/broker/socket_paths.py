"""Paths that are short enough for Unix sockets."""

import os
import tempfile

SOCKET_PATH_LIMIT = 100  # bytes; kernels allow a few more, but servers and clients disagree about how many
_LONGEST_NAME = 40  # bytes of a temporary folder and the socket in it


def fits_socket(path: str | os.PathLike[str]) -> bool:
    """Return whether a Unix socket may have this path."""
    return len(os.fsencode(path)) <= SOCKET_PATH_LIMIT


def folder_for_sockets() -> str:
    """Return where to make temporary folders with sockets: ``TMPDIR``, or ``/tmp`` if that path is too long."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) + 1 + _LONGEST_NAME <= SOCKET_PATH_LIMIT else "/tmp"
