"""The subjects whose access was revoked, in Redis."""

from collections.abc import Iterator

from pushsvc.broker import script
from pushsvc.broker.connection_pool import Connections
from pushsvc.broker.keys import Keys
from pushsvc.errors import TooManyRevocations

_PAGE = 1_000  # subjects of one read


MOST_REVOKED = 100_000
"""Subjects whose revocation is remembered, at most: each takes about 150 bytes in Redis and in each process."""


class RevocationStore:
    """Methods raise errors of ``pushsvc.errors``. Times are in epoch seconds, of the clock of Redis."""

    def __init__(self, keys: Keys, connections: Connections, most: int = MOST_REVOKED) -> None:
        self.channel = keys.revoked
        self._most = most
        self._keys = keys
        self._connections = connections

    def revoke(self, subject: str, kept: float) -> float:
        """Refuse the tokens of a subject that were issued until now, for ``kept`` seconds; return the time.

        Raise TooManyRevocations.
        """
        arguments = [
            self._connections.publish_command, self.channel, subject, int(kept * 1e6), self._most,
        ]  # fmt: skip
        time = self._connections.call(script.REVOKE, [self._keys.revoked], arguments)
        if time == b"full":
            raise TooManyRevocations(
                f"{self._most} subjects are revoked, as many as are remembered: end other tokens by a new key"
            )
        return int(time) / 1e6

    @staticmethod
    def parse(message: bytes) -> tuple[str, float]:
        """Return the subject and the time of a notification."""
        time, _, subject = message.decode().partition(" ")
        return subject, int(time) / 1e6

    def read(self) -> Iterator[dict[str, float]]:
        """Yield the subjects whose access was revoked, each with the time, in pages."""
        after = "-inf"
        while True:
            # By time, from the last one on: places move when old ones are dropped. A subject that is revoked again
            # moves to the end.
            page = self._connections.command(
                "ZRANGEBYSCORE", self._keys.revoked, after, "+inf", "WITHSCORES", "LIMIT", 0, _PAGE
            )
            yield {subject.decode(): float(time) / 1e6 for subject, time in zip(page[::2], page[1::2], strict=True)}
            if len(page) < 2 * _PAGE or page[-1].decode() == after:
                return
            after = page[-1].decode()
