"""URLs of streams for templates, HTML as data, progress of jobs, and the commands of ``flask push``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask, render_template_string

from pushsvc import Push
from pushsvc.sse import Decoder
from pushsvc.web.html_data import HtmlData
from support.sites import Site, Start, data_is_used
from support.waiting import DEADLINE, until

SHOP = """
from flask import Flask, request

from pushsvc import Push

app = Flask(__name__)
app.secret_key = "not a secret in a test"
push = Push(app, url_prefix="/live")


@push.authorize
def may(action, topic, key):
    return "user" in request.cookies


@app.get("/url")
def url():
    return push.stream_url("cart", key=request.args.get("key"), token=True, lifetime=float(request.args["lifetime"]))


@app.post("/cart")
def cart():
    push.publish("cart", html="<b>one</b>\\n<i>two</i>", key=request.args["key"], type=request.args.get("type"))
    push.publish("cart", {"n": 1}, key=request.args["key"])
    return "", 204


@app.post("/job")
def job():
    try:
        with push.progress("job.7", total=3, title="Report") as progress:
            progress.advance()
            progress.advance(2)
            if "fails" in request.args:
                raise ValueError
            if "cancelled" in request.args:
                raise SystemExit
    except (ValueError, SystemExit):
        pass
    return "", 204
