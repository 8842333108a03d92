"""The process of a shard, as the topic's owner handles it."""

from __future__ import annotations

import socket
import subprocess
import sys

import msgspec

from pushsvc.worker.engine import ShardLost
from pushsvc.worker.shards.messages import MessageReader, Response

_SEND_BUFFER = 4_000_000


class ShardHandle:
    """Starts the process of shard ``number``; gives it up if it takes or answers nothing for ``timeout`` seconds.

    The constructor, ``send`` and ``receive`` raise ShardLost.
    """

    def __init__(self, number: int, timeout: float) -> None:
        self.number = number
        try:
            self._start()
            self.set_timeout(timeout)
        except OSError as error:
            raise ShardLost(f"shard {number} cannot be started: {error}") from error
        self._reader = MessageReader(self._socket, Response)

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pushsvc", "_shard", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )

    def set_timeout(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, message: bytes) -> None:
        try:
            self._socket.sendall(message)
        except OSError as error:
            raise ShardLost(f"shard {self.number} takes nothing: {error}") from error

    def receive(self) -> Response:
        """Return the next answer."""
        try:
            answer: Response = self._reader.read()
        except (EOFError, OSError, msgspec.MsgspecError) as error:
            raise ShardLost(f"shard {self.number} does not answer: {error or 'it has ended'}") from error
        return answer

    def end(self) -> None:
        """Kill the process; what it holds is in a checkpoint or in the log."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
