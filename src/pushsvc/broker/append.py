"""Publish calls: the events of one request, or of several requests to one topic merged into one call."""

from collections.abc import Collection, Iterator, Sequence
from copy import copy
from typing import Any

import hiredis
import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr

from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.script import (
    EMIT,
    PUBLISH,
    Argument,
    EmitArguments,
    IdKeys,
    IndexKeys,
    LatestKeys,
    PublishKeys,
    RequestArguments,
    ScriptCall,
    TopicArguments,
)  # fmt: skip
from pushsvc.errors import PushError
from pushsvc.event import Batch
from pushsvc.event.index import digest_of, terms_of
from pushsvc.event.latest import latest_places
from pushsvc.pause import Pause, no_pause
from pushsvc.settings import TopicSettings

_pack: Any = hiredis.pack_command
_LARGE_CALL, _LARGE_ARGUMENT = 256_000, 16_000  # bytes that are sent without another copy

RETRY_ALONE = object()  # in place of a reply: the call stored nothing and has to be sent unmerged
STORED = b"ok"


class AppendTarget(Struct, frozen=True, eq=False):
    """The part of a publish call that all requests to a topic share.

    If the target is ``mergeable``, calls to the same target (not to an equal one) may be merged.
    """

    settings: TopicSettings
    mergeable: bool
    keys: PublishKeys
    id_keys: IdKeys
    arguments: TopicArguments
    limits: BrokerLimits
    latest_keys: LatestKeys | None = None  # None: the topic keeps no newest events
    index_keys: IndexKeys | None = None  # None: the topic has no index
    _plain_start: tuple[str | None, bytes] = (None, b"")  # with the run for which it holds

    def pack_plain(self, run: str, chunk: Batch) -> bytes:
        """Return a call that stores one chunk without ids, as Redis reads it.

        All words but the last two are the same each time. To encode these 19 takes as long as to read an event.
        """
        known, start = self._plain_start
        if known != run:
            request = RequestArguments(run, fence="", request_key="", note=b"", chunks=1)
            words = ("EVALSHA", PUBLISH.sha, len(self.keys), *self.keys, *self.arguments, *request)
            count, _, packed = _pack(words).partition(b"\r\n")
            start = b"*%d\r\n%b" % (int(count[1:]) + 2, packed)
            force_setattr(self, "_plain_start", (run, start))
        shape, data = _chunk_arguments(chunk)
        text = str(shape).encode()
        return b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (start, len(text), text, len(data), data)


class Emission(Struct, frozen=True):
    """Makes events of an emitter be stored once, however often they are sent: they are numbered in their order.

    ``key`` holds the last number of each emitter.
    """

    key: str
    emitter: str
    number: int


class Append(Struct, frozen=True, eq=False):
    """Stores all events of a batch, or none.

    With a ``fence`` only the partition's owner may write. With a ``request_key`` the events are stored once however
    often the call is repeated, and ``note`` is remembered with the outcome. There is a ``pause`` after each chunk of
    which the keys or the indexed values are found: in 8 MB that takes 70 ms.
    """

    target: AppendTarget
    batch: Batch
    fence: int | None = None
    request_key: str = ""
    note: bytes = b""
    emission: Emission | None = None
    pause: Pause = no_pause

    @property
    def keys(self) -> Sequence[str]:
        return self.target.keys

    @property
    def size(self) -> int:
        """The bytes of its data."""
        size = len(self.batch.data) + len(self.note)
        return size if self.batch.ids is None else size + sum(map(len, self.batch.ids))

    @property
    def mergeable(self) -> bool:
        """Whether it may be merged: a fence or a key decides about one request only."""
        return self.target.mergeable and self.fence is None and not self.request_key and self.emission is None

    def pack(self, run: str) -> bytes:
        """Return the command as Redis reads it."""
        target, batch = self.target, self.batch
        plain = batch.ids is None and target.latest_keys is None and target.index_keys is None and self.mergeable
        if plain and 0 < batch.count <= target.limits.chunk_events and len(batch.data) <= target.limits.chunk_bytes:
            return target.pack_plain(run, batch)
        packed: bytes = _pack(tuple(self.command(run)))
        return packed

    def command(self, run: str) -> list[Argument]:
        target, batch = self.target, self.batch
        limits = target.limits
        chunks = list(batch.split(limits.chunk_events, limits.chunk_bytes)) if batch.count else []
        fence = "" if self.fence is None else self.fence
        request = RequestArguments(run, fence, self.request_key, self.note, len(chunks))
        keys: tuple[str, ...] = target.keys
        if target.index_keys is not None:
            keys += target.id_keys + target.index_keys
        elif target.latest_keys is not None:
            keys += target.id_keys + target.latest_keys
        elif batch.ids is not None or self.request_key:
            keys += target.id_keys
        command: list[Argument]
        if self.emission is None:
            command = ["EVALSHA", PUBLISH.sha, len(keys), *keys, *target.arguments, *request]
        else:
            emitted = EmitArguments(self.emission.emitter, self.emission.number)
            keys = (self.emission.key, *keys)
            command = ["EVALSHA", EMIT.sha, len(keys), *keys, *target.arguments, *request, *emitted]
        for chunk in chunks:
            command += _chunk_arguments(chunk)
        if target.latest_keys is not None:
            command.append(_latest_argument(chunks, target.settings.latest_deletes, self.pause))
        if target.index_keys is not None:
            command.append(_index_argument(chunks, target.settings.index, self.pause))
        if batch.ids is not None:
            command += batch.ids
        return command


