"""Streams opened at different times read the same state from the statistics log."""

import time

from pushsvc.broker.keys import Log
from support.stack import Table, client_of
from support.waiting import until


def test_snapshots_of_the_log_are_invisible_to_open_streams(stack, broker):
    """Rows of a ten-second window appear and disappear while new snapshots replace the start of the log. An open stream
    gets no snapshot for that, and still removes every row that ends."""
    stack.configure('[topics.">"]\nwindows = ["10s"]\ncadence_ms = 10\n')
    stack.start_aggregator()
    stack.start_web()
    log = Log("churn", "10s")
    early = Table()
    with stack.stream("/v1/topics/churn/stats") as stream:
        number = 0
        while int(broker.metadata([log])[0].get("snapshot", 0)) < 50:
            number += 1
            stack.post("churn", [{"key": f"key-{number % 40}-{'x' * 150}", "n": i} for i in range(8)])
        last = stack.post("churn", {"key": "last", "n": 1}).json()["last_offset"]
        while early.offset < last:
            early.apply(*stream.frame())
        late = Table()
        with stack.stream("/v1/topics/churn/stats") as other:
            late.apply(*other.frame())
            while late.offset < last:
                late.apply(*other.frame())
            while any(key is not None for key, _ in early.rows):
                early.apply(*stream.frame())
            while any(key is not None for key, _ in late.rows):
                late.apply(*other.frame())
    assert early.frames.count("snapshot") <= 3
    assert early.live() == late.live()
    assert {(row[0], row[1]): row for row in stack.stats("churn")["data"]} == early.live()


def test_malformed_entry_costs_only_itself(stack, redis_url):
    """Another program wrote undecodable bytes to the log. Counting continues with the next entry."""
    stack.start_aggregator()
    stack.start_web()
    stack.post("feedback", {"n": 1})
    client = client_of(redis_url)
    [key] = client.scan_iter(f"{stack.prefix}*:log:feedback")
    partition = key.split(b":log:")[0] + b":partition"
    figures = key.replace(b":log:", b":figures:")
    sequence = client.hincrby(partition, "sequence", 1)
    client.xadd(key, {"h": f"{sequence} 2 1 0 0 {int(time.time()) * 1000}", "d": b"\xff\xfe{"}, id="2-0")
    client.hset(figures, mapping={"last": 2, "sequence": sequence})
    stack.post("feedback", {"n": 5})
    state = until(lambda: (s := stack.stats("feedback"))["offset"] == 3 and s)
    assert {(row[0], row[1]): row for row in state["data"]}[None, "n"][2:5:2] == [2, 6]
