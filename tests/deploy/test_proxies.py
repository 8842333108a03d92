"""The sites of deploy/ for nginx and Caddy: TLS, HTTP/2, the prefix, streams at once, replaced web processes."""

from __future__ import annotations

import json
import subprocess
import sys
from http.client import HTTPConnection, HTTPException
from threading import Event, Thread

import pytest

from pushsvc.sse import Decoder
from support.ports import free_port
from support.site_proxy import SiteProxy, answer
from support.waiting import DEADLINE, until

pytestmark = pytest.mark.parametrize("kind", ["nginx", "caddy"])
JSON = "application/json"
TRUST = ("--trusted-proxy", "127.0.0.1/32")


@pytest.fixture
def site(stack, tmp_path, kind):
    stack.start_web(*TRUST)
    with SiteProxy(kind, tmp_path, [stack.port]) as site:
        yield site


def test_an_event_reaches_an_open_stream_at_once(site, topic):
    stream, producer = site.connect(), site.connect()
    stream.request("GET", f"/push/v1/topics/{topic}/events", headers={"Accept": "text/event-stream"})
    response = stream.getresponse()
    assert (response.status, response.getheader("Content-Type")) == (200, "text/event-stream")
    decoder, seen = Decoder(), []
    for number in range(3):
        # The next event is published only when the one before was seen: nothing waits in the proxy for more.
        assert (
            answer(producer, "POST", f"/push/v1/topics/{topic}/events", b'{"n":%d}' % number, Content_Type=JSON) == 202
        )
        while len(seen) <= number:
            piece = response.read1()
            assert piece, "the stream ended"
            seen += [message for message in decoder.feed(piece) if message.event == "message"]
        assert json.loads(seen[number].data)["n"] == number
    stream.close()
    producer.close()


def test_http_2_is_offered_and_metrics_stay_inside(site):
    found = subprocess.run(
        ["curl", "-s", "--http2", "--cacert", site.certificate, "-o", "/dev/null",
         "-w", "%{http_version} %{http_code} ", f"{site.url}/livez", f"{site.url}/metrics", site.url],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert found.stdout.split()[:2] == ["2", "200"]
    connection = site.connect()
    assert [answer(connection, "GET", path) for path in ("/push/metrics", "/push", "/push/")] == [404, 308, 200]
    connection.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a second loopback address")
def test_the_service_sees_clients_and_not_the_proxy(stack, tmp_path, kind, topic):
    stack.configure("[limits]\nrequests_per_second = 1\n")
    stack.start_web(*TRUST, "--log-format", "json")
    with SiteProxy(kind, tmp_path, [stack.port]) as site:
        connection = site.connect()
        connection.source_address = ("127.0.0.2", 0)  # another one than that of the proxy, which is trusted
        # What a client writes about itself does not count.
        spoofed = {"X_Forwarded_For": "203.0.113.9", "Forwarded": "for=203.0.113.10"}

        def refused():
            return answer(connection, "GET", f"/push/v1/topics/{topic}", **spoofed) == 429

        until(refused)
        connection.close()
    said = [json.loads(line) for line in stack.output("web").splitlines() if "too-many-requests" in line]
    assert {line["address"] for line in said} == {"127.0.0.2"}


def test_a_body_beyond_the_limit_is_refused_and_names_it(site, topic):
    connection = site.connect()
    path = f"/push/v1/topics/{topic}/events"
    assert answer(connection, "POST", path, b" " * 8_000_001, Content_Type=JSON) == 413
    connection.close()


def test_web_processes_are_replaced_without_a_failed_request(stack, tmp_path, kind, topic):
    ports = [free_port(), free_port()]
    for port in ports:
        _start(stack, port)
    with SiteProxy(kind, tmp_path, ports) as site:
        done, wrong, published = Event(), [], []

        def publish():
            connection = site.connect()
            while not done.is_set():
                body = b'{"id":"%d"}' % len(published)
                try:
                    status = answer(connection, "POST", f"/push/v1/topics/{topic}/events", body, Content_Type=JSON)
                except (OSError, HTTPException) as error:
                    status = 0
                    wrong.append(repr(error))
                published.append(status)
                if status != 202:
                    wrong.append(status)
            connection.close()

        producer = Thread(target=publish)
        producer.start()
        for port in ports:
            before = len(published)
            until(lambda before=before: len(published) >= before + 20)
            assert stack.stop(f"web{port}") == 0
            before = len(published)
            until(lambda before=before: len(published) >= before + 20)
            _start(stack, port)
        done.set()
        producer.join()
        # A producer repeats what was refused while a process ended; an answer that was lost would have no status.
        assert [one for one in wrong if one not in (502, 503)] == []
        connection = site.connect()
        connection.request("GET", f"/push/v1/topics/{topic}")
        stored = json.load(connection.getresponse())["last_offset"]
        connection.close()
        assert published.count(202) <= stored <= len(published)


def _start(stack, port):
    stack.start(f"web{port}", "web", "--port", str(port), *TRUST, "--drain", "2")
    until(lambda: _ready(port) or stack.ended(f"web{port}"))
    assert not stack.ended(f"web{port}"), stack.output(f"web{port}")


def _ready(port):
    connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        return answer(connection, "GET", "/readyz") == 200
    except OSError:
        return False
    finally:
        connection.close()