class MergedAppend:
    """Calls that are sent as one; ``places`` are their places in the round trip.

    Publish calls to one target are stored as one entry, as one batch of all their events would be. If that fails in any
    way, nothing is stored, and each call has to be sent by itself.
    """

    def __init__(self, place: int, first: ScriptCall | Append) -> None:
        self.places = [place]
        self._first = first
        self._batches: list[Batch] = []
        self._events = self._bytes = 0
        self._ids: set[str] | None = None
        if isinstance(first, Append):
            self._add(first.batch)

    def repeats_id(self, batch: Batch) -> bool:
        """Return whether an earlier batch has an id of this batch."""
        if batch.ids is None:
            return False
        if self._ids is None:  # built on demand: most calls are never merged
            self._ids = {name for own in self._batches for name in own.ids or ()}
        return not self._ids.isdisjoint(filter(None, batch.ids))

    def merge(self, place: int, append: Append) -> bool:
        """Merge one more call; return False if it exceeds the limits, or repeats an id: only one call may store it."""
        batch, limits = append.batch, append.target.limits
        if self._events + batch.count > limits.chunk_events or self._bytes + len(batch.data) > limits.chunk_bytes:
            return False
        if self.repeats_id(batch):
            return False
        self.places.append(place)
        self._add(batch)
        return True

    def _add(self, batch: Batch) -> None:
        self._batches.append(batch)
        self._events += batch.count
        self._bytes += len(batch.data) + 1
        if self._ids is not None:
            self._ids.update(batch.ids or ())

    def call(self) -> ScriptCall | Append:
        """Return the call to send."""
        if len(self.places) == 1 or not isinstance(self._first, Append):
            return self._first
        return Append(self._first.target, Batch.concatenate(self._batches))

    def replies(self, reply: Any) -> Iterator[Any]:
        """Yield the reply to each merged call, or RETRY_ALONE. Of events that were stored it is a list: STORED, first
        and last offset, arrival and head."""
        if isinstance(self._first, Append) and isinstance(reply, bytes):
            fields = reply.split()  # sequence first count least greatest arrival[ head]
            last = int(fields[1]) + int(fields[2]) - 1
            head = int(fields[6] if len(fields) > 6 else fields[4])
            reply = [STORED, last - self._events + 1, last, int(fields[5]), head]
        if len(self.places) == 1:
            yield reply
        elif isinstance(reply, PushError):  # one object each: a shared one would collect the tracebacks of all raises
            yield from map(copy, [reply] * len(self.places))
        elif reply[0] != STORED:
            yield from [RETRY_ALONE] * len(self.places)
        else:
            _, offset, _, arrival, head = reply
            for batch in self._batches:
                yield [STORED, offset, offset + batch.count - 1, arrival, head]
                offset += batch.count


def merge_calls(calls: Sequence[ScriptCall | Append]) -> list[MergedAppend]:
    """Return the calls of a round trip, merged where possible."""
    merged: list[MergedAppend] = []
    latest: dict[int, MergedAppend] = {}
    for place, call in enumerate(calls):
        if not isinstance(call, Append) or not call.mergeable:
            merged.append(MergedAppend(place, call))
            continue
        one = latest.get(id(call.target))
        if one is not None and one.merge(place, call):
            continue
        merged.append(MergedAppend(place, call))
        if one is None or not one.repeats_id(call.batch):
            latest[id(call.target)] = merged[-1]
    return merged


def pack_calls(calls: Sequence[ScriptCall | Append], run: str) -> list[bytes]:
    """Return the bytes to send for calls. Those of a large publish are many pieces: one copy of 8 MB takes 13 ms."""
    pieces: list[bytes] = []
    together: list[bytes] = []
    for call in calls:
        if isinstance(call, Append) and call.size > _LARGE_CALL:
            pieces += [*together, *_pack_in_pieces(call.command(run))]
            together = []
        else:
            together.append(call.pack(run) if isinstance(call, Append) else _pack(tuple(call.command(run))))
    return [*pieces, b"".join(together)] if together else pieces


def _pack_in_pieces(command: Sequence[Argument]) -> Iterator[bytes]:
    """Yield a command as Redis reads it, with large arguments as they are."""
    small = [b"*%d\r\n" % len(command)]
    for argument in command:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        small.append(b"$%d\r\n" % len(data))
        if len(data) > _LARGE_ARGUMENT:
            yield b"".join(small)
            yield data
            small = [b"\r\n"]
        else:
            small += (data, b"\r\n")
    yield b"".join(small)


def _latest_argument(chunks: Sequence[Batch], deletes: Collection[str], pause: Pause) -> bytes:
    """Return what latest.lua takes: for each chunk the keys that it changes."""
    found: list[list[str | int]] = []
    for chunk in chunks:
        found.append(latest_places(chunk.data, deletes))
        pause()
    return msgspec.msgpack.encode(found)


def _index_argument(chunks: Sequence[Batch], names: Sequence[str], pause: Pause) -> bytes:
    """Return what index.lua takes: the digest of the names, and for each chunk what terms_of yields."""
    found: list[str | list[str | int]] = [digest_of(names)]
    for chunk in chunks:
        found.append([value for terms in terms_of(chunk.data, names) for value in terms])
        pause()
    return msgspec.msgpack.encode(found)


def _chunk_arguments(chunk: Batch) -> tuple[int | str, bytes]:
    """Return the shape of a chunk and its events. The shape is its count, and if an event has a time: whether one has
    none, the least and the greatest time."""
    if chunk.times is None:
        return chunk.count, chunk.data
    times = [time for time in chunk.times if time is not None]
    if not times:
        return chunk.count, chunk.data
    return f"{chunk.count} {int(len(times) < chunk.count)} {min(times)} {max(times)}", chunk.data
