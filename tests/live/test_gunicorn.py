"""The app under gunicorn's gevent worker, which iterates streams instead of handing over their sockets."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import jwt

from support.waiting import DEADLINE, until

APP = """
from flask import request

from pushsvc.broker import Broker
from pushsvc.web import create_app

app = create_app(Broker({url!r}, {prefix!r}))


@app.before_request
def refuse_the_forbidden():
    return ("not here", 418) if request.path == "/v1/topics/forbidden/events" else None
"""

AUTHORIZED = """
from pushsvc.broker import Broker
from pushsvc.config import load
from pushsvc.config.access import access_of, take_key_variable
from pushsvc.web import create_app
from pushsvc.web.jwks import fetched_keys

access = access_of(load({{"jwt_key": take_key_variable()}}), fetched_keys)
app = create_app(Broker({url!r}, {prefix!r}), access=access)
"""
SECRET = "a secret of more than thirty-two bytes"

CONF = """
worker_class = "gevent"


def post_worker_init(worker):
    from pushsvc.web import end_streams_on_term

    end_streams_on_term(worker.wsgi)
"""


@contextmanager
def gunicorn(stack, folder, conf, *arguments, ready=True, app=APP):
    (folder / "served.py").write_text(app.format(url=stack.redis_url, prefix=stack.prefix))
    (folder / "gunicorn.conf.py").write_text(conf)
    with (folder / "gunicorn.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{stack.port}", *arguments, "served:app"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | stack.environment,
            start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: not ready or stack.ready() or process.poll() is not None)
        assert process.poll() is None, (folder / "gunicorn.log").read_text()
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_tokens_are_asked_for_under_gunicorn(stack, topic, tmp_path):
    stack.environment["PUSHSVC_JWT_KEY"] = SECRET
    claims = {"exp": time.time() + 600, "pushsvc": {"publish": [topic], "subscribe": [topic]}}
    headers = {"Authorization": f"Bearer {jwt.encode(claims, SECRET)}"}
    path = f"/v1/topics/{topic}/events"
    with gunicorn(stack, tmp_path, CONF, app=AUTHORIZED):
        assert [stack.get(path, **given).status for given in ({}, headers)] == [401, 200]
        with stack.stream(path) as refused, stack.stream(path, **headers) as stream:
            assert (refused.status, stream.status) == (401, 200)
            published = stack.request("POST", path, b'{"n": 1}', Content_Type="application/json", **headers)
            assert published.status == 202
            assert stream.frame()[1]["n"] == 1
        assert stack.get("/v1/topics/other/events", **headers).status == 403


def test_app_works_under_gunicorn_and_sigterm_ends_its_streams(stack, topic, tmp_path):
    stack.start_aggregator()
    with gunicorn(stack, tmp_path, CONF, "--graceful-timeout", "50") as process:
        answer = stack.post(topic, [{"key": "pizza", "n": 1}, {"key": "soup", "n": 2}])
        assert (answer.status, answer.json()["last_offset"]) == (202, 2)
        assert stack.post(topic, b"{").status == 400
        assert stack.post("forbidden", {"n": 1}).status == 418
        events = stack.get(f"/v1/topics/{topic}/events", Accept="application/json").json()["events"]
        assert [event["key"] for event in events] == ["pizza", "soup"]
        assert stack.stats(topic, "?at_least=2")["offset"] == 2
        with stack.stream(f"/v1/topics/{topic}/stats") as stream:
            assert stream.status == 200
            assert stream.frame()[0] == "snapshot"
            stack.post(topic, {"key": "pizza", "n": 3})
            stream.until(lambda event, data: event == "update" and data["offset"] == 3)
            process.send_signal(signal.SIGTERM)
            assert stream.rest().endswith(b": the server is restarting\n")
        assert process.wait(DEADLINE) == 0
    assert "Traceback" not in (tmp_path / "gunicorn.log").read_text()


def test_threaded_worker_gets_an_error_that_names_the_gevent_worker(stack, tmp_path):
    with gunicorn(stack, tmp_path, "", "-k", "gthread", ready=False):
        answer = until(lambda: answered(stack))
        assert answer.status == 500
        assert "gunicorn with -k gevent" in answer.json()["detail"]


def answered(stack):
    try:
        return stack.get("/readyz")
    except OSError:
        return None
