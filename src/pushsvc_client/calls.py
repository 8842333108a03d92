"""What both clients do, over any network."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from pushsvc_client.batches import (
    ATTRIBUTES,
    BodyLimits,
    EventEncoder,
    Events,
    Missing,
    Table,
    add_receipts,
    async_batches,
)
from pushsvc_client.credentials import AsyncToken, Credentials
from pushsvc_client.errors import ClientError
from pushsvc_client.following import OnOutage, Outage, follow
from pushsvc_client.network import Network
from pushsvc_client.session import JSON, Parameter, Session
from pushsvc_client.sse import Message
from pushsvc_client.state import Change, States, subscription
from pushsvc_client.tables import Lines

if TYPE_CHECKING:
    from ssl import SSLContext

Handle = Callable[[dict[str, Any]], object]
Handler = TypeVar("Handler", bound=Handle)
AsyncEvents = Events | AsyncIterable[Mapping[str, Any]]
_NO_QUERY: Mapping[str, Parameter] = {}
_MERGE_PATCH = "application/merge-patch+json"


class Calls:
    """The calls of a server. ``Client`` explains the parameters."""

    def __init__(
        self, url: str, network: Network, *, token: AsyncToken | None, timeout: float, patience: float,
        on_outage: OnOutage | None, tls: SSLContext | None,
    ) -> None:  # fmt: skip
        self._on_outage = on_outage
        self.session = Session(url, network, Credentials(token), timeout=timeout, patience=patience, tls=tls)

    async def publish(
        self, topic: str, events: AsyncEvents | bytes, content_type: str, *, repeatable: bool | None,
        missing: Missing, batch_size: int, ids: bool, query: dict[str, Parameter],
    ) -> dict[str, Any]:  # fmt: skip
        """Publish events and return the sum of the receipts; raise ClientError."""
        if isinstance(events, bytes):
            path = self.session.path(topic, "events", query)
            return await self._post(path, events, content_type, repeatable=bool(repeatable))
        if missing not in ("error", "absent") or batch_size < 1:
            raise ValueError(f"missing={missing!r} must be 'error' or 'absent', batch_size={batch_size!r} at least 1")
        table = isinstance(events, Table)
        columns = {name: str(query.pop(name)) for name in ATTRIBUTES if table and name in query}
        path = self.session.path(topic, "events", query)
        receipt: dict[str, Any] | None = None
        try:
            async with aclosing(async_batches(events, columns, missing, BodyLimits(batch_size), ids=ids)) as bodies:
                async for batch in bodies:
                    safe = batch.all_have_ids if repeatable is None else repeatable
                    one = await self._post(path, batch.body, JSON, repeatable=safe)
                    receipt = add_receipts(receipt, one, batch.first_row)
        except ClientError as error:
            error.receipt = receipt
            raise
        return receipt or {}

    async def _post(self, path: str, body: bytes, content_type: str, *, repeatable: bool) -> dict[str, Any]:
        return await self.session.retry(
            lambda: self.session.request("POST", path, body, content_type), repeatable=repeatable
        )

    async def correct(self, topic: str, event: str | int, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change members of a stored event; return the answer. Raise ClientError, or InvalidValue."""
        body, _ = EventEncoder("error", ids=False).encode(0, changes)
        return await self._correct("PATCH", topic, event, body)

    async def delete_event(self, topic: str, event: str | int, *, erase: bool) -> dict[str, Any]:
        """Delete a stored event; return the answer. Raise ClientError."""
        return await self._correct("DELETE", topic, event, None, {"erase": "true"} if erase else {})

    async def event(self, topic: str, event: str | int) -> dict[str, Any]:
        """Return a stored event and what was done to it; raise ClientError."""
        return await self.read(self._event_path(topic, event, {}))

    async def _correct(
        self, method: str, topic: str, event: str | int, body: bytes | None, query: Mapping[str, Parameter] = _NO_QUERY
    ) -> dict[str, Any]:
        path = self._event_path(topic, event, query)
        # Done twice it changes nothing more.
        return await self.session.retry(lambda: self.session.request(method, path, body, _MERGE_PATCH), repeatable=True)

    def _event_path(self, topic: str, event: str | int, query: Mapping[str, Parameter]) -> str:
        name = f"${event}" if isinstance(event, int) else quote(event, safe="")
        return self.session.path(topic, f"events/{name}", query)

    async def read(self, path: str) -> dict[str, Any]:
        """Return the JSON object at a path; raise ClientError."""
        return await self.session.retry(lambda: self.session.request("GET", path), repeatable=True)

    def export(self, topic: str, format: str, query: Mapping[str, Parameter]) -> AsyncGenerator[bytes]:
        """Yield the events that a topic has now in pieces of a document; raise ClientError."""
        path = self.session.path(topic, f"events.{quote(format, safe='')}", {**query, "limit": "all"})
        return self.session.pieces(path)

    async def history(self, topic: str, query: Mapping[str, Parameter]) -> AsyncGenerator[dict[str, Any]]:
        """Yield the events that a topic has now; raise ClientError, also after some if the answer is cut."""
        lines = Lines()
        async with aclosing(self.export(topic, "ndjson", query)) as pieces:
            async for piece in pieces:
                for event in lines.feed(piece):
                    yield event

    def follow(self, path: str, last_id: str, query: Mapping[str, Parameter]) -> AsyncGenerator[Message]:
        """Yield the messages of a stream forever; raise ClientError."""
        with_heartbeats = query.get("heartbeat") == "event"
        return follow(self.session, path, last_id, self.outage(), with_heartbeats=with_heartbeats)

    def outage(self) -> Outage:
        """Return what reports an outage to the user of the client."""
        return Outage(self._on_outage)

    async def changes(self, states: States, last_id: str) -> AsyncGenerator[Change]:
        """Yield the changes of subscriptions forever; raise ClientError."""
        # A heartbeat that is an event comes at once: it has a cursor, so events before a first message are not missed.
        query: dict[str, Parameter] = {"sub": list(states), "names": "off", "heartbeat": "event"}
        path = self.session.stream_path(query)
        async with aclosing(follow(self.session, path, last_id, self.outage(), with_heartbeats=False)) as messages:
            async for message in messages:
                change = states.take(message.event, json.loads(message.data), message.id)
                if change is not None:
                    yield change


class Handlers(dict[str, list[Handle]]):
    """Functions by the subscriptions whose events they take."""

    def on(self, topic: str, query: Mapping[str, Parameter]) -> Callable[[Handler], Handler]:
        """Return a decorator that adds a function."""
        text = subscription("events", topic, **query)

        def add(function: Handler) -> Handler:
            self.setdefault(text, []).append(function)
            return function

        return add

    def of(self, change: Change) -> list[Handle]:
        """Return the functions to call with the data of a change."""
        return self[change.subscription] if change.name == "event" else []
