"""Requests that schemathesis makes of /openapi.json, to a running server: every answer is as the document says.

With 100 examples (CI) this takes about a minute.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from support.effort import EXAMPLES
from support.stack import Stack
from support.waiting import DEADLINE, until

if TYPE_CHECKING:
    from schemathesis import APIOperation, Case

KEY = "0123456789abcdef0123456789abcdef"
TOPICS = ["feedback", "orders.eu"]
ROOT = Path(__file__).parents[2]


def token(**grants: list[Any]) -> str:
    import jwt

    now = int(time.time())
    return jwt.encode({"sub": "search", "iat": now, "exp": now + 3_600, "pushsvc": grants}, KEY, "HS256")


TOKENS = {
    "none": None,
    "wrong": "no.token.atall",
    "reader": token(subscribe=["feedback", {"topics": "orders.>", "keys": ["a"]}]),
    "writer": token(publish=["feedback", {"topics": "orders.>", "keys": ["a"]}]),
    "manager": token(publish=[">"], subscribe=[">"], manage=[">"]),
}


@pytest.fixture(scope="module", params=["open", "authorized"])
def searched(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A server that asks nobody for credentials, and one that asks everybody, with some events."""
    folder = tmp_path_factory.mktemp("searched")
    with Stack(redis_url, f"search-{request.param}:", folder) as stack:
        if request.param == "authorized":
            stack.configure(f'jwt_key = "{KEY}"\n')
        stack.start_aggregator()
        stack.start_web()
        headers = {"Authorization": f"Bearer {TOKENS['manager']}"} if request.param == "authorized" else {}
        for topic in TOPICS:
            body = json.dumps([{"key": key, "x": number} for number, key in enumerate("aabc")]).encode()
            path = f"/v1/topics/{topic}/events"
            assert stack.request("POST", path, body, Content_Type="application/json", **headers).status == 202
            until(lambda: stack.get(f"/v1/topics/{topic}/stats.json", **headers).status == 200)  # noqa: B023
        stack.authorizes = bool(headers)
        yield stack


def operations() -> list[APIOperation]:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    document = json.loads((ROOT / "src/pushsvc/web/openapi.json").read_text())
    return [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]


def send(case: Case, url: str, headers: dict[str, str], session: requests.Session) -> requests.Response:
    """Return the answer; of an event stream, which has no end, only the head."""
    arguments = case.as_transport_kwargs(base_url=url)
    arguments["headers"] = {**arguments["headers"], **headers}
    response = session.request(**arguments, stream=True, timeout=DEADLINE, allow_redirects=False)
    if response.headers.get("Content-Type", "").startswith("text/event-stream"):
        response.close()
        response._content, response._content_consumed = b"", True
    else:
        _ = response.content
    return response


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_answer_is_as_the_document_says(searched: Stack, mode: str) -> None:
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.core.failures import FailureGroup
    from schemathesis.specs.openapi import checks

    checked = [
        not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
        checks.response_schema_conformance, checks.response_headers_conformance,
    ]  # fmt: skip
    credentials = TOKENS if searched.authorizes else {"none": None}
    topics = st.sampled_from([None, *TOPICS, *TOPICS])
    session = requests.Session()
    session.trust_env = False
    failures = []
    for operation in operations():

        @settings(
            max_examples=max(2, EXAMPLES // 3), deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(operation.as_strategy(GenerationMode(mode)), topics, st.sampled_from(sorted(credentials)))
        def search(case: Case, topic: str | None, credential: str) -> None:
            if topic is not None and "topic" in (case.path_parameters or {}):
                case.path_parameters["topic"] = topic
            if isinstance(case.query, dict):
                case.query.pop("at_least", None)  # waits for seconds
            if case.method == "DELETE":
                case.path_parameters["topic"] = "deleted"
            found = credentials[credential]
            headers = {} if found is None else {"Authorization": f"Bearer {found}"}
            response = send(case, searched.url, headers, session)
            case.validate_response(response, checks=checked)

        try:
            search()
        except Unsatisfiable:
            pass  # every request is valid
        except (Exception, FailureGroup) as error:  # noqa: BLE001 - all operations are searched before the test fails
            failures.append(f"{operation.label}\n{''.join(traceback.format_exception(error))}")
    session.close()
    assert not failures, "\n\n".join(failures)
