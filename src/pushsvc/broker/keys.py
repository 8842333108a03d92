"""The names of everything in Redis.

All keys and channels of a partition share one hash tag, so a cluster serves them from one slot. The tags are chosen
so that the 64 partitions spread evenly over the 16,384 slots.
"""

from binascii import crc_hqx
from itertools import count
from typing import NamedTuple

from pushsvc.topic import PARTITIONS, partition_of

SLOTS = 16_384
_SLOTS_PER_PARTITION = SLOTS // PARTITIONS


def slot_of(key: str) -> int:
    """Return a key's slot in a cluster: that of the hash tag in its first pair of braces, if there is one."""
    _, brace, rest = key.partition("{")
    tag, end, _ = rest.partition("}")
    return crc_hqx((tag if brace and end and tag else key).encode(), 0) % SLOTS


def _tag(partition: int) -> str:
    """Return the first ``<partition>x<n>`` whose slot is in the partition's share of the slots."""
    return next(
        tag
        for tag in (f"{partition}x{number}" for number in count())
        if slot_of(tag) // _SLOTS_PER_PARTITION == partition
    )


TAGS = tuple(_tag(partition) for partition in range(PARTITIONS))


class Log(NamedTuple):
    """The log of a topic's events, or of the statistics of its ``window``.

    It is a key of many dictionaries: a tuple hashes itself in a fifth of the time that a dataclass needs.
    """

    topic: str
    window: str | None = None

    @property
    def partition(self) -> int:
        return partition_of(self.topic)

    @property
    def name(self) -> str:
        return self.topic if self.window is None else f"{self.topic}.$stats.{self.suffix}"

    @property
    def suffix(self) -> str:
        """The window's name without spaces: Redis holds the names of a topic's windows separated by spaces."""
        return (self.window or "").replace(" ", "")


ENDED = "$ended."  # before the name of a deleted topic on a partition channel; no topic has a ``$`` in its name


def is_statistics(name: str) -> bool:
    """Return whether the log of that name has statistics: no topic has a ``$`` in its name."""
    return ".$stats." in name


