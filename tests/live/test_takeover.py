"""An aggregator is killed or stopped during publishing: another one resumes from its checkpoints."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pushsvc.broker.keys import Keys
from pushsvc.topic import partition_of
from support.stack import Table, client_of
from support.waiting import until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found through /proc")

TOPIC, OTHER = "feedback", "other"


class Producer:
    """Posts to two topics until it is stopped; every event has an id, and a request is repeated after a 503."""

    def __init__(self, stack):
        self._stack = stack
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.posts = self.sum = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()

    def _run(self):
        while not self._stopped.is_set():
            for topic in (TOPIC, OTHER):
                events = [{"id": f"{self.posts}/{n}", "key": f"k{n % 3}", "n": self.posts % 8} for n in range(5)]
                while self._stack.post(topic, events).status != 202:
                    pass
            self.sum += 5 * (self.posts % 8)
            self.posts += 1


def child(parent):
    """Return the process id of the supervisor's aggregator; None while there is none."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if "_aggregator" in Path(f"/proc/{pid}/cmdline").read_text():
            return int(pid)
    return None


def checkpoint_time(stack):
    """Return the time of the last checkpoint of the topic's partition in ms; 0 if there is none."""
    client = client_of(stack.redis_url)
    headers = client.hvals(Keys(stack.prefix).checkpoints(partition_of(TOPIC)))
    return max((json.loads(header)["taken"] for header in headers), default=0)


def wait_for_a_checkpoint(stack):
    offset = stack.get(f"/v1/topics/{TOPIC}").json()["last_offset"]
    until(lambda: stack.stats(TOPIC)["offset"] >= offset)
    now = time.time() * 1000
    until(lambda: checkpoint_time(stack) > now)
    return offset


def metric(stack, name):
    lines = stack.get("/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def read_to(stream, table, offset):
    while table.offset < offset:
        table.apply(*stream.frame())


def check_totals(stack, producer, table):
    for topic in (TOPIC, OTHER):
        last = 5 * producer.posts
        frame = until(lambda topic=topic, last=last: (s := stack.stats(topic, "?window=15m"))["offset"] == last and s)
        found = {(row[0], row[1]): row for row in frame["data"]}
        assert found[None, "n"][2:5:2] == [last, producer.sum]
        if topic == TOPIC:
            assert table.live() == found


def test_restarted_aggregator_resumes_from_the_checkpoint_after_kill_9(stack):
    parent = stack.start("serve", "serve", "--port", str(stack.port), "--workers", "1")
    until(stack.ready)
    table = Table()
    with Producer(stack) as producer:
        until(lambda: producer.posts > 2)
        with stack.stream(f"/v1/topics/{TOPIC}/stats?window=15m") as stream:
            offset = wait_for_a_checkpoint(stack)
            read_to(stream, table, offset)
            table.frames.clear()
            os.kill(child(parent.pid), signal.SIGKILL)
            killed = producer.posts
            until(lambda: metric(stack, "pushsvc_checkpoints_loaded_total") >= 1)
            until(lambda: producer.posts > killed + 20)
            producer.__exit__()
            read_to(stream, table, 5 * producer.posts)
    check_totals(stack, producer, table)
    assert table.frames.count("reset") == 0
    assert table.frames.count("snapshot") == 1
    entries = metric(stack, "pushsvc_entries_read_total") - 2 * producer.posts
    assert entries <= 2 * (killed + 1 - offset // 5)
    until(lambda: metric(stack, "pushsvc_checkpoint_bytes") > 0)


def test_aggregator_that_wakes_after_a_takeover_changes_nothing(stack):
    first = stack.start("first", "aggregator")
    stack.start_web()
    table = Table()
    with Producer(stack) as producer:
        until(lambda: producer.posts > 2)
        with stack.stream(f"/v1/topics/{TOPIC}/stats?window=15m") as stream:
            read_to(stream, table, wait_for_a_checkpoint(stack))
            table.frames.clear()
            asleep = child(first.pid)
            os.kill(asleep, signal.SIGSTOP)
            offset = 5 * producer.posts + 5
            stack.start("second", "aggregator")
            until(lambda: stack.stats(TOPIC)["offset"] > offset)
            os.kill(asleep, signal.SIGCONT)
            woke = producer.posts
            until(lambda: producer.posts > woke + 50)
            producer.__exit__()
            read_to(stream, table, 5 * producer.posts)
    check_totals(stack, producer, table)
    assert table.frames.count("reset") == 0
    # One from the second aggregator; the first one may get the partition back, as its equal share.
    assert table.frames.count("snapshot") <= 2


def test_successor_of_an_orderly_end_rereads_nothing(stack):
    parent = stack.start("serve", "serve", "--port", str(stack.port), "--workers", "1")
    until(stack.ready)
    batch = [{"key": f"k{n % 1_000}", "n": n} for n in range(5_000)]
    for _ in range(40):  # enough that a checkpoint is cheaper than reading again
        assert stack.post(TOPIC, batch).status == 202
    last = 40 * len(batch)
    until(lambda: stack.stats(TOPIC)["offset"] == last)
    read = until(lambda: (m := metric(stack, "pushsvc_entries_read_total")) >= 200 and m)  # five of each request
    loaded = metric(stack, "pushsvc_checkpoints_loaded_total")
    os.kill(child(parent.pid), signal.SIGTERM)
    until(lambda: metric(stack, "pushsvc_checkpoints_loaded_total") > loaded)
    assert stack.post(TOPIC, {"key": "k1", "n": 1}).status == 202
    frame = until(lambda: (s := stack.stats(TOPIC, "?window=15m"))["offset"] == last + 1 and s)
    assert {(row[0], row[1]): row[2] for row in frame["data"]}[None, "n"] == last + 1
    until(lambda: metric(stack, "pushsvc_entries_read_total") > read)
    # An aggregator that loses its lease on a busy machine loads the checkpoint again and repeats the new entry.
    loaded = metric(stack, "pushsvc_checkpoints_loaded_total") - loaded
    assert metric(stack, "pushsvc_entries_read_total") <= read + loaded
