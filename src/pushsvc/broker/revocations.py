"""The subjects whose access was revoked, in Redis."""

from dataclasses import dataclass

from pushsvc.broker import script
from pushsvc.broker.connection_pool import Connections
from pushsvc.broker.keys import Keys
from pushsvc.errors import TooManyRevocations

_PAGE = 1_000  # subjects of one read


@dataclass(frozen=True, slots=True)
class RevocationLimits:
    """``kept``: for how many seconds a revocation is remembered. ``revoked``: the most subjects that are."""

    kept: int = 30 * 86_400
    revoked: int = 100_000


_LIMITS = RevocationLimits()


class RevocationStore:
    """Methods raise errors of ``pushsvc.errors``. Times are in epoch seconds, of the clock of Redis."""

    def __init__(self, keys: Keys, connections: Connections, limits: RevocationLimits = _LIMITS) -> None:
        self.limits = limits
        self.channel = keys.revoked
        self._keys = keys
        self._connections = connections

    def revoke(self, subject: str) -> float:
        """Refuse the tokens of a subject that were issued until now; return the time. Raise TooManyRevocations."""
        arguments = [
            self._connections.publish_command, self.channel, subject, self.limits.kept * 1_000_000, self.limits.revoked,
        ]  # fmt: skip
        time = self._connections.call(script.REVOKE, [self._keys.revoked], arguments)
        if time == b"full":
            raise TooManyRevocations(
                f"{self.limits.revoked} subjects are revoked, as many as are remembered: end other tokens by a new key"
            )
        return int(time) / 1e6

    @staticmethod
    def parse(message: bytes) -> tuple[str, float]:
        """Return the subject and the time of a notification."""
        time, _, subject = message.decode().partition(" ")
        return subject, int(time) / 1e6

    def read(self) -> dict[str, float]:
        """Return the subjects whose access was revoked, each with the time."""
        found: dict[str, float] = {}
        after = "-inf"
        while True:
            # By time, from the last one on: places move when old ones are dropped. A subject that is revoked again
            # moves to the end.
            page = self._connections.command(
                "ZRANGE", self._keys.revoked, after, "+inf", "BYSCORE", "LIMIT", 0, _PAGE, "WITHSCORES"
            )
            found.update(
                (subject.decode(), float(time) / 1e6) for subject, time in zip(page[::2], page[1::2], strict=True)
            )
            if len(page) < 2 * _PAGE or page[-1].decode() == after:
                return found
            after = page[-1].decode()
