"""The Lua scripts that run in Redis, their named arguments, and calls of them.

A script with more than five keys or arguments takes them as a named tuple. The Lua source then begins with locals of
the same names (keys with the suffix ``_key``), generated from the tuple's fields: neither side counts positions.
"""

import re
import struct
from collections import namedtuple
from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple

from msgspec import Struct

Argument = bytes | str | int

PublishKeys = namedtuple("PublishKeys", "partition changed log metadata topics remains")
IdKeys = namedtuple("IdKeys", "ids previous_ids")
LatestKeys = namedtuple("LatestKeys", "latest latest_order")
IndexKeys = namedtuple("IndexKeys", "latest latest_order index")


class TopicLimits(NamedTuple):
    """Numbers of a topic, packed into one argument of publish.lua. Times are in ms."""

    max_topics: int  # topics that a partition may have
    max_ahead: int  # how far an event may be ahead of the event clock; -1: any time
    ids_window: int  # how long ids are remembered at least
    max_ids: int  # how many ids are remembered at least
    retention: int  # events to keep
    retention_age: int  # how long events are kept; 0: no bound
    retention_bytes: int  # bytes to keep; 0: no bound
    window_age: int  # how long the topic's windows need an entry, whatever the retention
    window_events: int  # how many of the last events the topic's windows need, whatever the retention
    full_bytes: int  # bytes at which the log takes no more; 0: no bound
    max_latest: int  # keys whose newest events are kept; 0: they are not

    def pack(self) -> bytes:
        return struct.pack(f"<{len(self)}d", *self)


class TopicArguments(NamedTuple):
    """The arguments of publish.lua that all requests to a topic share."""

    publish_command: str
    log_channel: str
    partition_channel: str  # '': no aggregator needs to know
    topic: str
    limits: bytes  # TopicLimits


class RequestArguments(NamedTuple):
    """The arguments of publish.lua that each request has. The chunks follow (two values each), then what changes the
    newest events if the topic keeps them, what the index gets if it has one, then the ids."""

    run: str  # the run id of the primary
    fence: int | str  # the fencing token of the partition's owner; '': anyone may write
    request_key: str  # under which the outcome is remembered; '': it is not
    note: bytes  # what is remembered with the outcome
    chunks: int  # entries to append; 0: every event of the request is known, only its key is new


SweepArguments = namedtuple(
    "SweepArguments",
    "fence max_entries retention retention_age retention_bytes window_age window_events expire_after has_index numsub",
)
StatisticsArguments = namedtuple(
    "StatisticsArguments", "run publish_command log_channel fence kind source frame late topic log window"
)
DeleteKeys = namedtuple(
    "DeleteKeys", "partition topics changed remains ids previous_ids log metadata latest latest_order index corrections"
)
DeleteArguments = namedtuple(
    "DeleteArguments", "run publish_command partition_channel topic windows max_remains fence idle numsub"
)
CorrectKeys = namedtuple("CorrectKeys", "partition changed log metadata latest latest_order index corrections")
CorrectArguments = namedtuple(
    "CorrectArguments",
    "run publish_command log_channel partition_channel topic event entry place old new data corrected latest "
    "max_latest fields terms",
)
ForgetArguments = namedtuple("ForgetArguments", "fence cursor age max_remains")
CheckpointPieceArguments = namedtuple("CheckpointPieceArguments", "run fence epoch number expires piece")
CheckpointCommitArguments = namedtuple("CheckpointCommitArguments", "run fence epoch engine pieces header")

ComponentCommitArguments = namedtuple("ComponentCommitArguments", "run fence epoch before number")
EmitArguments = namedtuple("EmitArguments", "emitter number")
AlertCommitArguments = namedtuple("AlertCommitArguments", "run fence epoch states")


def _source(name: str) -> bytes:
    """Return a Lua file, with those that it includes in their places."""
    source = files(__package__).joinpath("scripts", f"{name}.lua").read_bytes()
    return _INCLUDE.sub(lambda found: _source(found[1].decode()), source)


_INCLUDE = re.compile(rb"^ *include\('(\w+)'\)$", re.MULTILINE)


def _locals(names: Sequence[str], values: str) -> bytes:
    return f"local {', '.join(names)} = {values}\n".encode()


