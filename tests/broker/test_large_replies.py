"""A large reply of Redis arrives, and the event loop serves others meanwhile."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
from gevent import monkey

monkey.patch_all()
import sys

import gevent
from pushsvc.broker import redis_connection
from pushsvc.broker.connection_pool import ConnectionPool

url, key = sys.argv[1:]
connections = ConnectionPool(url)
connections.command("SETRANGE", key, 20_000_000, "x")
reads = longest = 0
read_from_socket = redis_connection._Parser.read_from_socket

def count(self, *args, **options):
    global reads, longest
    reads += 1
    longest = max(longest, reads)
    return read_from_socket(self, *args, **options)

def turn():
    global reads
    while True:
        reads = 0
        gevent.get_hub().wait(gevent.get_hub().loop.timer(0))

redis_connection._Parser.read_from_socket = count
gevent.spawn(turn)
print(len(connections.command("GET", key)), longest)
connections.command("DEL", key)
"""


def test_the_event_loop_has_turns_while_a_large_reply_arrives(redis_url: str, prefix: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, redis_url, f"{prefix}large"], capture_output=True, text=True, check=True
    )
    size, longest = map(int, done.stdout.split())
    assert size == 20_000_001
    assert longest <= 32, "reads of 64 KB in one turn"
