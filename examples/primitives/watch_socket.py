"""Watch the events of a topic with nothing but a socket, as a browser's EventSource does.

python watch_socket.py http://127.0.0.1:8000 sensors [HOW_MANY]
"""

import itertools
import json
import socket
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit


def watch(url: str, topic: str, last_id: str = "") -> Iterator[dict[str, object]]:
    """Yield events, those after ``last_id`` first (``earliest``: all). A cut connection costs none and repeats none."""
    while True:
        try:
            for id, data in _messages(url, topic, last_id):
                last_id = id
                if data:
                    yield json.loads(data)
        except OSError as error:
            print(f"{error}: trying again", file=sys.stderr)
        time.sleep(2)


def _messages(url: str, topic: str, last_id: str) -> Iterator[tuple[str, str]]:
    """Yield the id and the data of each message of one connection. The id is where the next connection resumes."""
    address = urlsplit(url)
    request = f"GET /v1/topics/{topic}/events HTTP/1.0\r\nHost: {address.netloc}\r\nAccept: text/event-stream\r\n"
    if last_id:
        request += f"Last-Event-ID: {last_id}\r\n"
    # The server sends a line at least every 15 seconds: silence means that the connection is dead.
    with socket.create_connection((address.hostname, address.port or 80), timeout=60) as connection:
        connection.sendall(f"{request}\r\n".encode())
        lines = connection.makefile("rb")
        status = lines.readline()
        while lines.readline().strip():
            pass  # the headers
        if b" 200 " not in status:
            raise SystemExit(status.decode() + lines.read().decode())
        data: list[str] = []
        for line in lines:
            # Lines of a message are `field: value`; an empty one ends it; a comment has no field.
            field, _, value = line.decode().rstrip("\n").partition(":")
            value = value.removeprefix(" ")
            if field == "id":
                last_id = value
            elif field == "data":
                data.append(value)
            elif not field and not value and line == b"\n":
                yield last_id, "\n".join(data)
                data = []


if __name__ == "__main__":
    wanted = int(sys.argv[3]) if len(sys.argv) > 3 else None
    for event in itertools.islice(watch(sys.argv[1], sys.argv[2], "earliest"), wanted):
        print(json.dumps(event), flush=True)