"""
PATH = "/live/v1/topics/cart/events"
USER = {"Cookie": "user=ann"}


@pytest.fixture(params=["flask", "serve"])
def shop(request: pytest.FixtureRequest, site: Start, redis_url: str, prefix: str) -> Site:
    return site(SHOP, request.param, PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)


def url(shop: Site, lifetime: float = 600, key: str | None = None) -> str:
    return shop.get(f"/url?lifetime={lifetime}" + ("" if key is None else f"&key={key}")).body.decode()


def test_a_token_in_the_url_grants_its_stream_and_nothing_else(shop: Site) -> None:
    anns = url(shop, key="ann")
    assert urlsplit(anns).path == PATH
    token = parse_qs(urlsplit(anns).query)["token"][0]
    shop.request("POST", "/cart?key=bob")
    shop.request("POST", "/cart?key=ann")
    events = until(lambda: shop.get(anns + "&format=json").json()["events"])
    assert {event["key"] for event in events} == {"ann"}
    assert shop.get(PATH + f"?token={token}&key=bob&format=json").json()["events"] == []
    for path in ("/live/v1/topics/orders/events", "/live/v1/stream", "/live/v1/topics/cart.more/events"):
        query = "?format=sse&events=orders&" if path.endswith("stream") else "?"
        assert shop.get(f"{path}{query}token={token}").status == 403, path
    assert shop.request("POST", f"{PATH}?token={token}", b"{}", Content_Type="application/json").status == 403
    for wrong in (token + "x", "x" * 3_000, "", ".".join(reversed(token.split(".")))):
        assert shop.get(f"{PATH}?token={wrong}").status == 401, wrong


def test_a_stream_ends_with_its_token(shop: Site) -> None:
    for lifetime in (1, 4, 16, 64):  # on a busy machine a token may expire before its stream begins
        short = url(shop, lifetime=lifetime)
        with shop.stream(short) as stream:
            if stream.status == 200:
                assert b": the token has expired" in stream.rest()
                break
    else:
        raise AssertionError("no token lived long enough")
    assert shop.get(short).status == 401


def test_html_is_the_data_of_messages(shop: Site) -> None:
    with shop.stream(PATH + "?data=html", **USER) as stream:
        stream.read()
        shop.request("POST", "/cart?key=ann&type=cart")
        shop.request("POST", "/cart?key=ann")
        messages = [stream.next() for _ in range(2)]
    assert [message.event for message in messages] == ["cart", "message"]
    assert {message.data for message in messages} == {"<b>one</b>\n<i>two</i>"}
    assert messages[0].id
    with shop.stream(PATH + "?data=html", **USER, Last_Event_ID=messages[0].id) as resumed:
        assert resumed.next() == messages[1]
    assert shop.get(PATH + "?data=csv", **USER).status == 400
    assert shop.get(PATH + "?data=html&format=json", **USER).status == 400


def test_html_data_is_the_same_in_pieces_of_any_size() -> None:
    whole = (
        b"retry: 2000\n: pushsvc\nid: 1\ndata: {\"$offset\":1,\"html\":\"<b>\\u00e4\\n</b>\"}\n\n: comment\n"
        b'id: 2\nevent: created\ndata: {"$offset":2,"n":1}\n\nid: 3\nevent: heartbeat\ndata:\n\n'
        b'event: reset\ndata: {"topic":"cart","reason":"trimmed"}\n\n'
    )  # fmt: skip
    expected = (
        b"retry: 2000\n: pushsvc\nid: 1\ndata: <b>\xc3\xa4\ndata: </b>\n\n: comment\n"
        b'id: 3\nevent: heartbeat\ndata:\n\nevent: reset\ndata: {"topic":"cart","reason":"trimmed"}\n\n'
    )
    for size in range(1, len(whole) + 1):
        rewriter = HtmlData()
        assert b"".join(rewriter.feed(whole[at : at + size]) for at in range(0, len(whole), size)) == expected
    assert next(message.data for message in Decoder().feed(expected)) == "<b>ä\n</b>"


@pytest.mark.parametrize(("how", "state"), [("", "done"), ("?fails", "failed"), ("?cancelled", "cancelled")])
def test_progress_ends_in_the_state_of_the_job(shop: Site, how: str, state: str) -> None:
    assert shop.request("POST", f"/job{how}").status == 204
    found = shop.get("/live/v1/topics/job.7/latest?format=json", **USER).json()
    last = found["events"][0]
    assert (last["state"], last["done"], last["total"], last["title"]) == (state, 3, 3, "Report")


def test_templates_have_the_url_of_a_stream(redis_url: str) -> None:
    app = Flask("shop")
    app.config["PUSHSVC_REDIS"] = redis_url
    push = Push()
    push.init_app(app, url_prefix="live")
    with app.test_request_context():
        assert render_template_string("{{ stream_url('cart', key='a b', html=True) }}") == (
            "/live/v1/topics/cart/events?key=a+b&amp;data=html"
        )
        assert push.stream_url("orders.>", resource="stats") == "/live/v1/stream?stats=orders.%3E"
        assert push.stream_url("job.1", resource="latest") == "/live/v1/topics/job.1/latest"
        for wrong in ({"resource": "metrics"}, {"token": True, "lifetime": 0}):
            with pytest.raises(ValueError, match="expected"):
                push.stream_url("cart", **wrong)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="secret_key"):
            push.stream_url("cart", token=True)


def flask_push(shop: Site, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "shop", "push", *arguments], cwd=shop.folder, env=shop.inherited,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_commands_print_a_token_and_follow_a_topic(shop: Site) -> None:
    with flask_push(shop, "token", "cart", "--key", "ann") as token:
        printed = token.communicate(timeout=DEADLINE)[0].decode().strip()
    assert shop.get(f"{PATH}?token={printed}").status == 200
    shop.request("POST", "/cart?key=ann")
    until(lambda: len(shop.get(PATH, **USER).json()["events"]) == 2)
    arguments = ("tail", "cart", "--key", "ann", "--after", "earliest", "--limit", "2", "--url", shop.url)
    with flask_push(shop, *arguments) as tail:
        lines = tail.communicate(timeout=DEADLINE)[0].decode().splitlines()
    assert [sorted(json.loads(line).keys() & {"html", "n"}) for line in lines] == [["html"], ["n"]]


def test_the_command_aggregator_counts_events(site: Start, redis_url: str, prefix: str) -> None:
    shop = site(SHOP, "flask", PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    shop.request("POST", "/cart?key=ann")
    with flask_push(shop, "aggregator") as aggregator:
        try:
            until(lambda: shop.get("/live/v1/topics/cart/stats?at_least=2&format=json", **USER).status == 200)
        finally:
            aggregator.send_signal(signal.SIGTERM)
            output = aggregator.communicate(timeout=DEADLINE)[0]
    assert aggregator.returncode == 0, output


def test_the_command_aggregator_needs_a_redis(site: Start, tmp_path: Path) -> None:
    shop = site(SHOP, "flask")
    with flask_push(shop, "aggregator") as aggregator:
        assert b"set PUSHSVC_REDIS" in aggregator.communicate(timeout=DEADLINE)[0]
    assert aggregator.returncode == 1
    assert not data_is_used(tmp_path)
