"""``push.publish`` and ``push.progress`` in the workers of RQ and Celery."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from flask import Flask

from pushsvc import Push
from pushsvc.broker.embedded import EmbeddedServer
from support.sites import Start, needs
from support.waiting import DEADLINE, until

JOBS = """
from flask import Flask

from pushsvc import Push

app = Flask(__name__)
push = Push(app)


def report(number, fails=False):
    with app.app_context(), push.progress(f"job.{number}", total=3) as progress:
        for step in range(3):
            if fails and step == 1:
                raise ValueError("no such report")
            progress.advance()
            push.publish("steps", {"job": number, "step": step})


def mail(number):
    with app.app_context():
        push.publish("mails", {"job": number})
"""

CELERY = """
import os

from celery import Celery

import shop

queue = Celery("tasks", broker=os.environ["BROKER"])
queue.conf.broker_connection_retry_on_startup = True
report = queue.task(shop.report)
mail = queue.task(shop.mail)
"""


@pytest.fixture
def broker(start_redis: Callable[..., EmbeddedServer]) -> EmbeddedServer:
    """Return a Redis for the queue and for the events."""
    return start_redis()


def rq(folder: Path, url: str, environment: dict[str, str]) -> list[str]:
    from rq import Queue

    queue = Queue(connection=redis.from_url(url))
    queue.enqueue("shop.report", 1)
    queue.enqueue("shop.report", 2, True)
    queue.enqueue("shop.mail", 3)
    return [sys.executable, "-m", "rq.cli", "worker", "--burst", "--url", url]


def celery(folder: Path, url: str, environment: dict[str, str]) -> list[str]:
    (folder / "tasks.py").write_text(CELERY)
    code = "import tasks; tasks.report.delay(1); tasks.report.delay(2, True); tasks.mail.delay(3)"
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, timeout=DEADLINE, check=True)
    return [sys.executable, "-m", "celery", "-A", "tasks:queue", "worker", "--concurrency", "1", "--loglevel", "info"]


@pytest.mark.parametrize("queue", [rq, celery], ids=["rq", "celery"])
def test_jobs_publish_and_report_their_progress(
    queue: Callable[[Path, str, dict[str, str]], list[str]], site: Start, broker: EmbeddedServer, prefix: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    needs(queue.__name__)
    ours = {"PUSHSVC_REDIS": broker.url, "PUSHSVC_PREFIX": prefix}
    shop = site(JOBS, "flask", **ours)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC_")}
    environment = inherited | ours | {"BROKER": address(broker.url, queue.__name__), "PYTHONPATH": str(tmp_path)}
    command = queue(tmp_path, broker.url, environment)
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        ends = [until(lambda n=n: last(shop.get(f"/push/v1/topics/job.{n}/events?last=10").body)) for n in (1, 2)]
        assert (ends[0]["state"], ends[0]["done"]) == ("done", 3), (tmp_path / "worker.log").read_text()
        assert (ends[1]["state"], ends[1]["done"]) == ("failed", 1)
        steps = json.loads(shop.get("/push/v1/topics/steps/events?last=10").body)["events"]
        assert [(one["job"], one["step"]) for one in steps] == [(1, 0), (1, 1), (1, 2), (2, 0)]
        mails = until(lambda: json.loads(shop.get("/push/v1/topics/mails/events?last=10").body).get("events"))
        assert [one["job"] for one in mails] == [3]
    finally:
        worker.terminate()
        worker.wait(DEADLINE)


def address(url: str, queue: str) -> str:
    """Return the URL of a Redis on a Unix socket as Celery writes it."""
    return url.replace("unix://", "redis+socket://") if queue == "celery" else url


def last(body: bytes) -> dict[str, object] | None:
    """Return the last event of a job that has ended."""
    events = json.loads(body).get("events", [])
    return events[-1] if events and events[-1]["state"] != "running" else None


def test_a_process_that_ends_at_once_after_a_job_has_published_its_events(
    broker: EmbeddedServer, prefix: str, tmp_path: Path
) -> None:
    """A child of multiprocessing and a worker of RQ end by ``os._exit``, without the functions of ``atexit``."""
    (tmp_path / "shop.py").write_text(JOBS)
    environment = os.environ | {
        "PUSHSVC_REDIS": broker.url,
        "PUSHSVC_PREFIX": prefix,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    code = "import os, shop; shop.mail(1); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, timeout=DEADLINE, check=True)
    app = Flask("reader")
    app.config |= {"PUSHSVC_REDIS": broker.url, "PUSHSVC_PREFIX": prefix, "PUSHSVC_DRAIN": 0}
    Push(app)
    stored = app.test_client().get("/push/v1/topics/mails/events").json
    assert [event["job"] for event in stored["events"]] == [1]
