"""``pushsvc serve --app``: an application beside the processes that serve its streams."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from pushsvc.errors import StartupError
from pushsvc.supervisor import application
from support.ports import free_port
from support.sites import Site, Start
from support.stack import Stack
from support.waiting import DEADLINE, until

APP = """
import hashlib
import os
import sys
import time
from pathlib import Path

from flask import Flask, Response, abort, request

from pushsvc import Push


def create_app():
    app = Flask(__name__)
    app.config["PUSHSVC_LIMITS"] = {"memory": 24_000_000, "memory_per_address": 8_000_000}
    push = Push(app)

    @push.authorize
    def may(action, topic, key):
        with open("asked", "a") as file:
            file.write(f"{action} {topic} {key}\\n")
        if Path("down").exists():
            os._exit(1)
        return "user" in request.cookies

    @app.get("/wait")
    def wait():
        Path("waiting").touch()
        while not Path("released").exists():
            time.sleep(0.01)
        if "publish" in request.args:
            push.publish("orders", {"n": 7})
        return "done"

    @app.get("/process")
    def process():
        return {"process": os.getpid(), "parent": os.getppid()}

    @app.get("/socket")
    def socket():
        return sys.argv[sys.argv.index("--socket") + 1]

    @app.get("/exit")
    def exit():
        os._exit(1)

    @app.post("/begin")
    def begin():
        def pieces():
            yield b"begun "
            size = 0
            while piece := body.read(65_536):
                size += len(piece)
            yield str(size).encode()

        body = request.stream
        return Response(pieces())

    @app.post("/upload")
    def upload():
        if "refused" in request.args:
            abort(413)
        digest, size = hashlib.sha256(), 0
        while piece := request.stream.read(65_536):
            digest.update(piece)
            size += len(piece)
        return {"sha256": digest.hexdigest(), "size": size}

    @app.get("/download")
    def download():
        size, broken = int(request.args["size"]), "broken" in request.args

        def pieces():
            for _ in range(size // 65_536):
                yield b"x" * 65_536
                if broken:
                    os._exit(1)

        headers = {"Content-Length": str(size)} if "length" in request.args else {}
        return Response(pieces(), headers=headers)

    @app.route("/echo", methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
    @app.route("/echo/<path:rest>")
    def echo(rest=""):
        return {
            "headers": list(map(list, request.headers)), "address": request.remote_addr, "url": request.url,
            "raw": request.environ["RAW_URI"], "method": request.method, "body": request.get_data(as_text=True),
        }

    return app
"""

EVENTS = "/push/v1/topics/orders/events"
ANN = {"Cookie": "user=ann"}
SIZE = 64 * 1024 * 1024


@pytest.fixture
def shop(site: Start, redis_url: str, prefix: str) -> Callable[..., Site]:
    """Return a function that runs the application with one thread."""

    def start(**environment: str) -> Site:
        return site(APP, "serve-one-thread", PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix, **environment)

    return start


def post(shop: Site, n: int) -> int:
    return shop.request("POST", EVENTS, b'{"n": %d}' % n, Content_Type="application/json", **ANN).status


def test_events_arrive_and_streams_begin_while_a_view_blocks_all_threads(
    shop: Callable[..., Site], tmp_path: Path
) -> None:
    site = shop()
    with ThreadPoolExecutor(1) as pool, site.stream(EVENTS, **ANN) as before:
        before.read()
        waiting = pool.submit(site.get, "/wait")
        try:
            until((tmp_path / "waiting").exists)
            assert post(site, 1) == 202
            assert before.frame()[1]["n"] == 1
            with site.stream(EVENTS + "?key=bob", Cookie="user=bob") as begun:
                assert begun.status == 200
                begun.read()
            assert not waiting.done()
        finally:
            (tmp_path / "released").touch()
        assert waiting.result().body == b"done"


def test_a_killed_application_touches_no_stream_and_comes_back(shop: Callable[..., Site]) -> None:
    site = shop()
    found = site.get("/process").json()
    with site.stream(EVENTS, **ANN) as stream:
        stream.read()
        os.kill(found["parent"], signal.SIGKILL)
        os.kill(found["process"], signal.SIGKILL)
        answer = until(lambda: one if (one := site.get("/process")).status != 200 else None, seconds=5)
        assert (answer.status, answer.headers["Content-Type"]) in (
            (502, "application/problem+json"), (503, "application/problem+json"),
        )  # fmt: skip
        assert post(site, 1) == 202
        assert stream.frame()[1]["n"] == 1
        again = until(lambda: one.json() if (one := site.get("/process")).status == 200 else None)
        assert again["parent"] != found["parent"]
        assert post(site, 2) == 202
        assert stream.frame()[1]["n"] == 2


def test_a_process_that_ends_in_a_view_is_a_problem_of_this_request_only(shop: Callable[..., Site]) -> None:
    site = shop()
    answer = site.get("/exit")
    assert (answer.status, answer.json()["type"]) == (502, "urn:pushsvc:problem:bad-gateway")
    until(lambda: site.get("/process").status == 200)


def test_large_bodies_pass_both_ways_within_a_small_memory(shop: Callable[..., Site]) -> None:
    """The server may hold 8 MB for the client, and the bodies have 64."""
    site = shop()
    body = os.urandom(1 << 20) * (SIZE >> 20)
    for chunked in (False, True):
        connection = HTTPConnection("127.0.0.1", site.port, timeout=DEADLINE)
        pieces = (body[start : start + 100_000] for start in range(0, SIZE, 100_000))
        headers = {} if chunked else {"Content-Length": str(SIZE)}
        connection.request("POST", "/upload", pieces, headers, encode_chunked=chunked)
        found = json.loads(connection.getresponse().read())
        connection.close()
        assert found == {"sha256": hashlib.sha256(body).hexdigest(), "size": SIZE}
    for query in ("", "&length"):
        answer = site.get(f"/download?size={SIZE}{query}")
        assert len(answer.body) == SIZE
        assert ("Content-Length" in answer.headers) == bool(query)


def test_an_answer_may_begin_before_the_body_is_read(shop: Callable[..., Site]) -> None:
    assert shop().request("POST", "/begin", b"x" * (8 << 20)).body == b"begun %d" % (8 << 20)


def test_an_answer_before_the_end_of_a_body_arrives(shop: Callable[..., Site]) -> None:
    answer = shop().request("POST", "/upload?refused", b"x" * (8 << 20))
    assert answer.status == 413


def test_a_broken_answer_is_not_taken_for_a_whole_one(shop: Callable[..., Site]) -> None:
    site = shop()
    for query in ("", "&length"):
        until(lambda: site.get("/process").status == 200)
        with socket.create_connection(("127.0.0.1", site.port), DEADLINE) as sock:
            sock.sendall(f"GET /download?size={SIZE}&broken{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            data = rest_of(sock)
        head, _, body = data.partition(b"\r\n\r\n")
        assert (head[:12], len(body) < SIZE) == (b"HTTP/1.1 200", True)
        assert not body.endswith(b"0\r\n\r\n")


def rest_of(sock: socket.socket) -> bytes:
    data = bytearray()
    while piece := sock.recv(65_536):
        data += piece
    return bytes(data)


FORGED = [
    ("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Ssl", "on"), ("X-Forwarded-Prefix", "/evil"), ("X_Forwarded_For", "6.6.6.6"),
    ("Forwarded", "for=6.6.6.6"), ("X-Real-IP", "6.6.6.6"), ("X-Request-Id", "forged"), ("Keep-Alive", "timeout=9"),
    ("TE", "trailers"), ("Proxy-Connection", "keep-alive"), ("Proxy-Authorization", "Basic eDp5"), ("Upgrade", "h2c"),
    ("Mine", "of this connection"), ("Connection", "keep-alive, Mine, X-Forwarded-For"), ("Kept", "passes"),
]  # fmt: skip


def echo(site: Site, headers: list[tuple[str, str]], target: str = "/echo") -> dict[str, Any]:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    with socket.create_connection(("127.0.0.1", site.port), DEADLINE) as sock:
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n".encode())
        sock.shutdown(socket.SHUT_WR)
        found = json.loads(rest_of(sock).partition(b"\r\n\r\n")[2])
    assert isinstance(found, dict)
    return found


def test_clients_cannot_forge_who_they_are(shop: Callable[..., Site]) -> None:
    found = echo(shop(), FORGED)
    headers = {name.lower(): value for name, value in found["headers"]}
    assert len(headers) == len(found["headers"])
    assert re.fullmatch("[0-9a-f]{16}", headers.pop("x-request-id"))
    assert headers == {
        "host": "shop.example", "kept": "passes", "connection": "close", "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http", "x-forwarded-host": "shop.example",
    }  # fmt: skip
    assert (found["address"], found["url"]) == ("127.0.0.1", "http://shop.example/echo")


def test_the_client_of_a_trusted_proxy_reaches_the_application(shop: Callable[..., Site]) -> None:
    site = shop(PUSHSVC_TRUSTED_PROXY="127.0.0.1")
    found = echo(site, [("X-Forwarded-For", "6.6.6.6, 203.0.113.7"), ("X-Forwarded-Proto", "https")])
    assert (found["address"], found["url"]) == ("203.0.113.7", "https://shop.example/echo")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_methods_targets_and_bodies_pass_unchanged(shop: Callable[..., Site], method: str) -> None:
    site = shop()
    found = site.request(method, "/echo?a=%2F&b", b"text").json()
    assert (found["method"], found["raw"], found["body"]) == (method, "/echo?a=%2F&b", "text")
    found = echo(site, [], "/echo/a%2Fb//c/../d?x=%00")
    assert found["raw"] == "/echo/a%2Fb//c/../d?x=%00"
    assert site.request("HEAD", "/echo").status == 200


def test_what_is_granted_is_remembered_and_what_is_refused_is_not(shop: Callable[..., Site], tmp_path: Path) -> None:
    site = shop()

    def asked() -> int:
        return (tmp_path / "asked").read_text().count("\n")

    for last in ("", "AAAA", ""):
        assert site.get(EVENTS + "?format=json", **ANN, Last_Event_ID=last).status in (200, 400)
    assert asked() == 1
    assert site.get(EVENTS + "?format=json", Cookie="user=bob").status == 200
    assert site.get(EVENTS + "?format=json", **ANN, Referer="http://127.0.0.1/").status == 200
    assert asked() == 3
    for _ in range(2):
        assert site.get(EVENTS, Cookie="other=1").status == 403
    assert asked() == 5
    assert post(site, 1) == 202
    assert asked() == 6


def events_on(connection: HTTPConnection, **headers: str) -> tuple[int, Any]:
    """Post one event as producers do, on a connection that stays open."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", EVENTS, b'{"n": 1}', {"Content-Type": "application/json"} | named)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_repeated_posts_are_stored_each_and_those_of_others_are_asked_about(
    shop: Callable[..., Site], tmp_path: Path
) -> None:
    """Equal heads of one connection are answered in batches, past the application and Flask."""
    site = shop()
    connection = HTTPConnection("127.0.0.1", site.port, timeout=DEADLINE)
    offsets = [events_on(connection, **ANN)[1]["last_offset"] for _ in range(20)]
    assert offsets == list(range(1, 21))
    assert (tmp_path / "asked").read_text() == "publish orders None\n"
    assert events_on(connection, Cookie="other=1")[0] == 403
    assert events_on(connection)[0] == 401
    again = [events_on(connection, **ANN, Idempotency_Key="one")[1]["last_offset"] for _ in range(3)]
    assert again == [21, 21, 21]
    assert events_on(connection, **ANN)[1]["last_offset"] == 22
    connection.close()


SHORT = """
import time

from flask import Flask

from pushsvc import Grant, Grants, Push, TopicGrants


def create_app():
    app = Flask(__name__)
    push = Push(app)

    @push.authorize
    def may(action, topic, key):
        with open("asked", "a") as file:
            file.write("x")
        return Grants(publish=TopicGrants([Grant("orders", None)]), subject="ann", expires=time.time() + 0.5)

    return app
"""


def test_repeated_posts_are_asked_about_again_when_their_grants_expire(
    site: Start, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    shop = site(SHORT, "serve-one-thread", PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    connection = HTTPConnection("127.0.0.1", shop.port, timeout=DEADLINE)
    posted: list[int] = []

    def asked_again() -> bool:
        status, answer = events_on(connection)
        assert status == 202, answer
        posted.append(answer["last_offset"])
        return len((tmp_path / "asked").read_text()) >= 3

    until(asked_again)
    connection.close()
    assert posted == list(range(1, len(posted) + 1))


SEVERAL = """
from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from pushsvc import Push


def below(path, topic, window, **config):
    app = Flask(topic)
    app.config.update(config, PUSHSVC_TOPICS={"*": {"windows": [window]}})
    push = Push(app)

    @push.authorize
    def may(action, asked, key):
        return asked == topic

    @app.post("/event")
    def event():
        return push.publish(topic, {"n": 1}, wait=True, timeout=60)

    @app.get("/url")
    def url():
        return push.stream_url(topic)

    return {path: app}


app = Flask(__name__)
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {
    **below("/one", "orders", "1m", APPLICATION_ROOT="/one"),
    **below("/two", "jobs", "5m", APPLICATION_ROOT="/two/"),
    **below("/three", "other", "5m"),
})
"""


@pytest.mark.parametrize("server", ["flask", "serve"])
def test_several_applications_of_one_process_have_streams_and_rules_of_their_own(
    site: Start, server: str, redis_url: str, prefix: str
) -> None:
    shop = site(SEVERAL, server, PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    for path, topic, other in (("/one", "orders", "jobs"), ("/two", "jobs", "orders")):
        url = shop.get(f"{path}/url").body.decode()
        assert url == f"{path}/push/v1/topics/{topic}/events"
        with shop.stream(url) as stream:
            assert stream.status == 200, shop.log()
            stream.read()
            assert shop.request("POST", f"{path}/event").status == 200
            assert stream.frame()[1]["n"] == 1
        assert shop.get(url.replace(topic, other)).status == 401
        assert shop.get(f"{path}/push/client.js").status == 200
    without = shop.get("/three/push/v1/topics/other/events").status
    if server == "serve":
        assert without == 404
        assert "streams under /three need APPLICATION_ROOT = '/three'" in shop.log()
        assert "applications of one server set PUSHSVC_TOPICS differently" in shop.log()
    else:
        assert without == 200
        until(lambda: "the settings of topics differ" in shop.log())


def test_only_what_the_application_allows_is_served_under_its_prefix(shop: Callable[..., Site]) -> None:
    site = shop()
    for path in (
        "/push/v1/topics",
        "/push/metrics",
        "/v1/topics/orders/events",
    ):
        assert site.get(path, **ANN).status == 404, path
    for path in ("/push/livez", "/push/readyz", "/push/client.js"):
        assert site.get(path).status == 200, path
    assert site.get("/push/v1/topics/orders", **ANN).status == 405
    assert site.get("/push/v1/alerts", **ANN).status == 400  # it needs a topic
    assert site.request("DELETE", "/push/v1/topics/orders", **ANN).status == 204  # ann may do everything
    for path in ("/%70ush/v1/topics/orders/events", "/push/v1%2Ftopics/orders/events"):
        assert site.get(path).status == 401, path
        assert site.get(path + "?format=json", **ANN).json()["events"] == [], path
    assert site.get("//push/v1/topics/orders/events", **ANN).status == 404


SESSION = """
from flask import Flask, session

from pushsvc import Push


def create_app():
    app = Flask(__name__)
    app.secret_key = "a secret of this test"
    push = Push(app)

    @push.authorize
    def may(action, topic, key):
        session["seen"] = True  # the same for each request, so that it is refreshed and nothing else
        return True

    return app
"""


def test_cookies_of_the_answer_reach_the_client_that_was_asked_about(site: Start, redis_url: str, prefix: str) -> None:
    """A session that is refreshed stays alive, and what is remembered for equal requests gives away no cookie."""
    shop = site(SESSION, "serve-one-thread", PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    with shop.stream(EVENTS) as first, shop.stream(EVENTS) as second:
        first.read()
        assert (first.response.getheader("Set-Cookie") or "").startswith("session=")
        assert second.response.getheader("Set-Cookie") is None
    headers = {"Content-Type": "application/json"}
    assert shop.request("POST", EVENTS, b'{"n": 1}', **headers).headers["Set-Cookie"].startswith("session=")
    assert "Set-Cookie" not in shop.request("POST", EVENTS, b'{"n": 1}', **headers).headers


def test_metrics_are_for_operators_and_not_at_the_public_port(shop: Callable[..., Site]) -> None:
    port = free_port()
    site = shop(PUSHSVC_METRICS_PORT=str(port))
    assert post(site, 1) == 202
    for path in ("/metrics", "/push/metrics", "/push/openapi.json", "/openapi.json", "/v1/topics"):
        assert site.get(path, **ANN).status == 404, path
    for path in ("/push/livez", "/push/readyz"):
        assert until(lambda path=path: site.get(path).status == 200), path
    operators = Stack("", "", site.folder)
    operators.port = port
    until(lambda: operators.metric("pushsvc_events_accepted_total") == 1)  # counted by a web process
    assert operators.get("/push/livez").status == 404
    assert operators.get("/metrics", Host="rebound.example").status == 403


def test_a_stream_is_told_to_come_back_when_the_application_does_not_answer(
    shop: Callable[..., Site], tmp_path: Path
) -> None:
    site = shop()
    (tmp_path / "down").touch()
    with site.stream(EVENTS, **ANN) as stream:
        assert stream.status == 200
        assert b"retry: " in stream.rest()
    assert site.get(EVENTS + "?format=json", **ANN).status == 503
    (tmp_path / "down").unlink()
    until(lambda: site.get(EVENTS + "?format=json", **ANN).status == 200)


def test_sigterm_lets_a_view_end_and_its_event_reach_the_streams(shop: Callable[..., Site], tmp_path: Path) -> None:
    site = shop(PUSHSVC_DRAIN="60")
    assert site.process is not None
    listening_at = Path(site.get("/socket").body.decode())
    with ThreadPoolExecutor(1) as pool, site.stream(EVENTS, **ANN) as stream:
        stream.read()
        waiting = pool.submit(site.get, "/wait?publish")
        try:
            until((tmp_path / "waiting").exists)
            site.process.send_signal(signal.SIGTERM)
            until(lambda: not listening_at.exists())
            assert site.get("/process").status == 503
        finally:
            (tmp_path / "released").touch()
        assert waiting.result().body == b"done"
        assert stream.frame()[1]["n"] == 7
        assert b"retry: " in stream.rest()
    assert site.process.wait(DEADLINE) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_application_ends_with_the_server_also_if_a_view_hangs(
    shop: Callable[..., Site], tmp_path: Path, number: signal.Signals
) -> None:
    site = shop(PUSHSVC_DRAIN="1")
    assert site.process is not None
    processes = list(site.get("/process").json().values())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(site.get, "/wait")
        try:
            until((tmp_path / "waiting").exists)
            site.process.send_signal(number)
            until(lambda: not any(map(is_alive, processes)))
        finally:
            (tmp_path / "released").touch()
        assert waiting.exception() is not None or waiting.result().status == 502


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def login_shop(tmp_path: Path, redis_url: str, prefix: str) -> Iterator[Site]:
    pytest.importorskip("flask_login")
    example = Path(__file__).parents[2] / "examples/flask_apps/shop.py"
    (tmp_path / "shop.py").write_text(example.read_text())
    site = Site(tmp_path, redis_url, prefix)
    site.run("serve", PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    yield site
    site.end()


def test_the_shop_with_flask_login_shows_customers_their_own_orders(login_shop: Site) -> None:
    shop = login_shop

    def sign_in(name: str) -> dict[str, str]:
        form = urlencode({"name": name}).encode()
        answer = shop.request("POST", "/login", form, Content_Type="application/x-www-form-urlencoded")
        assert answer.status == 302
        return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}

    ann, bob, staff = map(sign_in, ("ann", "bob", "staff"))
    assert shop.get(EVENTS).status == 401
    assert shop.get(EVENTS, **ann).status == 403
    assert shop.get(EVENTS + "?key=bob", **ann).status == 403
    with shop.stream(EVENTS + "?key=ann", **ann) as mine, shop.stream(EVENTS, **staff) as everything:
        assert (mine.status, everything.status) == (200, 200)
        mine.read()
        everything.read()
        for who in (bob, ann):
            form = urlencode({"dish": "pizza"}).encode()
            answer = shop.request("POST", "/orders", form, Content_Type="application/x-www-form-urlencoded", **who)
            assert answer.status == 204
        assert [everything.frame()[1]["key"] for _ in range(2)] == ["bob", "ann"]
        assert mine.frame()[1]["key"] == "ann"


@pytest.mark.parametrize(
    ("source", "app", "said"),
    [
        ("raise ValueError('a mistake')", "shop:app", "ValueError: a mistake"),
        ("app = 1", "shop:other", "other"),
        ("from flask import Flask\napp = Flask(__name__)", "shop", "the application has no pushsvc.Push"),
        ("", "nowhere:app", "nowhere"),
    ],
)
def test_an_application_that_cannot_run_is_named(tmp_path: Path, source: str, app: str, said: str) -> None:
    (tmp_path / "shop.py").write_text(source)
    ended = run_serve(tmp_path, "--app", app)
    assert ended.returncode == 1
    assert said in ended.stderr.splitlines()[-1]


def test_grants_of_the_server_are_refused_beside_an_application(tmp_path: Path) -> None:
    ended = run_serve(tmp_path, "--app", "shop:app", "--anonymous-subscribe", "news")
    assert ended.returncode == 1
    assert "--app: the application says who may do what" in ended.stderr


def run_serve(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC_")}
    return subprocess.run(
        [sys.executable, "-m", "pushsvc", "serve", "--port", str(free_port()), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip


def test_without_gunicorn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(StartupError, match=r"pip install 'pushsvc\[app\]'"):
        application.check_gunicorn()