class Script:
    """A Lua script by name. ``writes`` is true if a lost answer leaves the outcome unknown.

    The script begins with the functions of the files in ``parts``. ``keys`` and ``arguments`` are the names of its
    leading keys and arguments, if the script does not name them itself; ``packed`` are those of the numbers in the
    argument ``limits``.
    """

    def __init__(
        self,
        name: str,
        *,
        writes: bool,
        parts: Sequence[str] = (),
        keys: Sequence[str] = (),
        arguments: Sequence[str] = (),
        packed: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.writes = writes
        sources = [_source(part) for part in parts]
        if keys:
            sources.append(_locals([f"{key}_key" for key in keys], f"unpack(KEYS, 1, {len(keys)})"))
            sources.append(b"local NAMED_KEYS = %d\n" % len(keys))
        if arguments:
            sources.append(_locals(arguments, f"unpack(ARGV, 1, {len(arguments)})"))
            sources.append(b"local NAMED_ARGUMENTS = %d\n" % len(arguments))
        if packed:
            sources.append(_locals(packed, f"struct.unpack('<{'d' * len(packed)}', limits)"))
        self.source = b"".join([*sources, _source(name)])
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest()


_COMMON = ("common",)
OPEN = Script("open", writes=True, parts=_COMMON)
PUBLISH = Script(
    "publish", writes=True, keys=PublishKeys._fields + IdKeys._fields + IndexKeys._fields,
    arguments=TopicArguments._fields + RequestArguments._fields, packed=TopicLimits._fields,
)  # fmt: skip
SWEEP = Script("sweep", writes=True, parts=("common", "streams"), arguments=SweepArguments._fields)
STATISTICS = Script("statistics", writes=True, parts=_COMMON, arguments=StatisticsArguments._fields)
RECALL = Script("recall", writes=False)
READ = Script("read", writes=False)
READ_BACK = Script("read_back", writes=False)
SEEK = Script("seek", writes=False)
REFUSE = Script("refuse", writes=True)
LEASE = Script("lease", writes=True, parts=_COMMON)
RELEASE = Script("release", writes=True)
DELETE = Script(
    "delete", writes=True, parts=("common", "streams", "remains"), keys=DeleteKeys._fields,
    arguments=DeleteArguments._fields,
)  # fmt: skip
CORRECT = Script("correct", writes=True, parts=_COMMON, keys=CorrectKeys._fields, arguments=CorrectArguments._fields)
ERASE_COPY = Script("erase_copy", writes=True)
ERASE_SWAP = Script("erase_swap", writes=True)
ERASE_TERMS = Script("erase_terms", writes=True)
FORGET = Script("forget", writes=True, parts=("common", "remains"), arguments=ForgetArguments._fields)
CHECKPOINT_PIECE = Script("checkpoint_piece", writes=True, parts=_COMMON, arguments=CheckpointPieceArguments._fields)
CHECKPOINT_COMMIT = Script("checkpoint_commit", writes=True, parts=_COMMON, arguments=CheckpointCommitArguments._fields)
CHECKPOINT_DISCARD = Script("checkpoint_discard", writes=True, parts=_COMMON)
WANT = Script("want", writes=True, parts=_COMMON)
UNWANT = Script("unwant", writes=True, parts=_COMMON)
LATE = Script("late", writes=True)
DRAW = Script("draw", writes=True)
RESERVE = Script("reserve", writes=True)
LATEST_READ = Script("latest_read", writes=False)
LATEST_FILL = Script("latest_fill", writes=True)
INDEX_FILL = Script("index_fill", writes=True)
LOOK_UP = Script("look_up", writes=False)
REVOKE = Script("revoke", writes=True, parts=_COMMON)
ALERT_DEFINE = Script("alert_define", writes=True)
ALERT_COMMIT = Script("alert_commit", writes=True, parts=_COMMON, arguments=AlertCommitArguments._fields)
COMPONENT_COMMIT = Script(
    "component_commit", writes=True, parts=_COMMON, arguments=ComponentCommitArguments._fields
)  # fmt: skip
COMPONENT_REPLAY = Script("component_replay", writes=True)
EMIT = Script(
    "emit", writes=True, keys=("emitted", *PublishKeys._fields, *IdKeys._fields, *IndexKeys._fields),
    arguments=TopicArguments._fields + RequestArguments._fields + EmitArguments._fields, packed=TopicLimits._fields,
)  # fmt: skip
SCRIPTS = (
    OPEN, PUBLISH, SWEEP, RECALL, STATISTICS, READ, READ_BACK, SEEK, REFUSE, LEASE, RELEASE, DELETE, FORGET,
    CHECKPOINT_PIECE, CHECKPOINT_COMMIT, CHECKPOINT_DISCARD, WANT, UNWANT, LATE, DRAW, RESERVE, REVOKE,
    LATEST_READ, LATEST_FILL, INDEX_FILL, LOOK_UP, ALERT_DEFINE, ALERT_COMMIT,
    COMPONENT_COMMIT, COMPONENT_REPLAY, EMIT, CORRECT,
    ERASE_COPY, ERASE_SWAP, ERASE_TERMS,
)  # fmt: skip

RUN = object()  # a placeholder among a call's arguments: the run id of the primary that gets the call


class ScriptCall(Struct, frozen=True):
    """One call of a script. ``args`` may hold RUN."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Any]

    def command(self, run: str) -> list[Argument]:
        args = [run if word is RUN else word for word in self.args]
        return ["EVALSHA", self.script.sha, len(self.keys), *self.keys, *args]


def load_scripts(connection: Any) -> None:
    """Load all scripts into Redis."""
    for script in SCRIPTS:
        connection.send_command("SCRIPT", "LOAD", script.source)
        connection.read_response()
