"""Which tokens are refused because the access of their subject was revoked."""

from collections.abc import Callable

from pushsvc.auth.grants import Grants


class Revocations:
    """The subjects whose access was revoked, each with the time (epoch seconds) until which its tokens are refused.

    A subject's later tokens are accepted. ``generation`` grows with every change, so grants that were checked need
    not be checked again while it stays the same. While the list is not ``known``, ``load`` gets it, or raises
    Unavailable.
    """

    __slots__ = ("_times", "generation", "known", "load")

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self.generation = 0
        self.known = True
        self.load: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._times)

    def refuses(self, grants: Grants) -> bool:
        """Return whether grants come from a token of before the revocation of its subject, or of an unknown time."""
        time = self._times.get(grants.subject)
        return time is not None and (grants.issued is None or grants.issued <= time)

    def add(self, subject: str, time: float) -> bool:
        """Refuse the tokens of a subject that were issued until ``time``; return whether that is new."""
        if self._times.get(subject, 0.0) >= time:
            return False
        self._times[subject] = time
        self.generation += 1
        return True

    def complete(self, oldest: float) -> None:
        """Note that the whole list was added, and forget all before ``oldest``: no token from then is valid."""
        self._times = {subject: time for subject, time in self._times.items() if time >= oldest}
        self.known = True
