"""Publishes what the application has granted without Flask, where Flask would answer the same."""

from __future__ import annotations

from typing import Any

from pushsvc.auth.grants import Grants
from pushsvc.server.context import FastPaths
from pushsvc.server.request import Request
from pushsvc.server.request_reader import REPETITIONS
from pushsvc.web.long_requests import CLIENT, Requester
from pushsvc.web.rates.accounts import Accounts
from pushsvc.web.request_id import REQUEST_ID
from pushsvc.web.responses import HttpResponse


class GrantedPublish:
    """The publish fast path of WSGI requests. ``accounts`` are those of subjects, if they are limited."""

    def __init__(self, paths: FastPaths, accounts: Accounts | None) -> None:
        self._admission, self._publisher, self._batcher = paths.admission, paths.publisher, paths.batcher
        self._accounts = accounts

    def answer(self, path: str, environ: dict[str, Any]) -> HttpResponse | None:
        """Return the answer to a request for ``path``, with its query, that has a token; None if it goes to Flask."""
        request = _request_of(path, environ)
        topic = self._admission.publish_topic(request)
        grants = None if topic is None else self._admission.publisher(request, topic)
        if topic is None or grants is None:
            return None
        body = environ["wsgi.input"].read()
        client = self._client_of(grants, environ)
        response = self._publisher.publish(topic, request, body, client, grants, environ[REQUEST_ID])
        if self._batcher is not None and response.status == 202 and REPETITIONS in environ:
            # Equal requests have equal answers of the application until the grants expire.
            environ[REPETITIONS](self._batcher, request, client.accounts or (), grants)
        return response

    def _client_of(self, grants: Grants, environ: dict[str, Any]) -> Requester:
        """Return the client with the account of its subject, as the app would."""
        client: Requester = environ[CLIENT]
        if self._accounts is None or not grants.subject:
            return client
        own = self._accounts.of_subject(grants.subject, loopback=client.local)
        return client._replace(accounts=(*(client.accounts or ()), *own))


def _request_of(path: str, environ: dict[str, Any]) -> Request:
    path, _, query = path.partition("?")
    request = Request(environ["REQUEST_METHOD"], path, query, 1)
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            request.headers[name[5:].replace("_", "-").lower()] = value
    if (media_type := environ.get("CONTENT_TYPE")) is not None:
        request.headers["content-type"] = media_type
    if (length := environ.get("CONTENT_LENGTH")) is not None:
        request.length = int(length)
    return request
