"""A followed log: its consumers, where its next read continues, and whether its notifications can be trusted."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from pushsvc.broker.keys import Log
from pushsvc.broker.log import FROM_SNAPSHOT, NO_ENTRIES, LogEntry
from pushsvc.errors import PushError
from pushsvc.hub.feed.few import Few, excluding, including
from pushsvc.hub.messages import Rendering
from pushsvc.hub.window_state import WindowState
from pushsvc.pause import Pause

REPLAY_AFTER_RESET = 1_000  # the most events that are sent of the rest of a log after a reset


class Joiner(Protocol):
    """Is told once it has everything of the logs that it joined. ``on_read`` may raise."""

    def on_read(self, logs: Iterable[Log]) -> None:
        """Note that logs were read, with or without entries: some that this consumer is registered for."""

    def fail(self) -> None:
        """End after an error of our own."""


class LogConsumer(Joiner, Protocol):
    """Gets the entries of the logs for which it is registered at a follower. All but ``fail`` may raise."""

    def take(self, partition: int, batch: Sequence[tuple[Log, LogEntry]], rendering: Rendering) -> None:
        """Process entries of a partition, which come in order of sequence. At least one."""

    def prepare_messages(self, batch: Sequence[tuple[Log, LogEntry]], rendering: Rendering, pause: Pause) -> None:
        """Make in slices what ``take`` sends of large frames of statistics. ``take`` follows, or the consumer left."""

    def note_taken(self, partition: int, sequence: int) -> None:
        """Note that this consumer has a partition up to a sequence, while others still get their entries."""

    def reset(self, of: Log, reason: str) -> None:
        """Note that a log starts over: its entries so far may come again or be lost."""

    def refuse(self, reason: PushError) -> None:
        """End: the process has no room for a log."""

    def skip(self, of: Log, offset: int) -> None:
        """Ignore the entries of a log up to an offset: they come because another consumer reads them."""


class Tail:
    """Where the next read of a log continues: ``after`` an offset, FROM_SNAPSHOT or NO_ENTRIES.

    A tail is ``continuous`` while every entry after the last one arrives as a notification. Nothing of its log is
    missing up to the sequence ``complete``; ``changed`` is the sequence of its last entry up to there, or of its
    deletion (None: unknown). It is ``catching_up`` until its log was read as far as the other logs of its partition,
    and up to ``end``.

    It is ``loading`` while its window is taken over in slices. Until then it is not read.

    It is ``stale`` while its window has no frame that was written since this process asked for it.

    ``counted`` are the bytes of its rows in the tally of the process.

    ``starting_at_end`` are the consumers that ignore what the next read finds, ``created_while_followed`` is true for
    a log whose topic was created while a consumer was subscribed.
    """

    __slots__ = (
        "after", "catching_up", "changed", "complete", "consumers", "continuous", "counted", "created_while_followed",
        "deleted", "end", "loading", "log", "stale", "starting_at_end", "trimmed", "window_state",
    )  # fmt: skip

    def __init__(self, of: Log) -> None:
        self.log = of
        self.consumers: Few[LogConsumer] = ()
        self.starting_at_end: Few[LogConsumer] = ()
        self.window_state = WindowState(of) if of.window is not None else None
        self.trimmed = self.deleted = 0
        self.counted = 0
        self.continuous = False
        self.stale = False
        self.created_while_followed = False
        self.rewind()

    def add(self, consumers: Iterable[LogConsumer]) -> None:
        for consumer in consumers:
            self.consumers = including(self.consumers, consumer)

    def add_at_end(self, consumers: Iterable[LogConsumer]) -> None:
        """Let consumers ignore what the next read finds."""
        for consumer in consumers:
            self.starting_at_end = including(self.starting_at_end, consumer)

    def discard(self, consumer: LogConsumer) -> None:
        self.consumers = excluding(self.consumers, consumer)

    def refuse(self, reason: PushError) -> None:
        """End the consumers: the process has no room for the rows."""
        for consumer in tuple(self.consumers):
            consumer.refuse(reason)

    def rewind(self, last: int | None = None) -> None:
        """Start over: at the last snapshot, or for events at the end or at most some before the offset ``last``."""
        self.catching_up = True
        self.loading = False
        self.complete = self.end = 0
        self.changed: int | None = None
        self.starting_at_end = ()
        if self.window_state is not None:
            self.window_state = WindowState(self.log)
            self.after = FROM_SNAPSHOT
        else:
            self.after = NO_ENTRIES if last is None else max(0, last - REPLAY_AFTER_RESET)
