"""``python -m tests.hostile.crowd``, run in the project's folder: very many streams opened as fast as the machine can.

Several processes open them from addresses of their own, as an address has some 28,000 ports. Meanwhile this process
publishes to another topic. Prints what became of the streams, how long publishes took, and the descriptors of each web
process. Exits with 1 if a stream was refused or cut, or a publish was not accepted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import select
import socket
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile.calls import post
from hostile.site import Site
from hostile.watch import memory

_REQUEST = b"GET /v1/topics/hostile-crowd/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
_BIND_WITHOUT_PORT = 24  # IP_BIND_ADDRESS_NO_PORT: the port is chosen by connect, which may use one for several peers
_REFUSED = b": too many"
_SERVED = 60.0  # seconds for the last answers
_PAUSE = 0.05


class Crowd:
    """Streams of one client address. Each is waiting for its connection, its answer, open, or ended."""

    def __init__(self, address: str, port: int) -> None:
        self._address, self._port = address, port
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._connecting: set[int] = set()
        self.open: set[int] = set()
        self.ended = 0

    def add(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_WITHOUT_PORT, 1)
        sock.bind((self._address, 0))
        sock.connect_ex(("127.0.0.1", self._port))
        self._sockets[sock.fileno()] = sock
        self._connecting.add(sock.fileno())
        self._poll.register(sock.fileno(), select.EPOLLOUT)

    @property
    def is_answered(self) -> bool:
        return len(self.open) == len(self._sockets)

    def turn(self, seconds: float) -> None:
        """Send and read what the sockets can take and have."""
        for number, _ in self._poll.poll(seconds, 1_000):
            try:
                self._serve(number)
            except OSError:
                self._end(number)

    def _serve(self, number: int) -> None:
        sock = self._sockets[number]
        if number in self._connecting:
            self._connecting.discard(number)
            sock.sendall(_REQUEST)
            self._poll.modify(number, select.EPOLLIN)
            return
        data = sock.recv(4_096)
        if not data or _REFUSED in data:
            self._end(number)
        else:
            self.open.add(number)

    def _end(self, number: int) -> None:
        self.ended += 1
        self.open.discard(number)
        self._poll.unregister(number)
        self._sockets.pop(number).close()


def _run(address: str, port: int, streams: int, pipe: Connection) -> None:
    """Open streams; report how many are open and ended, and after how many seconds, until told to end."""
    crowd, begun = Crowd(address, port), time.monotonic()
    for number in range(streams):
        crowd.add()
        if number % 50 == 0:
            crowd.turn(0.0)
    end = time.monotonic() + _SERVED
    while not crowd.is_answered and time.monotonic() < end:
        crowd.turn(0.1)
    seconds = time.monotonic() - begun
    end = time.monotonic() + 1.0  # in which none may end
    while time.monotonic() < end:
        crowd.turn(0.1)
    pipe.send((len(crowd.open), crowd.ended, seconds))
    pipe.recv()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.crowd", description=__doc__)
    parser.add_argument("--streams", type=int, default=80_000, help="[default: 80000]")
    parser.add_argument("--addresses", type=int, default=5, help="processes that open them [default: 5]")
    parser.add_argument("--workers", type=int, default=6, help="web processes [default: 6]")
    given = parser.parse_args()
    write, folder = sys.stdout.write, Path(tempfile.mkdtemp(prefix="hostile-crowd-"))
    options = "--workers", str(given.workers), "--max-connections", str(2 * given.streams)
    with Site(folder, *options) as site:
        pipes = []
        for number in range(given.addresses):
            ours, theirs = multiprocessing.Pipe()
            arguments = f"127.0.0.{number + 10}", site.port, given.streams // given.addresses, theirs
            multiprocessing.Process(target=_run, args=arguments, daemon=True).start()
            pipes.append(ours)
        publishes = []
        while not all(pipe.poll() for pipe in pipes):
            begun = time.monotonic()
            status = post(site.url, "hostile-crowd-beside", b'{"n":1}').status
            publishes.append((time.monotonic() - begun, status))
            time.sleep(_PAUSE)
        answers = [pipe.recv() for pipe in pipes]
        opened, ended = sum(answer[0] for answer in answers), sum(answer[1] for answer in answers)
        write(f"{opened} streams are open after {max(answer[2] for answer in answers):.1f} s, {ended} ended\n")
        times = sorted(seconds for seconds, _ in publishes)
        refused = sum(status != 202 for _, status in publishes)
        write(
            f"{len(publishes)} publishes, {refused} not accepted: median {times[len(times) // 2] * 1_000:.0f} ms, "
            f"p99 {times[int(len(times) * 0.99)] * 1_000:.0f} ms, longest {times[-1] * 1_000:.0f} ms\n"
        )
        for pid in site.web():
            write(f"web process {pid}: {len(os.listdir(f'/proc/{pid}/fd'))} descriptors, {memory(pid):.0f} MB\n")
        whole = opened == given.streams // given.addresses * given.addresses and not refused and site.is_alive()
        for pipe in pipes:
            pipe.send("end")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
