"""Groups of components in Redis: who owns a partition of a group, how far it is, and what its handlers did.

Everything that handlers do with events of a partition is in this partition, so one script stores it. Events that they
emit go to other partitions from an outbox, after that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pushsvc.broker import script
from pushsvc.broker.append import Emission
from pushsvc.broker.connection_pool import Connections
from pushsvc.broker.keys import Keys
from pushsvc.broker.replies import as_text, raise_first
from pushsvc.broker.script import RUN, ComponentCommitArguments, ScriptCall
from pushsvc.errors import Fenced, PushError
from pushsvc.topic import partition_of

_MOST_ARGUMENTS = 2_000  # of one command: Lua's stack is bounded
_COUNTS = ("handled", "failures", "dead", "trimmed")
TOTALS = ("parked", "timers", *_COUNTS)
MOST_REPLAYS = 10_000  # events that wait in a partition to be replayed


class EmittedBatch(msgspec.Struct, array_like=True):
    """Events for one topic, as ``Batch`` has them."""

    topic: str
    data: bytes
    count: int
    ids: list[str] | None
    times: list[int | None] | None


@dataclass(frozen=True, slots=True)
class GroupOwner:
    """The owner of a partition of a group, and the epoch that it knows."""

    group: str
    partition: int
    fence: int
    epoch: int


@dataclass(slots=True)
class StoredGroup:
    """What Redis holds of a partition of a group. ``begin`` is the sequence with which the group began (None: it is
    new), ``positions`` are an offset and the creation (ms) of each topic; ``outbox`` has the emitted events by number.
    """

    epoch: int
    number: int
    begin: int | None
    positions: dict[str, tuple[int, int]]
    parked: dict[bytes, bytes]
    timers: int
    due: int | None
    outbox: dict[int, list[EmittedBatch]]
    unknown: set[str]
    sequence: int


@dataclass(slots=True)
class Changes:
    """Commands for the keys of a group in a partition, all or nothing."""

    keys: list[str] = field(default_factory=list)
    arguments: list[str | int | bytes] = field(default_factory=list)

    def set_fields(self, key: str, fields: Mapping[str, bytes] | Mapping[bytes, bytes]) -> None:
        """Set fields of a hash; b"" removes one."""
        self._add(key, "HSET", [word for pair in fields.items() if pair[1] for word in pair])
        self._add(key, "HDEL", [name for name, value in fields.items() if not value])

    def remove_fields(self, key: str, names: Sequence[str | bytes | int]) -> None:
        self._add(key, "HDEL", names)

    def count(self, key: str, name: str, amount: int) -> None:
        """Add to a number in a hash."""
        self._add(key, "HINCRBY", [name, amount] if amount else ())

    def set_times(self, key: str, times: Mapping[bytes, int]) -> None:
        """Set members of a sorted set with their times (ms)."""
        self._add(key, "ZADD", [word for name, time in times.items() for word in (time, name)])

    def remove_times(self, key: str, names: Sequence[bytes]) -> None:
        self._add(key, "ZREM", names)

    def drop_first(self, key: str, count: int) -> None:
        """Remove the first elements of a list."""
        self._add(key, "LTRIM", [count, -1])

    def remove(self, key: str) -> None:
        self._add(key, "UNLINK", [], always=True)

    def _add(self, key: str, name: str, arguments: Sequence[str | int | bytes], *, always: bool = False) -> None:
        """Add a command for a key, unless it has nothing to do. One with many arguments becomes several."""
        if not (arguments or always):
            return
        if key not in self.keys:
            self.keys.append(key)
        place = self.keys.index(key) + 2  # after that of the group
        for start in range(0, len(arguments) or 1, _MOST_ARGUMENTS):
            some = arguments[start : start + _MOST_ARGUMENTS]
            self.arguments += [name, place, len(some), *some]


class ComponentStore:
    """Methods raise errors of ``pushsvc.errors``."""

    def __init__(self, keys: Keys, connections: Connections) -> None:
        self.keys = keys
        self._connections = connections

    # Groups and their workers

    def register(self, group: str) -> None:
        """Let others find the group."""
        self._connections.command("SADD", self.keys.groups, group)

    def groups(self) -> list[str]:
        """Return the names of all groups that ever ran."""
        return sorted(as_text(self._connections.command("SMEMBERS", self.keys.groups)))

    def sequences(self, partitions: Sequence[int]) -> list[tuple[bytes | None, ...]]:
        """Return for each partition its epoch and its sequence, as text."""
        commands = [("HMGET", self.keys.partition(number), "epoch", "sequence") for number in partitions]
        return [tuple(reply) for reply in self._connections.commands(commands)]

    # Partitions of a group

    def load(self, group: str, partition: int) -> StoredGroup:
        """Return what a partition holds of a group."""
        keys = self.keys
        head, positions, parked, timers, due, outbox, unknown, sequence = self._connections.commands([
            ("HMGET", keys.group(partition, group), "epoch", "number", "begin"),
            ("HGETALL", keys.group(partition, group, "positions")),
            ("HGETALL", keys.group(partition, group, "parked")),
            ("ZCARD", keys.group(partition, group, "timers-due")),
            ("ZRANGE", keys.group(partition, group, "timers-due"), 0, 0, "WITHSCORES"),
            ("HGETALL", keys.group(partition, group, "outbox")),
            ("HKEYS", keys.group(partition, group, "unknown")),
            ("HGET", keys.partition(partition), "sequence"),
        ])  # fmt: skip
        found = {}
        for topic, value in _pairs(positions):
            offset, created = value.split()
            found[topic.decode()] = int(offset), int(created)
        sent = {int(number): msgspec.msgpack.decode(value, type=list[EmittedBatch]) for number, value in _pairs(outbox)}
        return StoredGroup(
            int(head[0] or 0), int(head[1] or 0), None if head[2] is None else int(head[2]), found,
            dict(_pairs(parked)), timers, int(float(due[1])) if due else None, dict(sorted(sent.items())),
            set(as_text(unknown)), int(sequence or 0),
        )  # fmt: skip

    def commit(self, owner: GroupOwner, before: int, number: int, changes: Changes) -> None:
        """Store changes as the commit ``number`` after the commit ``before``. Raise Fenced."""
        keys = [self.keys.group(owner.partition, owner.group), *changes.keys]
        named = ComponentCommitArguments(RUN, owner.fence, owner.epoch, before, number)
        reply = self._connections.call(script.COMPONENT_COMMIT, keys, [*named, *changes.arguments])
        if reply[0] != b"ok":
            raise Fenced(f"another worker owns partition {owner.partition} of {owner.group}, or Redis was restarted")

    def states(self, group: str, topic: str, keys: Sequence[str]) -> list[bytes | None]:
        """Return the states of keys."""
        found: list[bytes | None] = []
        for start in range(0, len(keys), _MOST_ARGUMENTS):
            some = keys[start : start + _MOST_ARGUMENTS]
            found += self._connections.command("HMGET", self.keys.component_states(group, topic), *some)
        return found

    def count_states(self, group: str, topics: Sequence[str]) -> list[int]:
        """Return for each topic how many of its keys have a state."""
        commands = [("HLEN", self.keys.component_states(group, topic)) for topic in topics]
        return self._connections.commands(commands) if commands else []

    def due_timers(self, group: str, partition: int, now: int, most: int) -> list[bytes]:
        """Return timers whose time (ms) has come, in the order of their times."""
        due = self.keys.group(partition, group, "timers-due")
        ids = self._connections.command("ZRANGEBYSCORE", due, "-inf", now, "LIMIT", 0, most)
        if not ids:
            return []
        found = self._connections.command("HMGET", self.keys.group(partition, group, "timers"), *ids)
        return [one for one in found if one is not None]

    def next_timer(self, group: str, partition: int) -> tuple[int, int | None]:
        """Return how many timers there are, and the time (ms) of the next one."""
        due = self.keys.group(partition, group, "timers-due")
        count, first = self._connections.commands([("ZCARD", due), ("ZRANGE", due, 0, 0, "WITHSCORES")])
        return count, int(float(first[1])) if first else None

    # Emitted events

    def emission(self, owner: GroupOwner, partition: int, number: int) -> Emission:
        """Return what makes events of a partition of a group be stored once in another partition."""
        return Emission(self.keys.emitted(partition), f"{owner.group}:{owner.partition}", number)

    # Replays

    def replay(self, group: str, partition: int, topic: str, offset: int | None, event: bytes) -> int:
        """Let the owner of a group try an event again; return 1, 0 if the dead event at ``offset`` was replayed before,
        or -1 if too many events wait."""
        keys = [self.keys.group(partition, group), self.keys.group(partition, group, "replays")]
        arguments = [f"replayed {topic}", "" if offset is None else offset, event, MOST_REPLAYS]
        return int(self._connections.call(script.COMPONENT_REPLAY, keys, arguments))

    def replays(self, group: str, partition: int, most: int) -> list[bytes]:
        """Return the events to try again, the oldest first."""
        key = self.keys.group(partition, group, "replays")
        found: list[bytes] = self._connections.command("LRANGE", key, 0, most - 1)
        return found

    def waiting_replays(self, group: str, partitions: Sequence[int]) -> list[int]:
        """Return for each partition how many events are to be tried again."""
        commands = [("LLEN", self.keys.group(number, group, "replays")) for number in partitions]
        return self._connections.commands(commands) if commands else []

    # Leases: as worker.leases expects them

    def lease(self, group: str, partitions: Sequence[int], owner: str, milliseconds: int) -> dict[int, int | None]:
        """Take or keep leases, as ``Broker.lease``."""
        keys = [[self.keys.group(one, group), self.keys.group(one, group, "group-lease")] for one in partitions]
        replies = self._connections.calls([ScriptCall(script.LEASE, one, [RUN, owner, milliseconds]) for one in keys])
        failed = [isinstance(reply, PushError) for reply in replies]
        if replies and all(failed):
            raise_first(replies)
        return {
            partition: None if lost else int(reply[1])
            for partition, lost, reply in zip(partitions, failed, replies, strict=True)
            if lost or reply[0]
        }

    def release(self, group: str, partitions: Sequence[int], owner: str) -> None:
        """Give leases back."""
        keys = [self.keys.group(one, group, "group-lease") for one in partitions]
        raise_first(self._connections.calls([ScriptCall(script.RELEASE, [key], [owner]) for key in keys]))

    def join(self, group: str, owner: str, now: int, until: int) -> int:
        """Register a worker of a group as alive until a time (ms); return the number of live ones."""
        key = self.keys.workers(group)
        replies = self._connections.commands(
            [("ZADD", key, until, owner), ("ZREMRANGEBYSCORE", key, "-inf", now), ("ZCARD", key)]
        )
        return int(replies[2])

    def leave(self, group: str, owner: str) -> None:
        self._connections.command("ZREM", self.keys.workers(group), owner)

    def time(self, group: str) -> int:
        """Return the time (ms) of the primary that registers the workers of a group."""
        seconds, microseconds = self._connections.at(self.keys.workers(group)).command("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    # Overview

    def overview(self, group: str, partitions: Sequence[int]) -> list[dict[str, Any]]:
        """Return what each partition holds of a group: positions, parked events, timers, unknown types."""
        keys, commands = self.keys, []
        for number in partitions:
            commands += [
                ("HGETALL", keys.group(number, group, "positions")), ("HLEN", keys.group(number, group, "parked")),
                ("ZCARD", keys.group(number, group, "timers-due")), ("HGETALL", keys.group(number, group, "unknown")),
                ("HMGET", keys.group(number, group), *_COUNTS, "begin"),
            ]  # fmt: skip
        replies = iter(self._connections.commands(commands))
        found = []
        for positions, parked, timers, unknown, counts in zip(*[replies] * 5, strict=True):
            found.append({
                "positions": {topic.decode(): int(value.split()[0]) for topic, value in _pairs(positions)},
                "parked": parked, "timers": timers,
                "unknown": {name.decode(): int(count) for name, count in _pairs(unknown)},
                **{name: int(count or 0) for name, count in zip(_COUNTS, counts, strict=False)},
                "begun": counts[-1] is not None,
            })  # fmt: skip
        return found

    def totals(self, group: str, partitions: Sequence[int]) -> dict[str, int]:
        """Return the sums of what partitions count of a group, by the names of ``TOTALS``."""
        keys, commands = self.keys, []
        for number in partitions:
            commands += [
                ("HLEN", keys.group(number, group, "parked")), ("ZCARD", keys.group(number, group, "timers-due")),
                ("HMGET", keys.group(number, group), *_COUNTS),
            ]  # fmt: skip
        found = dict.fromkeys(TOTALS, 0)
        replies = iter(self._connections.commands(commands))
        for parked, timers, counts in zip(*[replies] * 3, strict=True):
            for name, count in zip(TOTALS, (parked, timers, *counts), strict=True):
                found[name] += int(count or 0)
        return found

    def unknown_types(self, group: str, partitions: Sequence[int]) -> dict[str, dict[str, int]]:
        """Return by topic how often events of types that no handler takes came, by type; not those beyond a bound."""
        found: dict[str, dict[str, int]] = {}
        commands = [("HGETALL", self.keys.group(number, group, "unknown")) for number in partitions]
        for reply in self._connections.commands(commands):
            for name, count in _pairs(reply):
                topic, separator, type = name.decode().partition(" ")
                if separator:
                    found.setdefault(topic, {})[type] = int(count)
        return found

    def position(self, group: str, topic: str) -> int | None:
        """Return the offset of a group in a topic; None if it does not read it."""
        found = self._connections.command("HGET", self.keys.group(partition_of(topic), group, "positions"), topic)
        return None if found is None else int(found.split()[0])

    def parked_topics(self, group: str, partition: int) -> list[str]:
        """Return the topic of each parked event of a group in a partition."""
        fields = as_text(self._connections.command("HKEYS", self.keys.group(partition, group, "parked")))
        return [name.partition(" ")[2] for name in fields]

    def found_of(self, topic: str, field: str) -> list[tuple[str, int, bytes | None]]:
        """Return the groups that read a topic, each with its offset and what it holds in ``parked`` under a field."""
        partition, groups = partition_of(topic), self.groups()
        commands = []
        for group in groups:
            commands += [
                ("HGET", self.keys.group(partition, group, "positions"), topic),
                ("HGET", self.keys.group(partition, group, "parked"), field),
            ]
        replies = self._connections.commands(commands) if commands else []
        found = zip(groups, replies[::2], replies[1::2], strict=True)
        return [(group, int(value.split()[0]), parked) for group, value, parked in found if value is not None]


class GroupLeases:
    """The leases of one group, as ``worker.leases.Leases`` uses those of aggregators."""

    def __init__(self, store: ComponentStore, group: str) -> None:
        self._store, self._group = store, group

    def lease(self, partitions: Sequence[int], owner: str, milliseconds: int) -> Mapping[int, int | None]:
        return self._store.lease(self._group, partitions, owner, milliseconds)

    def release(self, partitions: Sequence[int], owner: str) -> None:
        self._store.release(self._group, partitions, owner)

    def join_aggregators(self, owner: str, now: int, until: int) -> int:
        return self._store.join(self._group, owner, now, until)

    def leave_aggregators(self, owner: str) -> None:
        self._store.leave(self._group, owner)

    def time(self) -> int:
        return self._store.time(self._group)


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)
