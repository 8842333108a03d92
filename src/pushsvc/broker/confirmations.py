"""Which subscriptions Redis has confirmed."""

from gevent.event import Event


class Confirmations:
    """The channels whose subscription is confirmed: every message on them arrives from now on.

    An event exists only while something waits for it: a process may have a million channels.
    """

    def __init__(self) -> None:
        self._confirmed: set[str] = set()
        self._awaited: dict[str, Event] = {}

    def __contains__(self, channel: str) -> bool:
        return channel in self._confirmed

    def add(self, channel: str) -> None:
        self._confirmed.add(channel)
        if (event := self._awaited.pop(channel, None)) is not None:
            event.set()

    def discard(self, channel: str) -> None:
        """Note that messages on a channel may not arrive until it is confirmed again."""
        self._confirmed.discard(channel)

    def wait(self, channel: str, timeout: float | None) -> bool:
        """Wait until a channel is confirmed; return whether it is."""
        if channel not in self._confirmed:
            event = self._awaited.setdefault(channel, Event())
            try:
                event.wait(timeout)
            finally:
                if not event.linkcount() and self._awaited.get(channel) is event:  # the last one has given up
                    del self._awaited[channel]
        return channel in self._confirmed


class Confirmation:
    """The confirmation of one channel."""

    __slots__ = ("_channel", "_confirmations")

    def __init__(self, confirmations: Confirmations, channel: str) -> None:
        self._confirmations = confirmations
        self._channel = channel

    def is_set(self) -> bool:
        return self._channel in self._confirmations

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the channel is confirmed; return whether it is."""
        return self._confirmations.wait(self._channel, timeout)
