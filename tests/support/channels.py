"""Channels without a hub or a broker."""

from pushsvc.hub.delivery.channel import Channel
from pushsvc.hub.delivery.wheel import Clock
from pushsvc.hub.delivery.writer import FanoutWriter


class StubRecovery:
    """A recovery without positions. A connection that lost its place is closed and noted in ``recovered``."""

    def __init__(self):
        self.recovered = []
        self.position = None
        self.moves_silently = False

    def cursor(self):
        return self.position

    def is_far(self, chunk):
        return False

    def recover(self, connection, chunk):
        self.recovered.append(connection)
        connection.close()


class Site:
    """A channel with its writer, clock and recovery; ``left`` and ``failed`` count its callbacks."""

    def __init__(self, limits=None, *, io_uring=True):
        self.writer = FanoutWriter(limits, io_uring=io_uring)
        self.clock, self.recovery = Clock(), StubRecovery()
        self.left = self.failed = 0
        self.channel = Channel(self.writer, self.clock, self.recovery, self._on_left, self._on_failed, name="a test")

    def _on_left(self):
        self.left += 1

    def _on_failed(self, _recovery):
        self.failed += 1
        for connection in list(self.channel.roster.members):
            connection.end(b"failed\n")

    def close(self):
        for connection in list(self.channel.roster.members):
            connection.close()
        self.writer.close()
