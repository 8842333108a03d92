"""The publish fast path: calls the function that the Flask view calls, without Flask."""

from collections.abc import Hashable, Mapping, Sequence

from pushsvc.auth.grants import EVERYTHING, Grants
from pushsvc.errors import TooManyRequests
from pushsvc.server.request import Request
from pushsvc.web import audit
from pushsvc.web.context import Context
from pushsvc.web.long_requests import Requester
from pushsvc.web.problem import document_of
from pushsvc.web.publish import publish, publish_batches
from pushsvc.web.responses import BatchResponse, HttpResponse


class Publisher:
    """Publishes for one app. ``Admission`` has chosen the requests."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._common = context.security.headers(None)

    def publish(
        self, topic: str, request: Request, body: bytes, client: Requester, grants: Grants = EVERYTHING, id: str = ""
    ) -> HttpResponse:
        """Publish the body of the request ``id``, and log why it was refused, if it was."""
        try:
            client.count_request()
        except TooManyRequests as error:
            status, headers, text = document_of(error)
        else:
            content_type = request.headers["content-type"]
            status, headers, text = publish(self._context, topic, content_type, body, client=client, grants=grants)
        if status in audit.STATUSES:
            refused = audit.RefusedRequest(id, "POST", client.address, topic, grants.subject or None)
            refused.note_problem(status, text)
        return HttpResponse(status, headers + self._common, text)

    def primary_of(self, topic: str) -> Hashable:
        """Return what stands for the primary that has a topic."""
        return self._context.broker.primary_of(topic)

    def publish_batches(self, posts: Mapping[str, Sequence[bytes]]) -> list[BatchResponse | None]:
        """Publish JSON bodies of one event each, by topic, in one step; None for a topic each of whose bodies must be
        published on its own."""
        found = publish_batches(self._context, posts)
        return [one and BatchResponse(one.status, one.headers + self._common, one.bodies) for one in found]
