"""Limits of rates and streams, the client behind a proxy, request ids and logs, as clients and operators see them."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import ExitStack, suppress
from typing import Any

import jwt
import pytest

from support.stack import Answer, Stack
from support.waiting import until

PROBLEM = "urn:pushsvc:problem:too-many-requests"
EVENT = b'{"n":1}'


def post_all(stack: Stack, topic: str, count: int, **headers: str) -> list[int]:
    """Return the statuses of posts on one connection."""
    head = f"POST /v1/topics/{topic}/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    request = f"{head}Content-Length: {len(EVENT)}\r\n\r\n".encode() + EVENT
    statuses: list[int] = []
    with socket.create_connection(("127.0.0.1", stack.port)) as connection:
        reader = connection.makefile("rb")
        for _ in range(count):
            connection.sendall(request)
            statuses.append(int(reader.readline().split()[1]))
            length = 0
            while (line := reader.readline()) != b"\r\n":
                length = int(line.split()[1]) if line.lower().startswith(b"content-length") else length
            reader.read(length)
    return statuses


def refusal(stack: Stack, topic: str, body: bytes = EVENT) -> Answer | None:
    """Return the answer to a post after as many that the rate has hardly room for it."""
    post_all(stack, topic, 40)
    answer = stack.post(topic, body)
    return answer if answer.status == 429 else None


def test_requests_beyond_the_rate_are_refused_until_it_has_room(stack: Stack, topic: str) -> None:
    stack.configure("[limits]\nrequests_per_second = 20\n")
    stack.start_web()
    begin = time.monotonic()
    statuses = post_all(stack, topic, 60)
    seconds = time.monotonic() - begin
    assert 20 <= statuses.count(202) <= 40 + 20 * seconds
    assert statuses.count(429) == 60 - statuses.count(202)
    assert seconds >= 0.1 * (statuses.count(429) - 1), "a connection that was refused is not read at once"
    refused = until(lambda: refusal(stack, topic))
    assert refused.json()["type"] == PROBLEM
    assert refused.json()["violated-policies"] == ["requests"]
    assert refused.json()["request_id"] == refused.headers["X-Request-Id"]
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.headers["RateLimit-Policy"] == '"requests";q=20;w=1'
    assert re.fullmatch(r'"requests";r=0;t=[0-9]+', refused.headers["RateLimit"])
    assert stack.get("/livez").status == 200
    until(lambda: stack.post(topic, {"n": 1}).status == 202)


def test_a_stream_beyond_the_rate_gets_a_reason_and_a_time_to_come_back(stack: Stack, topic: str) -> None:
    stack.configure("[limits]\nrequests_per_second = 5\n")
    stack.start_web()
    path = f"/v1/topics/{topic}/events"

    def refused() -> bytes | None:
        post_all(stack, topic, 10)
        with stack.stream(path) as stream:
            assert stream.status == 200
            words = stream.read()
            return None if b": pushsvc" in words else words

    words = until(refused)
    assert re.match(rb"retry: [0-9]{4,}\n: more than 5 requests a second of your address\n", words)


def test_events_count_whatever_the_size_of_a_request(stack: Stack, topic: str) -> None:
    stack.configure("[limits]\nevents_per_second = 100\n")
    stack.start_web()
    batch = [{"n": 1}] * 250
    assert stack.post(topic, batch).status == 202
    answer = stack.post(topic, batch)
    assert answer.status == 429
    assert answer.json()["violated-policies"] == ["events"]
    assert stack.get(f"/v1/topics/{topic}").json()["last_offset"] == 250
    until(lambda: stack.post(topic, EVENT).status == 202)


def test_workers_share_a_rate(stack: Stack, topic: str) -> None:
    """Each of four workers may exceed the limit by one slice, a tenth of it, or keep one that it does not use."""
    stack.configure("[limits]\nrequests_per_second = 50\n")
    stack.start_web("--workers", "4")
    begun = time.monotonic()
    accepted = sum(post_all(stack, topic, 30).count(202) for _ in range(12))
    assert 30 <= accepted <= 50 * (1 + time.monotonic() - begun) + 4 * 5


def test_the_limit_of_streams_is_shared_and_ends_with_them(stack: Stack, topic: str) -> None:
    stack.configure("[limits]\nstreams_per_address = 3\n")
    stack.start_web("--workers", "2")
    path = f"/v1/topics/{topic}/events"

    def opened(streams: ExitStack) -> bool:
        return b": pushsvc" in streams.enter_context(stack.stream(path)).read()

    with ExitStack() as streams:
        assert [opened(streams) for _ in range(3)] == [True] * 3
        for _ in range(4):
            with stack.stream(path) as refused:
                assert refused.status == 200
                assert b": more than 3 streams of your address\n" in refused.rest()
        assert stack.post(topic, {"n": 1}).status == 202
    with ExitStack() as streams:
        until(lambda: opened(streams))


def test_a_stream_of_more_rows_than_a_process_may_follow_gets_a_reason(stack: Stack, topic: str) -> None:
    """It waits while the window is loaded, and ends no other stream."""
    stack.configure("[limits]\nfollowed_bytes = 1_000_000\n")
    stack.start_web()
    stack.start_aggregator()
    assert stack.post(f"{topic}.small", {"n": 1}).status == 202
    for begin in range(0, 6_000, 2_000):
        assert stack.post(topic, [{"key": f"k{n}", "n": 1} for n in range(begin, begin + 2_000)]).status == 202
    with stack.stream(f"/v1/topics/{topic}.small/stats?window=1m") as small:
        assert small.frame()[0] == "snapshot"
        with stack.stream(f"/v1/topics/{topic}/stats?window=1m") as large:
            assert large.status == 200
            assert b": The streams of this process follow too many topics and windows\n" in large.rest()
        assert stack.stats(topic, "?window=1m&at_least=6000")["offset"] == 6_000
        assert stack.post(f"{topic}.small", {"n": 2}).status == 202
        assert small.until(lambda _, data: data.get("offset") == 2)
    assert stack.metric("pushsvc_followed_bytes") < 1_000_000


def test_connections_beyond_the_rate_are_refused(stack: Stack, topic: str) -> None:
    stack.configure("[limits]\nconnections_per_second = 30\n")
    stack.start_web()
    statuses = []
    for _ in range(120):
        with socket.create_connection(("127.0.0.1", stack.port)) as connection:
            connection.sendall(b"GET /v1/topics/t HTTP/1.1\r\nHost: localhost\r\n\r\n")
            try:
                statuses.append(connection.recv(12)[9:])
            except ConnectionResetError:
                statuses.append(b"")
    assert statuses.count(b"200") >= 20
    assert statuses.count(b"429") >= 1

    def answers() -> bool:
        with suppress(ConnectionError):
            return stack.get(f"/v1/topics/{topic}").status == 200
        return False

    until(answers)


def test_the_defaults_do_not_hold_for_a_program_of_this_machine(stack: Stack, topic: str) -> None:
    stack.start_web("--trusted-proxy", "127.0.0.1")
    assert set(post_all(stack, topic, 3_000)) == {202}


def test_behind_a_trusted_proxy_each_client_has_its_own_limit(stack: Stack, topic: str) -> None:
    stack.configure("[limits]\nrequests_per_second = 20\n")
    stack.start_web("--trusted-proxy", "127.0.0.0/8")
    first = post_all(stack, topic, 60, X_Forwarded_For="198.51.100.9, 203.0.113.7")
    assert 429 in first
    assert post_all(stack, topic, 10, X_Forwarded_For="198.51.100.9, 203.0.113.8") == [202] * 10
    assert 429 in post_all(stack, topic, 60, X_Forwarded_For="127.0.0.1, 203.0.113.9")


def test_without_a_trusted_proxy_a_client_cannot_choose_its_address(stack: Stack, topic: str) -> None:
    stack.configure("[limits]\nrequests_per_second = 20\n")
    stack.start_web("--access-log")
    statuses = [post_all(stack, topic, 1, X_Forwarded_For=f"203.0.113.{n}")[0] for n in range(60)]
    assert 429 in statuses
    assert "203.0.113" not in stack.output("web")
    until(lambda: stack.output("web").count(f'127.0.0.1 "POST /v1/topics/{topic}/events" ') == 60)


def test_the_client_of_a_proxy_is_in_the_logs_with_the_id_of_its_request(stack: Stack, topic: str) -> None:
    stack.start_web("--trusted-proxy", "127.0.0.1", "--access-log", "--log-format", "json")
    path = f"/v1/topics/{topic}/events?to%6ben=hush&limit=1"
    forwarded = {"Forwarded": "for=1.1.1.1, for=203.0.113.7;proto=https", "X_Request_Id": "abc-1"}
    assert stack.get(path, **forwarded).headers["X-Request-Id"] == "abc-1"
    refused = stack.request("POST", path, EVENT, Origin="https://evil.example", **forwarded)
    assert (refused.status, refused.json()["request_id"]) == (403, "abc-1")

    def lines(logger: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in stack.output("web").splitlines() if line.startswith("{")]
        return [line for line in found if line["logger"] == f"pushsvc.{logger}" and line["request_id"] == "abc-1"]

    until(lambda: len(lines("access")) == 2)
    assert {(line["method"], line["status"], line["address"]) for line in lines("access")} == {
        ("GET", 400, "203.0.113.7"), ("POST", 403, "203.0.113.7"),
    }  # fmt: skip
    [audit] = lines("audit")
    assert (audit["action"], audit["address"], audit["topic"]) == ("publish", "203.0.113.7", topic)
    assert audit["reason"] == "forbidden"
    assert audit["level"] == "warning"
    assert "hush" not in stack.output("web")


def test_two_headers_of_a_proxy_that_disagree_are_refused(stack: Stack) -> None:
    stack.start_web("--trusted-proxy", "127.0.0.1")
    answer = stack.get("/livez", Forwarded="for=203.0.113.7", X_Forwarded_For="203.0.113.8")
    assert answer.status == 400
    assert "Forwarded and X-Forwarded-For" in answer.json()["detail"]
    with socket.create_connection(("127.0.0.1", stack.port)) as connection:
        forwarded = b"Forwarded: for=203.0.113.7\r\nX-Forwarded-For: 203.0.113.8\r\n"
        connection.sendall(b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n" + forwarded + b"\r\n")
        answered = connection.makefile("rb").read()
    assert answered.startswith(b"HTTP/1.1 400 ")
    assert answered.endswith(b"\r\n\r\n"), "an answer to HEAD has no body"


def test_the_scheme_of_a_trusted_proxy_decides_which_origin_is_the_own_one(stack: Stack, topic: str) -> None:
    stack.start_web("--trusted-proxy", "127.0.0.1")
    path, client = f"/v1/topics/{topic}/events", {"X_Forwarded_For": "203.0.113.7"}
    own = {"Content_Type": "application/json", "Origin": "http://localhost", "Host": "localhost"}
    assert stack.request("POST", path, EVENT, **own, **client).status == 202
    assert stack.request("POST", path, EVENT, **own, **client, X_Forwarded_Proto="https").status == 403


def test_every_answer_has_an_id_of_its_own(shared_server: Stack, topic: str) -> None:
    path = f"/v1/topics/{topic}/events"
    answers = [shared_server.post(topic, {"n": n}) for n in range(5)]
    answers += [shared_server.get(path), shared_server.get("/nothing"), shared_server.request("GET", "/", X="\x01")]
    ids = [answer.headers["X-Request-Id"] for answer in answers]
    for _ in range(3):
        with shared_server.stream(path) as stream:
            ids.append(stream.response.headers["X-Request-Id"])
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{16}", id) for id in ids)


def test_only_a_trusted_proxy_chooses_an_id(stack: Stack, topic: str) -> None:
    stack.start_web()
    assert stack.get("/livez", X_Request_Id="mine").headers["X-Request-Id"] != "mine"
    stack.stop("web")
    stack.start_web("--trusted-proxy", "127.0.0.1")
    assert stack.get("/livez", X_Request_Id="theirs").headers["X-Request-Id"] == "theirs"
    for bad in ('"quoted"', "a b", "a" * 129, ""):
        assert re.fullmatch("[0-9a-f]{16}", stack.get("/livez", X_Request_Id=bad).headers["X-Request-Id"])


@pytest.mark.parametrize("body", [b'{"n":1}', b'[{"n":1},{"n":2}]'])
def test_a_refused_publish_leaves_an_audit_line(stack: Stack, topic: str, body: bytes) -> None:
    """The fast path refuses it, not Flask."""
    stack.configure("[limits]\nrequests_per_second = 5\n")
    stack.start_web()
    refused = until(lambda: refusal(stack, topic, body))
    line = until(lambda: next((one for one in stack.output("web").splitlines() if "refused request_id" in one), None))
    fields = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))
    assert (fields["action"], fields["topic"], fields["address"]) == ("publish", topic, "127.0.0.1")
    assert fields["reason"] == "too-many-requests"
    assert refused.json()["request_id"] in stack.output("web")


SECRET = "a secret of thirty-two characters"


def bearer(subject: str, **grants: Any) -> dict[str, str]:
    claims = {
        "sub": subject,
        "exp": int(time.time()) + 600,
        "pushsvc": {"publish": [">"], "subscribe": [">"], **grants},
    }
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}


def test_each_subject_has_its_own_limits(stack: Stack, topic: str) -> None:
    stack.configure(f'jwt_key = "{SECRET}"\n[limits]\nevents_per_second = 2\nstreams_per_subject = 2\n')
    stack.start_web("--workers", "2", "--trusted-proxy", "127.0.0.1", "--log-format", "json")
    path, json_type = f"/v1/topics/{topic}/events", {"Content_Type": "application/json"}
    batch = json.dumps([{"n": 1}] * 100).encode()

    def post(subject: str, address: str) -> int:
        headers = bearer(subject) | json_type | {"X_Forwarded_For": address}
        return stack.request("POST", path, batch, **headers).status

    until(lambda: post("ann", "203.0.113.1") == 429)
    assert post("ann", "203.0.113.2") == 429, "another address has no further events for her"
    assert post("bob", "203.0.113.3") == 202
    with ExitStack() as streams:
        for _ in range(2):
            opened = streams.enter_context(stack.stream(path, X_Forwarded_For="203.0.113.5", **bearer("ann")))
            assert b": pushsvc" in opened.read()
        with stack.stream(path, X_Forwarded_For="203.0.113.6", **bearer("ann")) as refused:
            assert b": more than 2 streams of your subject\n" in refused.rest()
        with stack.stream(path, X_Forwarded_For="203.0.113.6", **bearer("bob")) as opened:
            assert b": pushsvc" in opened.read()
    lines = [json.loads(line) for line in stack.output("web").splitlines() if "pushsvc.audit" in line]
    assert {(line["subject"], line["action"], line["reason"]) for line in lines} == {
        ("ann", "publish", "too-many-requests"), ("ann", "subscribe", "too-many-requests"),
    }  # fmt: skip


def test_a_refused_grant_leaves_a_line_with_its_subject(stack: Stack, topic: str) -> None:
    stack.configure(f'jwt_key = "{SECRET}"\n')
    stack.start_web("--log-format", "json")
    path, other = f"/v1/topics/{topic}/events", ["other"]
    named = bearer("ann smith", publish=other, subscribe=other)
    assert stack.request("POST", path, EVENT, Content_Type="application/json", **named).status == 403
    assert stack.get(path, Accept="text/event-stream", **named).status == 403
    assert stack.get(f"/v1/stream?events={topic}", Accept="text/event-stream", **named).status == 403
    assert stack.get(path).status == 401

    def audit() -> list[tuple[str, ...]]:
        lines = [json.loads(line) for line in stack.output("web").splitlines() if '"pushsvc.audit"' in line]
        return [(line["action"], line["subject"], line["topic"], line["reason"], line["address"]) for line in lines]

    until(lambda: len(audit()) == 4)
    assert audit() == [
        ("publish", "ann smith", topic, "not-granted", "127.0.0.1"),
        ("subscribe", "ann smith", topic, "not-granted", "127.0.0.1"),
        ("subscribe", "ann smith", topic, "not-granted", "127.0.0.1"),
        ("subscribe", None, topic, "missing-token", "127.0.0.1"),
    ]


def test_a_token_is_in_no_line_of_the_log(stack: Stack, topic: str) -> None:
    stack.configure(f'jwt_key = "{SECRET}"\ntoken_parameter = true\nlog_level = "debug"\n')
    stack.start_web("--access-log")
    path = f"/v1/topics/{topic}/events"
    good = bearer("ann")["Authorization"].removeprefix("Bearer ")
    bad = good[:-4] + "AAAA"
    for token, status in ((good, 200), (bad, 401)):
        assert stack.get(f"{path}?token={token}").status == status
        assert stack.get(f"{path}?limit=1&t%6Fken={token}").status == status
        assert stack.get(path, Authorization=f"Bearer {token}").status == status
        assert stack.get(path, Cookie=f"__Host-pushsvc={token}").status == status
        assert stack.get(f"{path}?token={token}&nonsense=1").status in (400, 401)
    until(lambda: stack.output("web").count("/events?") >= 6)
    output = stack.output("web")
    assert "token=***" in output
    assert "reason=invalid-token" in output
    for part in (*good.split("."), bad.split(".")[-1]):
        assert part not in output


def test_a_request_that_is_no_http_gets_an_id_of_its_own_and_the_headers_of_every_answer(stack: Stack) -> None:
    stack.start_web("--allow-origin", "http://page.example")
    good = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", stack.port)) as connection:
        connection.sendall(good + good.replace(b"1.1", b"3.1"))
        received = connection.makefile("rb").read().decode()
    ids = re.findall("X-Request-Id: ([0-9a-f]{16})\r\n", received)
    assert len(set(ids)) == len(ids) == 2
    assert received.count("X-Content-Type-Options: nosniff\r\n") == 2
    answer = stack.request("POST", "/v1/topics/t/events", b"", Origin="http://page.example", Expect="nothing")
    assert answer.status == 417
    assert answer.headers["Content-Type"] == "application/problem+json"
