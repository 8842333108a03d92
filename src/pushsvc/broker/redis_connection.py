"""Single connections to Redis. They never send anything twice."""

import os
import select
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gevent import get_hub, monkey
from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import Connection, DefaultParser, parse_url
from redis.credentials import CredentialProvider
from redis.retry import Retry

from pushsvc.broker.replies import Host, reason
from pushsvc.broker.script import Argument
from pushsvc.errors import BrokerUnavailable

try:
    from redis.driver_info import DriverInfo

    # redis-py looks its version up in the folders of all packages, 5 to 10 ms at every connect.
    _DRIVER = {"driver_info": DriverInfo()}
except ImportError:  # redis-py before 7.2
    _DRIVER = {}
_poll = monkey.get_original("select", "poll")
_Parser: Any = DefaultParser
_READS = 16  # of up to 64 KB, between two pauses: half a millisecond


def without_retries(timeout: float) -> dict[str, Any]:
    """Return options of a connection with a timeout in seconds."""
    # redis-py re-sends a whole pipeline when a connection breaks, 10 times by default: that would double events.
    # Its classes are typed only in part.
    return {
        "retry": Retry(NoBackoff(), 0), "retry_on_error": [], "socket_timeout": timeout,
        "socket_connect_timeout": timeout, "protocol": 2, "parser_class": PausingParser, **_DRIVER,
    }  # fmt: skip


class PausingParser(_Parser):  # type: ignore[misc]
    """Lets the event loop have turns while a large reply arrives: a window has 25 MB, which took 30 to 48 ms.

    A socket that has data at each read never waits for more.
    """

    _reads = 0  # of the reply

    def read_response(self, *args: Any, **options: Any) -> Any:
        self._reads = 0
        return super().read_response(*args, **options)

    def read_from_socket(self, *args: Any, **options: Any) -> Any:
        self._reads += 1
        if self._reads % _READS == 0 and monkey.is_module_patched("socket"):
            get_hub().wait(get_hub().loop.timer(0))
        return super().read_from_socket(*args, **options)


def connection_class(url: str, primary: Callable[[], Host] | None) -> type[Any]:
    """Return the class of connections to a URL; ``primary`` returns the current address before each connect."""
    base: Any = connection_settings(url).get("connection_class", Connection)

    class RedisConnection(base):  # type: ignore[misc]
        def can_read(self, timeout: float = 0) -> bool:
            # redis-py asks before each use. The socket is silent or closed then; waiting in gevent costs a loop turn.
            if not timeout and self._is_silent():
                return False
            return bool(super().can_read(timeout))

        def _is_silent(self) -> bool:
            """Return whether the socket, TLS and the parser all hold no data; does not yield."""
            sock, reader = self._sock, getattr(self._parser, "_reader", None)
            if sock is None or reader is None or reader.has_data():
                return False
            poll = _poll()
            poll.register(sock, select.POLLIN)
            return not (isinstance(sock, ssl.SSLSocket) and sock.pending()) and not poll.poll(0)

        def _connect(self) -> Any:
            if primary is not None:
                self.host, self.port = primary()
            return super()._connect()

    return RedisConnection


def ask(url: str, *words: Argument, timeout: float = 1.0) -> Any:
    """Send one command over a connection of its own; raise BrokerUnavailable, or redis's ResponseError."""
    settings = connection_settings(url)
    kind = settings.pop("connection_class", Connection)
    connection = kind(**settings | without_retries(timeout))
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


def shut_down(connection: Any) -> None:
    """End a connection from another thread: its user reads the end of the stream and closes it."""
    sock = connection._sock
    if sock is not None:
        with suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as twin:
            twin.shutdown(socket.SHUT_RDWR)


class PasswordFile(CredentialProvider):
    """User and password, read from a file at each connect: a new password needs no restart."""

    def __init__(self, username: str | None, path: str) -> None:
        self._username = username
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the password, after the user if there is one; raise BrokerUnavailable."""
        try:
            with open(self._path, "rb") as file:
                data = file.read(_MAX_PASSWORD + 1)
            password = data.decode().removesuffix("\n").removesuffix("\r")
        except OSError as error:
            raise BrokerUnavailable(f"cannot read the password in {self._path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise BrokerUnavailable(f"the password in {self._path} is not UTF-8") from None
        if not password or len(data) > _MAX_PASSWORD:
            raise BrokerUnavailable(
                f"{self._path} must hold a password of 1 to {_MAX_PASSWORD} bytes, and nothing else"
            )
        return (self._username, password) if self._username else (password,)


_MAX_PASSWORD = 1_024


def connection_settings(url: str) -> dict[str, Any]:
    """Return the parts of the URL of one server as redis-py's arguments; raise ValueError."""
    settings: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    if path := settings.pop("password_file", None):
        settings["credential_provider"] = PasswordFile(settings.pop("username", None), path)
    return settings
