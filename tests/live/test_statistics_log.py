"""The statistics log explains itself: who comes at any time sees what those see who were there all along."""

from pushsvc.broker import Log
from stack import Table


def test_snapshots_in_between_are_silent_and_rows_that_end_are_gone_all_the_same(stack, broker):
    """A ten-second window with a key per post: rows come and go while the log is rewritten by new snapshots."""
    stack.configure('[topics.">"]\nwindows = ["10s"]\ncadence_ms = 10\n')
    stack.start_aggregator()
    stack.start_web()
    log = Log("churn", "10s")
    early = Table()
    with stack.stream("/v1/topics/churn/stats") as stream:
        number = 0
        while int(broker.figures([log])[0].get("snapshot", 0)) < 50:
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
