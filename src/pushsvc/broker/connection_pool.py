"""The connections of a process to Redis: calls in general, and the pool of connections to one primary."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Literal
from weakref import WeakKeyDictionary

from redis import exceptions
from redis.connection import BlockingConnectionPool

from pushsvc.broker.redis_connection import connection_class, connection_settings, shut_down, without_retries
from pushsvc.broker.replies import Demoted, Host, ScriptMissing, info_of, raise_first, read_reply, reason
from pushsvc.broker.script import Argument, Script, ScriptCall, load_scripts
from pushsvc.errors import BrokerUnavailable, OutcomeUnknown, PushError, StartupError

ServerKind = Literal["standalone", "sentinel", "cluster"]

_UntypedPool: Any = BlockingConnectionPool  # redis-py types it only in part
WATCH_INTERVAL = 0.5  # seconds between two requests to the Sentinels for the primary
_WRONG_KIND = {
    "standalone": "is a single server: use redis://host:port",
    "cluster": "is a node of a cluster: use redis+cluster://host:port,host:port",
    "sentinel": "is a Sentinel: use redis+sentinel://host:port,host:port/master",
}


class Connections(ABC):
    """Calls to the primaries that a URL names, in one round trip per primary."""

    publish_command: str
    numsub: str  # the subcommand of PUBSUB that counts the subscribers of such channels

    @abstractmethod
    def exchange(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands that may be lost or repeated. The reply to a refused one is its error, which is not raised.

        The first argument of each command is its key.
        """

    @abstractmethod
    def calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts, each atomic. The reply to a failed call is its error, which is not raised."""

    @abstractmethod
    def at(self, key: str) -> ConnectionPool:
        """Return the connections to the primary of a key."""

    @abstractmethod
    def primaries(self) -> list[ConnectionPool]:
        """Return the connections to all primaries; raise BrokerUnavailable if none is known."""

    def command(self, *words: Argument) -> Any:
        """Send one read-only command, and return its reply."""
        return self.commands([words])[0]

    def commands(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands that may be lost or repeated; raise the first error."""
        return raise_first(self.exchange(commands))

    def call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run one script; raise BrokerUnavailable (nothing done), OutcomeUnknown or BrokerFull."""
        return raise_first(self.calls([ScriptCall(script, keys, args)]))[0]

    def everywhere(self, *words: Argument) -> list[Any]:
        """Send one command to every primary, and return the replies; raise the first error."""
        return [node.command(*words) for node in self.primaries()]

    def ping(self) -> None:
        """Return if one of the primaries answers."""
        failure: PushError = BrokerUnavailable("the cluster has no primaries")
        for node in self.primaries():
            try:
                return node.probe()
            except PushError as error:
                failure = error
        raise failure


class ConnectionPool(Connections):
    """At most ``size`` connections. Each one knows the run id of its primary and has all scripts loaded.

    ``primary`` returns the primary's address before each connect; without it the URL has the address. A server of
    another ``kind`` is refused. After a connect timed out, no connect is tried for ``backoff`` seconds.
    """

    publish_command = "PUBLISH"
    numsub = "NUMSUB"

    def __init__(
        self, url: str, *, size: int = 32, timeout: float = 5.0, kind: ServerKind = "standalone",
        primary: Callable[[], Host] | None = None, backoff: float = 0.0,
    ) -> None:  # fmt: skip
        self._run_ids: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._kind = kind
        self._primary = primary
        self._backoff = backoff
        self._retry_at = 0.0
        self._watcher: threading.Thread | None = None
        self._closed = threading.Event()
        self._timeout = timeout
        self._probing = threading.Lock()
        self._probe: Any = None  # the connection of probes, outside the pool
        defaults = {"max_connections": size, "timeout": timeout, "client_name": "pushsvc", **without_retries(timeout)}
        fixed = {"redis_connect_func": self._on_connect, "connection_class": connection_class(url, primary)}
        self._pool: Any = _UntypedPool(**defaults | connection_settings(url) | fixed)

    def _on_connect(self, connection: Any) -> None:
        try:
            self._greet(connection)
        except BaseException:  # a killed greenlet too: a half-prepared connection must never be used
            connection.disconnect()
            raise

    def _greet(self, connection: Any) -> None:
        connection.on_connect()
        connection.send_command("INFO", "server")
        info = info_of(connection.read_response())
        kind = info.get("redis_mode") or info.get("server_mode", self._kind)  # Redis's name, and Valkey's
        place = getattr(connection, "path", None) or f"{connection.host}:{connection.port}"
        if kind != self._kind:
            raise StartupError(f"{place} {_WRONG_KIND.get(kind, f'is of the kind {kind!r}')}")
        if self._primary is not None:
            connection.send_command("ROLE")
            if connection.read_response()[0] != b"master":
                raise exceptions.ConnectionError(f"{place} is not the primary any more, or not yet")
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, args=[self._primary], daemon=True)
                self._watcher.start()
        load_scripts(connection)
        self._run_ids[connection] = info["run_id"]

    def _watch(self, primary: Callable[[], Host]) -> None:
        """End connections to former primaries. For some seconds after an ordered failover, until a Sentinel has made it
        a replica, the old primary takes writes that are lost."""
        while not self._closed.wait(WATCH_INTERVAL):
            with suppress(PushError):
                current = primary()
                for reference in self._run_ids.keyrefs():
                    connection = reference()
                    if connection is not None and (connection.host, connection.port) != current:
                        shut_down(connection)

    def open(self) -> Any:
        """Return a connected connection outside the pool; the caller closes it."""
        # The pool's own make_connection() would keep every one that it ever made.
        connection = self._pool.connection_class(**self._pool.connection_kwargs)
        self._connecting(connection.connect)
        return connection

    def probe(self) -> None:
        """Return if the primary answers, on a connection that no other call uses. Probes take turns."""
        if not self._probing.acquire(timeout=self._timeout):
            raise BrokerUnavailable("other probes wait for its answer")
        try:
            connection, self._probe = self._probe, None
            if connection is not None and _is_ended(connection):
                connection.disconnect()
                connection = None
            self._probe = self._ask(connection or self.open())
        finally:
            self._probing.release()

    def _ask(self, connection: Any) -> Any:
        """Send PING; return the connection if it may be used again."""
        try:
            raise_first(self._round_trip(connection, [("PING",)]))
        except BaseException as error:
            connection.disconnect()
            if isinstance(error, exceptions.RedisError | OSError):
                raise BrokerUnavailable(reason(error)) from error
            raise
        return connection

    def run_id(self, connection: Any) -> str:
        """Return the run id of a connection's primary."""
        return self._run_ids[connection]

    def calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        if not calls:
            return []
        connection = self._connecting(self._pool.get_connection)
        run_id = self._run_ids[connection]
        writes = any(call.script.writes for call in calls)
        return self._exchange_on(connection, [call.command(run_id) for call in calls], writes=writes)

    def at(self, key: str) -> ConnectionPool:
        return self

    def primaries(self) -> list[ConnectionPool]:
        return [self]

    def exchange(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        return self._exchange_on(self._connecting(self._pool.get_connection), commands, writes=False)

    def _connecting(self, connect: Callable[[], Any]) -> Any:
        if self._retry_at and monotonic() < self._retry_at:
            raise BrokerUnavailable("it did not answer the last call in time")
        try:
            return connect()
        except (exceptions.RedisError, OSError) as error:
            if isinstance(error, exceptions.TimeoutError):
                self._retry_at = monotonic() + self._backoff
            raise BrokerUnavailable(reason(error)) from error

    def _exchange_on(self, connection: Any, commands: Sequence[Sequence[Argument]], *, writes: bool) -> list[Any]:
        reusable = False
        try:
            replies = self._round_trip(connection, commands)
            if missing := [place for place, reply in enumerate(replies) if isinstance(reply, ScriptMissing)]:
                load_scripts(connection)
                # Sending again keeps the order only if none of the later commands has run.
                if len(commands) - missing[0] == len(missing):
                    replies[missing[0] :] = self._round_trip(connection, commands[missing[0] :])
            reusable = not any(isinstance(reply, Demoted) for reply in replies)
            return replies
        except (exceptions.RedisError, OSError) as error:
            failure = OutcomeUnknown if writes else BrokerUnavailable
            raise failure(reason(error)) from error
        finally:
            if not reusable:
                # A late reply must never be read as that of a later command; and the next connect finds the primary.
                connection.disconnect()
            self._pool.release(connection)

    @staticmethod
    def _round_trip(connection: Any, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        return [read_reply(connection) for _ in commands]

    def close(self, *, busy: bool = True) -> None:
        """Close every connection of the pool; those in use only if ``busy``."""
        self._closed.set()
        with suppress(OSError):
            self._pool.disconnect(inuse_connections=busy)
        with suppress(OSError):
            connection, self._probe = self._probe, None
            if connection is not None:
                connection.disconnect()


def _is_ended(connection: Any) -> bool:
    """Return whether an unused connection was ended by its peer, or has bytes that nothing asked for."""
    try:
        return bool(connection.can_read())
    except (exceptions.RedisError, OSError):
        return True
