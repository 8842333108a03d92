"""Replies of Redis, and the errors that they mean."""

import re
from collections.abc import Iterable
from typing import Any

from redis import exceptions

from pushsvc.errors import BrokerFull, BrokerUnavailable, PushError

Host = tuple[str, int]

_FULL = ("OOM", "MISCONF", "NOREPLICAS")
_UNAVAILABLE = ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY")
_ARGUMENTS = re.compile(",? with args beginning with:.*", re.DOTALL)
_UNAVAILABLE_ERRORS = (exceptions.ClusterDownError, exceptions.TryAgainError, exceptions.AskError)


class Moved(BrokerUnavailable):
    """Another node of the cluster has the slot; nothing was done here."""

    def __init__(self, error: exceptions.MovedError) -> None:
        super().__init__(reason(error))
        self.slot: int = error.slot_id
        self.host: Host = (error.host, error.port)


class Demoted(BrokerUnavailable):
    """The server is a replica now; nothing was done."""


class ScriptMissing(BrokerUnavailable):
    """Redis does not know the script, because its scripts were flushed; nothing was done."""


def read_reply(connection: Any) -> Any:
    """Return the next reply, or the error that it means; raise if the connection is broken."""
    try:
        return connection.read_response()
    except exceptions.BusyLoadingError as error:
        return BrokerUnavailable(reason(error))
    except exceptions.NoScriptError as error:
        return ScriptMissing(reason(error))
    except exceptions.ResponseError as error:
        return _as_push_error(error)


def _as_push_error(error: exceptions.ResponseError) -> PushError:
    text = reason(error)
    if isinstance(error, exceptions.MovedError):
        return Moved(error)
    if isinstance(error, exceptions.ReadOnlyError):
        return Demoted(text)
    if isinstance(error, exceptions.OutOfMemoryError) or any(word in text for word in _FULL):
        return BrokerFull(text)
    if isinstance(error, _UNAVAILABLE_ERRORS) or text.startswith(_UNAVAILABLE):
        return BrokerUnavailable(text)
    return PushError(f"Redis answered: {text}")


def info_of(reply: bytes) -> dict[str, str]:
    """Return the fields of a reply to INFO."""
    return dict(line.split(":", 1) for line in reply.decode().split("\r\n") if ":" in line)


def raise_first(replies: list[Any]) -> list[Any]:
    """Return the replies, or raise the first error among them."""
    for reply in replies:
        if isinstance(reply, PushError):
            raise reply
    return replies


def reason(error: BaseException) -> str:
    """Return an error's message, or its class name if it has none.

    A server that does not know a command quotes its arguments: those of AUTH are user and password.
    """
    return _ARGUMENTS.sub("", str(error)) or type(error).__name__


def as_text(values: Iterable[bytes]) -> list[str]:
    """Return Redis's byte strings as text."""
    return [value.decode() for value in values]
