"""``Push(app)`` under the servers that run Flask applications."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from support.processes import descendants
from support.sites import Site, Start, data_is_used, valkey_pid
from support.stack import Stack
from support.waiting import DEADLINE, until

SHOP = """
import os

from flask import Flask, abort, request

from pushsvc import Push

app = Flask(__name__)
app.config["PUSHSVC_TOPICS"] = {"orders": {"windows": ["1m"]}}
push = Push(app)


@push.authorize
def may(action, topic, key):
    user = request.cookies.get("user")
    if user is None:
        abort(401)
    return user == "staff" or (action == "subscribe" and topic == "orders" and key == user)


@app.post("/orders")
def order():
    push.publish("orders", {"key": request.args["user"], "total": 12.5}, type="created")
    return "", 204


@app.post("/orders/receipt")
def receipt():
    return push.publish("orders", {"key": request.args["user"], "total": 12.5}, wait=True, timeout=60)
"""

EVENTS = "/push/v1/topics/orders/events"
ANN, STAFF = {"Cookie": "user=ann"}, {"Cookie": "user=staff"}


def check_shop(shop: Site) -> None:
    """Anonymous users see nothing, a customer her own orders, staff all."""
    assert shop.get(EVENTS).status == 401
    for path in (EVENTS, EVENTS + "?key=bob", "/push/v1/topics/other/events?key=ann", "/push/v1/topics/orders/stats"):
        assert shop.get(path, **ANN).status == 403, path
    with shop.stream(EVENTS + "?key=ann", **ANN) as mine, shop.stream(EVENTS, **STAFF) as all_of_them:
        assert (mine.status, all_of_them.status) == (200, 200), shop.log()
        mine.read()
        all_of_them.read()
        for user in ("bob", "ann"):
            assert shop.request("POST", f"/orders?user={user}").status == 204
        # Each process of the application publishes what it buffers at its own time.
        assert sorted(all_of_them.frame()[1]["key"] for _ in range(2)) == ["ann", "bob"]
        event, data = mine.frame()
        assert (event, data["key"], data["total"], data["$topic"]) == ("created", "ann", 12.5, "orders")


@pytest.mark.parametrize("server", ["flask", "patched-flask", "gthread", "gevent", "waitress", "serve"])
def test_streams_and_publishing_work_behind_the_login_of_the_application(
    site: Start, server: str, redis_url: str, prefix: str
) -> None:
    shop = site(SHOP, server, PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix, PUSHSVC_AGGREGATORS="1")
    check_shop(shop)
    receipt = shop.request("POST", "/orders/receipt?user=ann").json()
    assert (receipt["accepted"], receipt["last_offset"]) == (1, 3)
    found = until(lambda: stats(shop, receipt["last_offset"]))
    assert found["offset"] == 3


def stats(shop: Site, offset: int) -> dict[str, int] | None:
    answer = shop.get(f"/push/v1/topics/orders/stats?at_least={offset}", **STAFF, Accept="application/json")
    return answer.json() if answer.status == 200 else None


def test_embedded_server_starts_with_the_first_request_and_ends_with_the_process(site: Start, tmp_path: Path) -> None:
    shop = site(SHOP, "flask")
    assert not (tmp_path / "pushsvc-data").exists()
    check_shop(shop)
    assert data_is_used(tmp_path)
    assert shop.process is not None
    shop.process.send_signal(signal.SIGKILL)
    until(lambda: not data_is_used(tmp_path))


def test_events_survive_a_reload_of_the_application(site: Start, tmp_path: Path) -> None:
    shop = site(SHOP, "reloader")
    assert shop.request("POST", "/orders/receipt?user=ann").json()["last_offset"] == 1
    before = valkey_pid(tmp_path)
    (tmp_path / "shop.py").write_text(SHOP + "\n# changed\n")
    until(lambda: not data_is_used(tmp_path))
    assert until(lambda: receipt_of(shop))["last_offset"] == 2
    assert valkey_pid(tmp_path) != before


@pytest.mark.parametrize("server", ["flask", "reloader"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_flask_run_leaves_no_process_behind(site: Start, server: str, how: signal.Signals) -> None:
    """Ctrl-C and the end of a terminal reach all processes of the group, SIGTERM the first one."""
    shop = site(SHOP, server)
    with shop.stream(EVENTS, **STAFF) as stream:
        stream.read()
        assert shop.request("POST", "/orders/receipt?user=ann").status == 200
        below = descendants(shop.process_id)
        assert any("valkey-server" in command[0] for command in below.values())
        if how is signal.SIGTERM:
            os.kill(shop.process_id, how)
        else:
            os.killpg(shop.process_id, how)
        until(shop.process_ended)
        until(lambda: not any(runs(process) for process in below))


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def receipt_of(shop: Site) -> dict[str, int] | None:
    try:
        answer = shop.request("POST", "/orders/receipt?user=ann")
    except OSError:
        return None
    return answer.json() if answer.status == 200 else None


@pytest.mark.parametrize("server", ["gthread", "gevent", "serve"])
def test_sigterm_tells_streams_to_come_back(site: Start, server: str, redis_url: str, prefix: str) -> None:
    shop = site(SHOP, server, PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    assert shop.process is not None
    with shop.stream(EVENTS, **STAFF) as stream:
        stream.read()
        shop.process.send_signal(signal.SIGTERM)
        rest = stream.rest()
        assert b"retry: " in rest
        assert rest.endswith(b": the server is restarting\n")
    assert shop.process.wait(DEADLINE) == 0
    assert "Traceback" not in shop.log()


CLIENT = """
import { connect } from "./client.mjs";

