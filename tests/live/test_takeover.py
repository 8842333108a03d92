"""An aggregator is killed or stopped during publishing: another one resumes from its checkpoints."""

import json
import os
import signal
import time

from pushsvc.broker.keys import Keys
from pushsvc.topic import partition_of
from support.processes import children, needs_proc
from support.producers import BatchProducer
from support.stack import Table, client_of
from support.waiting import until

pytestmark = needs_proc

TOPIC, OTHER = "feedback", "other"


def batch(number):
    return [{"id": f"{number}/{n}", "key": f"k{n % 3}", "n": number % 8} for n in range(5)]


def child(parent):
    """Return the process id of the supervisor's aggregator; None while there is none."""
    return next(iter(children(parent, "_aggregator")), None)


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


def read_to(stream, table, offset):
    while table.offset < offset:
        table.apply(*stream.frame())


def check_totals(stack, producer, table):
    for topic in (TOPIC, OTHER):
        last = 5 * producer.posts
        frame = until(lambda topic=topic, last=last: (s := stack.stats(topic, "?window=15m"))["offset"] == last and s)
        found = {(row[0], row[1]): row for row in frame["data"]}
        assert found[None, "n"][2:5:2] == [last, sum(5 * (number % 8) for number in range(producer.posts))]
        if topic == TOPIC:
            assert table.live() == found


def test_restarted_aggregator_resumes_from_the_checkpoint_after_kill_9(stack):
    parent = stack.start("serve", "serve", "--port", str(stack.port), "--workers", "1")
    until(stack.ready)
    table = Table()
    with BatchProducer(stack, [TOPIC, OTHER], batch) as producer:
        until(lambda: producer.posts > 2)
        with stack.stream(f"/v1/topics/{TOPIC}/stats?window=15m") as stream:
            offset = wait_for_a_checkpoint(stack)
            read_to(stream, table, offset)
            table.frames.clear()
            os.kill(child(parent.pid), signal.SIGKILL)
            killed = producer.posts
            until(lambda: stack.metric("pushsvc_checkpoints_loaded_total") >= 1)
            until(lambda: producer.posts > killed + 20)
            producer.stop()
            read_to(stream, table, 5 * producer.posts)
    check_totals(stack, producer, table)
    assert table.frames.count("reset") == 0
    assert table.frames.count("snapshot") == 1
    entries = stack.metric("pushsvc_entries_read_total") - 2 * producer.posts
    assert entries <= 2 * (killed + 1 - offset // 5)
    until(lambda: stack.metric("pushsvc_checkpoint_bytes") > 0)


def test_aggregator_that_wakes_after_a_takeover_changes_nothing(stack):
    first = stack.start("first", "aggregator")
    stack.start_web()
    table = Table()
    with BatchProducer(stack, [TOPIC, OTHER], batch) as producer:
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
            producer.stop()
            read_to(stream, table, 5 * producer.posts)
    check_totals(stack, producer, table)
    assert table.frames.count("reset") == 0
    # One from the second aggregator; the first one may get the partition back, as its equal share.
    assert table.frames.count("snapshot") <= 2


def test_successor_of_an_orderly_end_rereads_nothing(stack):
    """An orderly end writes last checkpoints for less than a second. A busy machine may leave one out: then the same is
    tried again."""
    parent = stack.start("serve", "serve", "--port", str(stack.port), "--workers", "1", "--drain", "60")
    until(stack.ready)
    events = [{"key": f"k{n % 1_000}", "n": n} for n in range(5_000)]
    last = 0

    def rereads_nothing():
        nonlocal last
        before = stack.metric("pushsvc_entries_read_total")
        for _ in range(40):  # enough that a checkpoint is cheaper than reading again
            assert stack.post(TOPIC, events).status == 202
        last += 40 * len(events)
        until(lambda: stack.stats(TOPIC)["offset"] == last)
        until(lambda: stack.metric("pushsvc_entries_read_total") >= before + 200)  # five of each request
        read, loaded = (stack.metric(f"pushsvc_{name}_total") for name in ("entries_read", "checkpoints_loaded"))
        os.kill(child(parent.pid), signal.SIGTERM)
        until(lambda: stack.metric("pushsvc_checkpoints_loaded_total") > loaded)
        assert stack.post(TOPIC, {"key": "k1", "n": 1}).status == 202
        last += 1
        frame = until(lambda: (s := stack.stats(TOPIC, "?window=15m"))["offset"] == last and s)
        assert {(row[0], row[1]): row[2] for row in frame["data"]}[None, "n"] == last
        until(lambda: stack.metric("pushsvc_entries_read_total") > read)
        return stack.metric("pushsvc_entries_read_total") == read + 1

    until(rereads_nothing)
