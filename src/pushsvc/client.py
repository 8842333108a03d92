"""The Python clients, which the distribution ``pushsvc-client`` has without the server."""

from typing import TYPE_CHECKING

from pushsvc_client import Change, Client, ClientError, InvalidValue, Message, State, subscription
from pushsvc_client import __getattr__ as __getattr__  # imports AsyncClient when it is used

if TYPE_CHECKING:
    from pushsvc_client import AsyncClient

__all__ = ["AsyncClient", "Change", "Client", "ClientError", "InvalidValue", "Message", "State", "subscription"]
