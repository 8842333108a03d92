"""Connections to Redis that never send anything twice."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from gevent import monkey
from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool, Connection, parse_url
from redis.retry import Retry

from pushsvc.broker.cluster.address import Host, Kind
from pushsvc.broker.script import Argument, Call, Script, load_scripts
from pushsvc.errors import BrokerFull, BrokerUnavailable, OutcomeUnknown, PushError, StartupError

WATCH = 0.5
"""Seconds after which Sentinels are asked again whether the primary is the same."""

TIMEOUT = 5.0
"""Seconds to wait for a connection or an answer."""

_poll = monkey.get_original("select", "poll")
_FULL = ("OOM", "MISCONF", "NOREPLICAS")
_ELSEWHERE = ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY")
_AWAY = (exceptions.ClusterDownError, exceptions.TryAgainError, exceptions.AskError)

_MISNAMED = {
    "standalone": "is one server: name it as redis://host:port",
    "cluster": "is a node of a cluster: name it as redis+cluster://host:port,host:port",
    "sentinel": "is a Sentinel: name it as redis+sentinel://host:port,host:port/master",
}


class Moved(BrokerUnavailable):
    """Another node of the cluster has the slot; nothing was done here."""

    def __init__(self, error: exceptions.MovedError) -> None:
        super().__init__(reason(error))
        self.slot: int = error.slot_id
        self.host: Host = (error.host, error.port)


class Demoted(BrokerUnavailable):
    """The server is a replica now, and has done nothing."""


class Forgotten(BrokerUnavailable):
    """Redis does not know the script, as its scripts were flushed; nothing was done."""


class Connections:
    """A bounded pool. Every connection knows the run id of its primary and has all scripts loaded.

    ``primary`` says before each connect where the primary is now; without it that is in the URL. A server that is not
    of the ``kind`` is refused. Where connecting timed out it is not tried again for ``rest`` seconds.
    """

    publish_command = "PUBLISH"

    def __init__(
        self,
        url: str,
        *,
        size: int = 32,
        name: str = "pushsvc",
        kind: Kind = "standalone",
        primary: Callable[[], Host] | None = None,
        rest: float = 0.0,
    ) -> None:
        self._runs: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._kind = kind
        self._primary = primary
        self._rest = rest
        self._rests_until = 0.0
        self._watcher: threading.Thread | None = None
        self._closed = threading.Event()
        self._pool: Any = BlockingConnectionPool.from_url(
            url, max_connections=size, timeout=TIMEOUT, client_name=name, redis_connect_func=self._on_connect,
            connection_class=_class_of(url, primary), **_never_twice(TIMEOUT),
        )  # fmt: skip

    def _on_connect(self, connection: Any) -> None:
        try:
            self._greet(connection)
        except BaseException:  # a killed greenlet too: a connection half greeted must never be used
            connection.disconnect()
            raise

    def _greet(self, connection: Any) -> None:
        connection.on_connect()
        connection.send_command("INFO", "server")
        text: bytes = connection.read_response()
        info = dict(line.split(":", 1) for line in text.decode().split("\r\n") if ":" in line)
        kind = info.get("redis_mode") or info.get("server_mode", self._kind)  # Redis's word, and Valkey's
        if kind != self._kind:
            place = getattr(connection, "path", None) or f"{connection.host}:{connection.port}"
            raise StartupError(f"{place} {_MISNAMED.get(kind, f'is of the kind {kind!r}')}")
        if self._primary is not None:
            _check_primary(connection)
            self._watch(self._primary)
        load_scripts(connection)
        self._runs[connection] = info["run_id"]

    def _watch(self, primary: Callable[[], Host]) -> None:
        """Look from now on whether the primary is another one; begun by the first connection of a process."""
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._keep_watch, args=[primary], daemon=True)
            self._watcher.start()

    def _keep_watch(self, primary: Callable[[], Host]) -> None:
        """Cut connections to what is the primary no more. Until a Sentinel has turned it into a replica, some seconds
        after an ordered failover, it takes writes that nobody will ever read."""
        while not self._closed.wait(WATCH):
            with suppress(PushError):
                now = primary()
                for reference in self._runs.keyrefs():
                    connection = reference()
                    if connection is not None and (connection.host, connection.port) != now:
                        _cut(connection)

    def open(self) -> Any:
        """Return a connected connection outside the pool, for a listener; it is the caller's to close."""
        # The pool's own make_connection() would keep every one that it ever made.
        connection = self._pool.connection_class(**self._pool.connection_kwargs)
        self._connecting(connection.connect)
        return connection

    def run(self, connection: Any) -> str:
        """Return the run id of the primary behind a connection."""
        return self._runs[connection]

    def command(self, *words: Argument) -> Any:
        """Send one command that only reads, and return its answer."""
        return self.commands([words])[0]

    def commands(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands that may safely be lost or repeated, in one round trip; raise for the first that fails."""
        answers = self.exchange(commands)
        raise_first(answers)
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
        writes = any(call.script.writes for call in calls)
        return self._on(connection, [call.command(run) for call in calls], writes=writes)

    def at(self, key: str) -> Connections:
        """Return the connections to the primary of a key: these."""
        return self

    def anywhere(self, *words: Argument) -> Any:
        """Send one command that any primary can answer."""
        return self.command(*words)

    def everywhere(self, *words: Argument) -> list[Any]:
        """Send one command to every primary, and return the answers; raise for the first that fails."""
        return [self.command(*words)]

    def exchange(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands that may be lost or repeated; a refused one's answer is the error, not raised."""
        return self._on(self._take(), commands, writes=False)

    def _take(self) -> Any:
        return self._connecting(self._pool.get_connection)

    def _connecting(self, connect: Callable[[], Any]) -> Any:
        if self._rests_until and monotonic() < self._rests_until:
            raise BrokerUnavailable("it did not answer in time a moment ago")
        try:
            return connect()
        except exceptions.TimeoutError as error:
            self._rests_until = monotonic() + self._rest
            raise BrokerUnavailable(reason(error)) from error
        except (exceptions.RedisError, OSError) as error:
            raise BrokerUnavailable(reason(error)) from error

    def _on(self, connection: Any, commands: Sequence[Sequence[Argument]], *, writes: bool) -> list[Any]:
        done = False
        try:
            answers = self._exchanged(connection, commands)
            if forgotten := [place for place, found in enumerate(answers) if isinstance(found, Forgotten)]:
                load_scripts(connection)
                if len(commands) - forgotten[0] == len(forgotten):  # else what ran behind one would come before it
                    answers[forgotten[0] :] = self._exchanged(connection, commands[forgotten[0] :])
            done = not any(isinstance(found, Demoted) for found in answers)
            return answers
        except (exceptions.RedisError, OSError) as error:
            failure = OutcomeUnknown if writes else BrokerUnavailable
            raise failure(reason(error)) from error
        finally:
            if not done:
                # An answer under way must never be taken for a later command's; and the next connect finds the primary.
                connection.disconnect()
            self._pool.release(connection)

    @staticmethod
    def _exchanged(connection: Any, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        return [answer(connection) for _ in commands]

    def close(self, *, busy: bool = True) -> None:
        """Close every connection of the pool; those in use only if ``busy``."""
        self._closed.set()
        with suppress(OSError):
            self._pool.disconnect(inuse_connections=busy)


def _never_twice(timeout: float) -> dict[str, Any]:
    # redis-py re-sends a whole pipeline when a connection breaks, 10 times by default: that would double events.
    # Its classes are typed only in part.
    return {
        "retry": Retry(NoBackoff(), 0), "retry_on_error": [], "socket_timeout": timeout,
        "socket_connect_timeout": timeout, "protocol": 2,
    }  # fmt: skip


def _class_of(url: str, primary: Callable[[], Host] | None) -> type[Any]:
    """Return the class of a pool's connections, which ask for the ``primary`` before each connect, if there is one."""
    base: Any = _parsed(url).get("connection_class", Connection)

    class Own(base):  # type: ignore[misc]
        def can_read(self, timeout: float = 0) -> bool:
            # Asked before each use, when nothing but the end is to be read. Through the loop it would cost a turn.
            if not timeout and self._is_quiet():
                return False
            return bool(super().can_read(timeout))

        def _is_quiet(self) -> bool:
            """Look, without yielding, whether nothing is there: of the socket, of TLS and of what was read before."""
            sock, reader = self._sock, getattr(self._parser, "_reader", None)
            if sock is None or reader is None or reader.has_data():
                return False
            return not (isinstance(sock, ssl.SSLSocket) and sock.pending()) and not _is_readable(sock)

        def _connect(self) -> Any:
            if primary is not None:
                self.host, self.port = primary()
            return super()._connect()

    return Own


def _is_readable(sock: socket.socket) -> bool:
    """Look at a socket without yielding."""
    look = _poll()
    look.register(sock, select.POLLIN)
    return bool(look.poll(0))


def _cut(connection: Any) -> None:
    """End a connection from outside: whoever uses it reads its end, and closes it. The object itself is theirs."""
    sock = connection._sock
    if sock is not None:
        with suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as twin:
            twin.shutdown(socket.SHUT_RDWR)


def _check_primary(connection: Any) -> None:
    connection.send_command("ROLE")
    if connection.read_response()[0] != b"master":
        raise exceptions.ConnectionError(f"{connection.host}:{connection.port} is not the primary any more, or not yet")


def _parsed(url: str) -> dict[str, Any]:
    settings: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    return settings


def ask(url: str, *words: Argument, timeout: float = 1.0) -> Any:
    """Ask one server something on a connection of its own; raise BrokerUnavailable, or redis's ResponseError."""
    settings = _parsed(url)
    kind = settings.pop("connection_class", Connection)
    connection = kind(**settings | _never_twice(timeout))
    try:
        connection.connect()
        connection.send_command(*words)
        return connection.read_response()
    except exceptions.ResponseError:
        raise
    except (exceptions.RedisError, OSError) as error:
        raise BrokerUnavailable(reason(error)) from error
    finally:
        connection.disconnect()


def raise_first(answers: Iterable[Any]) -> None:
    """Raise the first of the answers that is an error."""
    for found in answers:
        if isinstance(found, PushError):
            raise found


def answer(connection: Any) -> Any:
    """Read an answer, or the error that says why there is none; raise what breaks the connection."""
    try:
        return connection.read_response()
    except exceptions.BusyLoadingError as error:
        return BrokerUnavailable(reason(error))
    except exceptions.NoScriptError as error:
        return Forgotten(reason(error))
    except exceptions.ResponseError as error:
        return _refusal(error)


def _refusal(error: exceptions.ResponseError) -> PushError:
    text = str(error)
    if isinstance(error, exceptions.MovedError):
        return Moved(error)
    if isinstance(error, exceptions.ReadOnlyError):
        return Demoted(text)
    if isinstance(error, exceptions.OutOfMemoryError) or any(word in text for word in _FULL):
        return BrokerFull(text)
    if isinstance(error, _AWAY) or text.startswith(_ELSEWHERE):
        return BrokerUnavailable(text)
    return PushError(f"Redis answered: {text}")


def reason(error: BaseException) -> str:
    """Return what an error says, or its name if it says nothing."""
    return str(error) or type(error).__name__


def words(values: Iterable[Any]) -> list[str]:
    """Return Redis's byte strings as text."""
    return [value.decode() for value in values]
