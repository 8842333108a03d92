"""Look-ups by an index while others publish, the log is trimmed, or the setting is new; streams by its fields."""

from __future__ import annotations

import json
import random
import signal
import threading

from pushsvc.broker.broker import Broker
from support.stack import Stack
from support.waiting import until

USERS = [f"u{number}" for number in range(12)]
SETTINGS = '[topics."{topic}"]\nindex = ["user", "key"]\nretention = {retention}\nwindows = []\n'


def events(dice: random.Random, count: int) -> list[dict[str, object]]:
    return [{"user": dice.choice(USERS), "key": dice.choice("ab"), "n": dice.randrange(100)} for _ in range(count)]


def offsets(stack: Stack, topic: str, query: str) -> list[int]:
    lines = stack.get(f"/v1/topics/{topic}/events.ndjson?limit=10000&{query}").body.splitlines()
    return [json.loads(line)["$offset"] for line in lines]


def test_look_ups_find_what_a_scan_finds_while_the_index_is_filled(stack: Stack, topic: str) -> None:
    """The topic has 4,000 events when the setting is switched on. Two clients publish meanwhile."""
    dice = random.Random(topic)
    stack.start_web()
    for _ in range(4):
        assert stack.post(topic, events(dice, 1_000)).status == 202
    stack.stop("web", signal.SIGKILL)
    until(lambda: not stack.listening())
    stack.configure(SETTINGS.format(topic=topic, retention=100_000))
    stack.start_web()
    ended = threading.Event()
    refused: list[int] = []

    def publish(seed: int) -> None:
        own = random.Random(seed)
        while not ended.is_set():
            status = stack.post(topic, events(own, own.choice([1, 20]))).status
            if status != 202:
                refused.append(status)

    publishers = [threading.Thread(target=publish, args=(seed,)) for seed in (1, 2)]
    for one in publishers:
        one.start()
    broker = Broker(stack.redis_url, stack.prefix)
    try:
        stack.start_aggregator()
        rounds = 0
        while broker.index.behind({topic: ("user", "key")}) or rounds < 5:
            rounds += 1
            scanned = offsets(stack, topic, "where=user=u3")
            found = offsets(stack, topic, "user=u3")
            assert found[: len(scanned)] == scanned
            assert len(offsets(stack, topic, "user=u3&key=a")) + len(offsets(stack, topic, "user=u3&key=b")) >= len(
                found
            )
    finally:
        ended.set()
        for one in publishers:
            one.join()
        broker.close()
    assert not refused
    for query in ("user=u3", "user=u3&order=desc", "user=u5&key=a"):
        assert offsets(stack, topic, query) == offsets(stack, topic, query.replace("user=", "where=user="))


def test_a_look_up_of_a_log_that_is_trimmed_is_what_a_scan_finds(stack: Stack, topic: str) -> None:
    dice = random.Random(topic)
    stack.configure(SETTINGS.format(topic=topic, retention=700))
    stack.start_aggregator()
    stack.start_web()
    for _ in range(30):
        assert stack.post(topic, events(dice, dice.choice([1, 30, 500]))).status == 202
        user = dice.choice(USERS)
        assert offsets(stack, topic, f"user={user}") == offsets(stack, topic, f"where=user={user}")


def test_a_stream_selects_by_an_indexed_field(stack: Stack, topic: str) -> None:
    dice = random.Random(topic)
    stack.configure(SETTINGS.format(topic=topic, retention=100_000))
    stack.start_web()
    published = events(dice, 60)
    with stack.stream(f"/v1/topics/{topic}/events?user=u3&key=a&last_event_id=earliest") as stream:
        stream.read()
        for event in published:
            assert stack.post(topic, event).status == 202
        expected = [n for n, event in enumerate(published, 1) if (event["user"], event["key"]) == ("u3", "a")]
        messages = [stream.next() for _ in expected]
    assert [json.loads(message.data)["$offset"] for message in messages] == expected
    assert offsets(stack, topic, "user=u3&key=a") == expected
