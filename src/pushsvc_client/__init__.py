"""The Python clients of pushsvc, without the server: publish events, watch events and statistics."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

from pushsvc_client.client import Client
from pushsvc_client.errors import ClientError, InvalidValue, PushError
from pushsvc_client.sse import Message
from pushsvc_client.state import Change, State, subscription

if TYPE_CHECKING:
    from pushsvc_client.async_client import AsyncClient

__all__ = [
    "AsyncClient", "Change", "Client", "ClientError", "InvalidValue", "Message", "PushError", "State", "subscription",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name != "AsyncClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pushsvc_client.async_client import AsyncClient  # asyncio takes longer to import than all the rest

    return AsyncClient
