"""Connections to Redis that never send anything twice, and the scripts that run on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import sha1
from importlib.resources import files
from typing import Any
from weakref import WeakKeyDictionary

from msgspec import Struct
from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool
from redis.retry import Retry

from pushsvc.errors import BrokerFull, BrokerUnavailable, OutcomeUnknown, PushError

Argument = bytes | str | int
TIMEOUT = 5.0
"""Seconds to wait for a connection or an answer."""

_FULL = ("OOM", "MISCONF", "NOREPLICAS")
_ELSEWHERE = ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY")


def _source(name: str) -> bytes:
    return files(__package__).joinpath("scripts", f"{name}.lua").read_bytes()


class Script:
    """A Lua script by name; ``writes`` tells whether a lost answer leaves its outcome unknown.

    One that writes begins with the functions of ``common.lua``, and of ``trim.lua`` if it ``trims``.
    """

    def __init__(self, name: str, *, writes: bool, trims: bool = False) -> None:
        self.name = name
        self.writes = writes
        parts = ("common", "trim", name) if trims else ("common", name) if writes else (name,)
        self.source = b"".join(map(_source, parts))
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest()


OPEN = Script("open", writes=True)
PUBLISH = Script("publish", writes=True, trims=True)
SWEEP = Script("sweep", writes=True, trims=True)
STATISTICS = Script("statistics", writes=True)
RECALL = Script("recall", writes=False)
READ = Script("read", writes=False)
SEEK = Script("seek", writes=False)
LEASE = Script("lease", writes=True)
RELEASE = Script("release", writes=True)
DELETE = Script("delete", writes=True)
CHECKPOINT_PIECE = Script("checkpoint_piece", writes=True)
CHECKPOINT_COMMIT = Script("checkpoint_commit", writes=True)
CHECKPOINT_DISCARD = Script("checkpoint_discard", writes=True)
SCRIPTS = (
    OPEN, PUBLISH, SWEEP, RECALL, STATISTICS, READ, SEEK, LEASE, RELEASE, DELETE, CHECKPOINT_PIECE, CHECKPOINT_COMMIT,
    CHECKPOINT_DISCARD,
)  # fmt: skip

RUN = object()
"""Stands, among a call's arguments, for the run id of the primary that the call is sent to."""

WAKE = object()
"""Stands, among a call's arguments, for the channel on which it wakes; empty where a later call will."""


class Call(Struct, frozen=True):
    """One script call. ``args`` may hold RUN, and WAKE for the channel ``wakes``; ``size`` is what its data weighs."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Any]
    wakes: str = ""
    size: int = 0

    def command(self, run: str, wake: str = "") -> list[Argument]:
        """Return the words of the command."""
        return [
            "EVALSHA", self.script.sha, len(self.keys), *self.keys,
            *[run if word is RUN else wake if word is WAKE else word for word in self.args],
        ]  # fmt: skip


class Connections:
    """A bounded pool. Every connection knows the run id of its primary and has all scripts loaded."""

    def __init__(self, url: str, *, size: int = 32, name: str = "pushsvc") -> None:
        self._runs: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        # redis-py re-sends a whole pipeline when a connection breaks, 10 times by default: that would double events.
        # Its classes are typed only in part.
        self._pool: Any = BlockingConnectionPool.from_url(
            url,
            max_connections=size,
            timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            protocol=2,
            client_name=name,
            redis_connect_func=self._on_connect,
        )

    def _on_connect(self, connection: Any) -> None:
        try:
            self._greet(connection)
        except BaseException:  # a killed greenlet too: a connection half greeted must never be used
            connection.disconnect()
            raise

    def _greet(self, connection: Any) -> None:
        connection.on_connect()
        connection.send_command("INFO", "server")
        info: bytes = connection.read_response()
        run = next(line[7:] for line in info.decode().split("\r\n") if line.startswith("run_id:"))
        load_scripts(connection)
        self._runs[connection] = run

    def open(self) -> Any:
        """Return a connected connection outside the pool, for a listener; it is the caller's to close."""
        # The pool's own make_connection() would keep every one that it ever made.
        connection = self._pool.connection_class(**self._pool.connection_kwargs)
        try:
            connection.connect()
        except (exceptions.RedisError, OSError) as error:
            raise BrokerUnavailable(reason(error)) from error
        return connection

    def run(self, connection: Any) -> str:
        """Return the run id of the primary behind a connection."""
        return self._runs[connection]

    def command(self, *words: Argument) -> Any:
        """Send one command that only reads, and return its answer."""
        return self.commands([words])[0]

    def commands(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands that may safely be lost or repeated, in one round trip; raise for the first that fails."""
        answers = self._exchange(commands, writes=False)
        for answer in answers:
            if isinstance(answer, PushError):
                raise answer
        return answers

    def call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run one script; raise BrokerUnavailable (nothing done), OutcomeUnknown or BrokerFull."""
        answer = self.calls([Call(script, keys, args)])[0]
        if isinstance(answer, PushError):
            raise answer
        return answer

    def calls(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in one round trip; each is atomic by itself. A refused one's answer is the error, not raised."""
        if not calls:
            return []
        connection = self._take()
        run = self._runs[connection]
        return self._on(
            connection, [call.command(run) for call in calls], writes=any(call.script.writes for call in calls)
        )

    def _exchange(self, commands: Sequence[Sequence[Argument]], *, writes: bool) -> list[Any]:
        return self._on(self._take(), commands, writes=writes)

    def _take(self) -> Any:
        try:
            return self._pool.get_connection()
        except (exceptions.RedisError, OSError) as error:
            raise BrokerUnavailable(reason(error)) from error

    def _on(self, connection: Any, commands: Sequence[Sequence[Argument]], *, writes: bool) -> list[Any]:
        done = False
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            answers = [self._answer(connection) for _ in commands]
            done = True
            return answers
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
            failure = OutcomeUnknown if writes else BrokerUnavailable
            raise failure(reason(error)) from error
        finally:
            if not done:
                # An answer still under way must never be read as that of a later command.
                connection.disconnect()
            self._pool.release(connection)

    def _answer(self, connection: Any) -> Any:
        try:
            return answer(connection)
        except exceptions.NoScriptError as error:
            connection.disconnect()  # the next connect loads them again
            return BrokerUnavailable(reason(error))

    def close(self) -> None:
        """Close every connection of the pool."""
        with suppress(OSError):
            self._pool.disconnect()


def load_scripts(connection: Any) -> None:
    """Let Redis know all scripts."""
    for script in SCRIPTS:
        connection.send_command("SCRIPT", "LOAD", script.source)
        connection.read_response()


def answer(connection: Any) -> Any:
    """Read an answer, or the error that says why there is none; raise NoScriptError, and what breaks the connection."""
    try:
        return connection.read_response()
    except exceptions.BusyLoadingError as error:
        return BrokerUnavailable(reason(error))
    except exceptions.NoScriptError:
        raise
    except exceptions.ResponseError as error:
        return _refusal(error)


def _refusal(error: exceptions.ResponseError) -> PushError:
    text = str(error)
    if isinstance(error, exceptions.OutOfMemoryError) or any(word in text for word in _FULL):
        return BrokerFull(text)
    if isinstance(error, exceptions.ReadOnlyError) or text.startswith(_ELSEWHERE):
        return BrokerUnavailable(text)
    return PushError(f"Redis answered: {text}")


def reason(error: BaseException) -> str:
    """Return what an error says, or its name if it says nothing."""
    return str(error) or type(error).__name__


def words(values: Iterable[Any]) -> list[str]:
    """Return Redis's byte strings as text."""
    return [value.decode() for value in values]
