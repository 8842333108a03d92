"""The progress of a job, published by the client to a real server and read from its newest events."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from pushsvc.client import Client, ClientError
from support.ports import free_port
from support.waiting import until


@pytest.fixture
def job(topic):
    return f"job.{topic}"


@pytest.fixture
def client(shared_server):
    with Client(shared_server.url) as client:
        yield client


def newest(server, job, key="progress"):
    events = server.get(f"/v1/topics/{job}/latest?key={key}").json()["events"]
    return events[0] if events else {}


def published(server, job):
    return server.get(f"/v1/topics/{job}/events").json()["events"]


def test_progress_is_seen_while_the_job_runs_and_when_it_has_ended(shared_server, client, job):
    with client.progress(job, total=4, every=0.1, stage="reading") as progress:
        until(lambda: newest(shared_server, job).get("done") == 0)
        progress.update()
        progress.update(2, stage="writing")
        found = until(lambda: (event := newest(shared_server, job)).get("done") == 3 and event)
        assert (found["state"], found["total"], found["stage"], found["type"]) == ("running", 4, "writing", "progress")
        assert found["rate"] > 0
        assert found["remaining"] > 0
        assert found["elapsed"] > 0
        progress.set(4)
    last = newest(shared_server, job)
    assert (last["state"], last["done"], last["remaining"], last["stage"]) == ("done", 4, 0, "writing")
    assert progress.error is None


def test_many_updates_are_few_events(shared_server, client, job):
    with client.progress(job, total=10_000, every=3_600) as progress:
        until(lambda: newest(shared_server, job).get("done") == 0)
        for _ in range(10_000):
            progress.update()
    events = published(shared_server, job)
    assert [event["done"] for event in events] == [0, 10_000]
    assert len({event["id"] for event in events}) == 2


def test_a_job_that_fails_says_so_and_its_exception_goes_on(shared_server, client, job):
    def work():
        with client.progress(job, total=4) as progress:
            progress.update()
            raise LookupError("no such row")

    with pytest.raises(LookupError):
        work()
    last = newest(shared_server, job)
    assert (last["state"], last["done"]) == ("failed", 1)


def test_a_total_is_not_needed_and_several_bars_have_keys(shared_server, client, job):
    with client.progress(job, key="download", unit="bytes") as one, client.progress(job, 2, key="parse") as other:
        one.update(np.int64(5))
        other.update(np.float64(0.5))
    assert [(newest(shared_server, job, key)["done"]) for key in ("download", "parse")] == [5, 0.5]
    assert "total" not in newest(shared_server, job, "download")
    assert newest(shared_server, job, "download")["unit"] == "bytes"


def test_threads_share_a_progress(shared_server, client, job):
    with client.progress(job, 800) as progress:
        threads = [threading.Thread(target=lambda: [progress.update() for _ in range(100)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert newest(shared_server, job)["done"] == 800


def test_a_server_that_is_away_fails_no_job():
    reasons = []
    with Client(f"http://127.0.0.1:{free_port()}", patience=0, on_outage=reasons.append) as client:
        with client.progress("job.1", total=1) as progress:
            progress.update()
        assert isinstance(progress.error, ClientError)
        assert len(reasons) == 1


def test_a_refusal_ends_the_events_and_not_the_job(shared_server, client):
    with client.progress("not a topic", every=0.1) as progress:
        until(lambda: progress.error)
        progress.update()
    assert progress.error.reply == 400


def test_a_value_that_is_no_json_is_reported_and_later_ones_are_published(shared_server, client, job):
    with client.progress(job, every=0.1, thing=object()) as progress:
        until(lambda: progress.error)
        progress.update(thing="text")
    assert newest(shared_server, job)["thing"] == "text"


def test_what_makes_no_sense_is_refused(client, job):
    with pytest.raises(ValueError, match="every"):
        client.progress(job, every=0)
    with pytest.raises(ValueError, match="state"):
        client.progress(job, state="mine")
    progress = client.progress(job)
    with pytest.raises(ValueError, match="nan"):
        progress.update(float("nan"))
    progress.close()
    progress.close()
    with pytest.raises(ValueError, match="closed"):
        progress.update()


def test_the_client_watches_the_newest_events(shared_server, client, job):
    client.publish(job, [{"key": "a"}, {"key": "b"}])
    messages = client.latest(job, key=["a", "c"])
    first = next(messages)
    assert (first.event, [event["key"] for event in json.loads(first.data)["events"]]) == ("snapshot", ["a"])
    client.publish(job, [{"key": "a", "type": "delete"}, {"key": "b"}, {"key": "c"}])
    second = next(messages)
    found = json.loads(second.data)
    assert (second.event, [event["key"] for event in found["events"]], found["gone"]) == ("update", ["c"], ["a"])
    messages.close()