class Keys:
    """Key and channel names with a common prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._names: dict[tuple[int, str], str] = {}
        self.ingest = f"{prefix}ingest:"  # prefix of the channels on which producers publish directly in Redis
        self.aggregators = f"{prefix}aggregators"  # sorted set: aggregator -> time in ms until which it is alive
        self.revoked = self._in(0, "revoked")  # sorted set: subject -> time in µs until which it is refused; a channel
        self.alerts = self._in(0, "alerts")  # hash: name of an alert -> its definition; a channel
        self.groups = self._in(0, "groups")  # set: groups of components
        self.layout = f"{prefix}layout"  # hash: partitions (their count) and version, see check_layout

    def _of(self, partition: int, rest: str) -> str:
        """Return a name of which a partition has one. Kept: publishers hold several for each topic."""
        return self._names.setdefault((partition, rest), self._in(partition, rest))

    def _in(self, partition: int, rest: str) -> str:
        return f"{self.prefix}{{{TAGS[partition]}}}:{rest}"

    def partition(self, partition: int) -> str:
        """Hash: run (id of the primary), epoch, sequence, born (the newest topic's first), owner, fence (its token)."""
        return self._of(partition, "partition")

    def topics(self, partition: int) -> str:
        """Hash: topic -> time of its creation in ms. Also the channel that announces new topics."""
        return self._of(partition, "topics")

    def changed(self, partition: int) -> str:
        """Sorted set: name of a log -> the sequence of its last change (its last entry, or its deletion)."""
        return self._of(partition, "changed")

    def remains(self, partition: int) -> str:
        """Hash: topic that ended -> what is kept of it for a while (see scripts/remains.lua)."""
        return self._of(partition, "remains")

    def wanted(self, partition: int) -> str:
        """Hash: name of a window's log -> until when its frames are wanted (ms), and its last frame before that."""
        return self._of(partition, "wanted")

    def alert_states(self, partition: int) -> str:
        """Hash: [alert, row] -> the state of the row; [alert, null] -> the position of a rule about events."""
        return self._of(partition, "alert-states")

    def alert_outbox(self, partition: int) -> str:
        """Hash: id -> event of a transition that is not yet in the log of alerts, as far as its owner knows."""
        return self._of(partition, "alert-outbox")

    def group(self, partition: int, group: str, what: str = "group") -> str:
        """What a partition holds of a group of components: ``group`` (hash: its owner and numbers), ``group-lease``
        (string with an expiry), ``positions`` (hash: topic -> offset and life), ``parked`` (hash: offset and topic ->
        event), ``timers`` (hash: id -> timer), ``timers-due`` (sorted set: id -> ms), ``outbox`` (hash: number ->
        emitted events), ``unknown`` (hash: topic and type -> count), ``replays`` (list of events)."""
        return self._of(partition, f"{what}:{group}")

    def component_states(self, group: str, topic: str) -> str:
        """Hash: key -> state of the key in a group of components."""
        return self._in(partition_of(topic), f"state:{group}:{topic}")

    def emitted(self, partition: int) -> str:
        """Hash: group of components and source partition -> number of the last events from there."""
        return self._of(partition, "emitted")

    def workers(self, group: str) -> str:
        """Sorted set: worker of a group of components -> time in ms until which it is alive."""
        return f"{self.prefix}workers:{group}"

    def lease(self, partition: int) -> str:
        """String with an expiry: the aggregator that owns the partition."""
        return self._of(partition, "lease")

    def log(self, log: Log) -> str:
        """Stream of entries; an entry's id is the offset of its last event."""
        return self._in(log.partition, f"log:{log.name}")

    def metadata(self, log: Log) -> str:
        """Hash: a log's first, last, trimmed, deleted, created, arrival and more."""
        return self._in(log.partition, f"figures:{log.name}")

    def ids(self, topic: str) -> tuple[str, str]:
        """Two hashes, id -> offset: the current ids, and those of the previous period."""
        partition = partition_of(topic)
        return self._in(partition, f"ids:{topic}"), self._in(partition, f"ids-before:{topic}")

    def latest(self, topic: str) -> tuple[str, str]:
        """Hash: key -> its newest event, as ``offset arrival event``; and a sorted set: key -> that offset."""
        partition = partition_of(topic)
        return self._in(partition, f"latest:{topic}"), self._in(partition, f"latest-order:{topic}")

    def index(self, topic: str) -> str:
        """Sorted set of the values of the indexed fields with the offsets of their events (see index_add.lua)."""
        return self._in(partition_of(topic), f"index:{topic}")

    def corrections(self, topic: str) -> str:
        """Hash: last offset of an entry with corrected events -> its current form (see correct.lua)."""
        return self._in(partition_of(topic), f"corrections:{topic}")

    def checkpoints(self, partition: int, kind: str = "checkpoint") -> str:
        """Hash: engine -> header of its last checkpoint. Of the kind ``lifetime``: topic -> header of the record of its
        window ``all``."""
        return self._of(partition, f"{kind}s")

    def pieces(self, partition: int, engine: str, place: int, kind: str = "checkpoint") -> str:
        """List: pieces of a checkpoint or record. The last one and the next one use the places 0 and 1 in turns."""
        return self._in(partition, f"{kind}:{engine}:{place}")

    def log_channel(self, log: Log) -> str:
        """Channel of a log: a LogNotification, or only a sequence, per append."""
        return self.named_log_channel(log.partition, log.name)

    def named_log_channel(self, partition: int, name: str) -> str:
        """Channel of the log of that name in a partition."""
        return self._in(partition, f"live:{name}")

    def rate(self, name: str, who: str) -> str:
        """String with an expiry: what is left of a rate of a subject or address, and since when (two doubles)."""
        return f"{self.prefix}rate:{name}:{who}"

    def streams(self, who: str) -> str:
        """Hash with an expiry: process -> the streams that it has reserved of a subject or address, and until when."""
        return f"{self.prefix}streams:{who}"

    def partition_channel(self, partition: int) -> str:
        """Channel of a partition, for its aggregator: the topic of each append."""
        return self._of(partition, "wake")
