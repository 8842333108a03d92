"""Publish an event with nothing but a socket.

python publish_socket.py http://127.0.0.1:8000 sensors '{"key": "kitchen", "celsius": 21.5}'
"""

import json
import socket
import sys
from urllib.parse import urlsplit


def publish(url: str, topic: str, event: dict[str, object]) -> dict[str, object]:
    """Return the receipt of an event; raise SystemExit with the answer if the server refuses it."""
    address = urlsplit(url)
    body = json.dumps(event).encode()
    head = (
        f"POST /v1/topics/{topic}/events HTTP/1.1\r\n"
        f"Host: {address.netloc}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n"
        "\r\n"
    )
    with socket.create_connection((address.hostname, address.port or 80), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        # A stream of bytes knows no messages: the answer may arrive in pieces, and ends when the server closes.
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split()[1] != b"202":
        raise SystemExit(answer.decode())
    return json.loads(body)


if __name__ == "__main__":
    print(publish(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