const push = connect(process.argv[2], { share: false });
const say = (about) => console.log(JSON.stringify(about));
const mine = push.events("public.orders", { key: "ann" }, (event) => say({ total: event.total }));
mine.subscribe(({ name }) => name === "open" && say("open"));
for (const each of [push.events("secret"), push.topics()]) {
  each.subscribe(({ name }) => name === "error" && say({ refused: each.error.status }));
}
"""
PUBLIC = """
from flask import Flask

from pushsvc import Push

app = Flask(__name__)
push = Push(app, "/live")


@push.authorize
def may(action, topic, key):
    return topic == "public.orders" and key == "ann"


@app.post("/orders")
def order():
    return push.publish("public.orders", {"key": "ann", "total": 12.5}, wait=True, timeout=60)
"""


@pytest.mark.parametrize("server", ["flask", "serve"])
def test_the_javascript_client_ends_only_what_the_application_refuses(
    site: Start, server: str, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    shop = site(PUBLIC, server, PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    (tmp_path / "client.mjs").write_bytes(shop.get("/live/client.js").body)
    (tmp_path / "page.mjs").write_text(CLIENT)
    command = [node, tmp_path / "page.mjs", f"{shop.url}/live/"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
        try:
            assert page.stdout is not None
            said = [json.loads(page.stdout.readline()) for _ in range(3)]
            assert said == [{"refused": 400}, {"refused": 401}, "open"]
            assert shop.request("POST", "/orders").status == 200
            assert json.loads(page.stdout.readline()) == {"total": 12.5}
        finally:
            page.kill()


STREAMS = 200


@pytest.mark.parametrize("server", ["patched-flask", "gevent"])
def test_streams_are_greenlets_where_gevent_has_patched_the_process(
    site: Start, server: str, redis_url: str, prefix: str
) -> None:
    shop = site(SHOP, server, PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    shop.request("POST", "/orders/receipt?user=ann")
    [worker] = children(shop) or [shop.process_id]
    threads = Path(f"/proc/{worker}/task")
    with ExitStack() as opened:
        first = opened.enter_context(shop.stream(EVENTS, **STAFF))
        first.read()
        before = len(list(threads.iterdir()))
        streams = [first, *(opened.enter_context(shop.stream(EVENTS, **STAFF)) for _ in range(STREAMS - 1))]
        for stream in streams[1:]:
            stream.read()
        assert len(list(threads.iterdir())) < before + 10
        assert shop.request("POST", "/orders?user=ann").status == 204
        assert {stream.frame()[1]["key"] for stream in streams} == {"ann"}


def test_a_worker_that_gevent_patches_after_the_fork_publishes_with_its_first_request(
    site: Start, redis_url: str, prefix: str
) -> None:
    """With ``--preload`` the application is loaded before gevent patches a worker. A lock of before, for which one
    greenlet waits while another has it, would stop the worker for good."""
    shop = site(SHOP, "gevent-preload", PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    assert shop.request("POST", "/orders?user=ann").status == 204
    assert until(lambda: json.loads(shop.get(EVENTS + "?last=1", **STAFF).body)["events"])[0]["key"] == "ann"


def children(site: Site) -> list[int]:
    """Return the workers of gunicorn."""
    found = Path(f"/proc/{site.process_id}/task/{site.process_id}/children").read_text().split()
    names = {int(one): Path(f"/proc/{one}/cmdline").read_bytes() for one in found}
    return [process for process, name in names.items() if b"gunicorn" in name]


def test_sigterm_drains_a_gevent_worker_with_many_streams_and_loses_no_acknowledged_event(
    site: Start, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    """gunicorn would log that it kills a worker that has not ended after graceful_timeout."""
    shop = site(SHOP, "gevent", PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    assert shop.process is not None
    acknowledged: list[int] = []

    def produce() -> None:
        with suppress(OSError, HTTPException):
            while (answer := shop.request("POST", "/orders/receipt?user=ann")).status == 200:
                acknowledged.append(answer.json()["last_offset"])

    with ExitStack() as opened, ThreadPoolExecutor(4) as pool:
        # They watch another key: the test would have to read what it publishes 200 times.
        streams = [opened.enter_context(shop.stream(EVENTS + "?key=bob", **STAFF)) for _ in range(STREAMS)]
        for stream in streams:
            stream.read()
        producers = [pool.submit(produce) for _ in range(4)]
        until(lambda: len(acknowledged) > 20)
        shop.process.send_signal(signal.SIGTERM)
        for stream in streams:
            assert stream.rest().endswith(b": the server is restarting\n")
        for producer in producers:
            producer.result()
    assert shop.process.wait(DEADLINE) == 0
    assert "SIGKILL" not in shop.log()
    with Stack(redis_url, prefix, tmp_path) as after:
        after.start_web()
        stored = after.get("/v1/topics/orders/events?limit=10000&format=json").json()["events"]
    assert set(acknowledged) <= {event["$offset"] for event in stored}


@pytest.mark.parametrize("server", ["gthread", "serve"])
def test_staff_correct_and_delete_and_customers_do_not(site: Start, server: str, redis_url: str, prefix: str) -> None:
    shop = site(SHOP, server, PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    one = json.dumps({"id": "one", "key": "ann", "total": 1}).encode()
    assert shop.request("POST", EVENTS, one, Content_Type="application/json", **STAFF).status == 202
    merge, alert = b'{"total": 2}', b'{"topic": "orders", "when": "count(1m) > 10"}'
    requests = [
        ("PATCH", EVENTS + "/one", merge, "application/merge-patch+json", 200),
        ("PUT", "/push/v1/alerts/many?topic=orders", alert, "application/json", 201),
        ("DELETE", "/push/v1/alerts/many?topic=orders", None, "", 204),
        ("DELETE", EVENTS + "/one", None, "", 200),
        ("DELETE", "/push/v1/topics/orders", None, "", 204),
    ]
    for method, path, body, media_type, expected in requests:
        for user, status in ((ANN, 403), (STAFF, expected)):
            answer = shop.request(method, path, body, **user, Content_Type=media_type)
            assert answer.status == status, (method, path, user, answer.body, shop.log())
