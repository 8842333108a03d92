"""Posts published as one get the answers, and leave the log, that they would have one after the other."""

from __future__ import annotations

import json
import time
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.event.shapes import LEARN_AFTER
from pushsvc.settings import TopicSettings
from pushsvc.web.app import context_of, create_app
from pushsvc.web.publish import publish, publish_batches

NUMBERS = iter(range(1_000_000))
NOW = int(time.time() * 1_000)

values = st.sampled_from([0, 1.5, True, None, "x", "}\n{", "é", "\u2028", {"a": []}, [{}], 2**63])
events = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a", "b", "c", 7, "", "\x00"]),
        "key": st.sampled_from(["k", 5, "", "__other__", "x" * 201]),
        "time": st.sampled_from([NOW, NOW - 3_000_000, NOW + 3_600_000, "2026-01-31T12:00:00Z", "now"]),
        "type": st.sampled_from(["message", "order", "$own", ""]),
        "n": values,
        "m": values,
        "new": values,
    },
)
good = st.fixed_dictionaries(
    {"n": st.integers(0, 9)},
    optional={
        "id": st.sampled_from("abcdefgh"),
        "key": st.sampled_from("xy"),
        "time": st.sampled_from([NOW, NOW - 3_000_000]),
    },
)
texts = st.sampled_from([
    b"{", b"}", b"{}", b"[{}]",
    b'{"n":1}\n', b'{"n":1}\n{"n":2}', b'{"n":1,\r"m":2}', b'{"n":{}', b' {"n":1}', b"{} {}",
    b'\xef\xbb\xbf{"n":1}', b'{"n":"\xff"}', b'{"n":NaN}', b'{"n":1,"n":2}', b'{"n":"', b'"}', b'{"n":[{"a":1}',
    b'{"a":1}]}',
])  # fmt: skip
spaced = events.map(lambda event: json.dumps(event).encode())
dense = (events | good).map(lambda event: json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode())
only_good = good.map(lambda event: json.dumps(event).encode())
bodies = st.lists(only_good, min_size=1, max_size=8) | st.lists(
    only_good | spaced | dense | texts, min_size=1, max_size=8
)


def stored(broker: Broker, topic: str) -> list[Any]:
    """Return the events of the log, decoded: their JSON may be written in another way."""
    of = Log(topic)
    found = broker.read(of.partition, {of: 0}).logs[of]
    return [json.loads(line) for entry in found.entries for line in entry.data.split(b"\n")]


def comparable(answer: Any) -> Any:
    status, headers, body = answer
    members = json.loads(body)
    members.pop("topic", None)
    members.pop("instance", None)
    return status, headers, members


@given(bodies)
@example([b'{"n": 0}', b'{"id": 7}'])
@example([b'{"n":1}', b'{"n":{}', b'{"n":2}'])
@example([b'{"n":[{"a":1}', b'{"a":1}]}'])
def test_posts_published_as_one_equal_posts_published_one_by_one(redis_url: str, bodies: list[bytes]) -> None:
    broker = Broker(redis_url, f"together-{next(NUMBERS)}:")
    context = context_of(create_app(broker))
    known = [{"id": f"known-{n}", "key": "k", "time": NOW, "n": n, "m": "text"} for n in range(LEARN_AFTER)]
    for topic in ("one", "each"):
        for _ in range(2):
            assert publish(context, topic, "application/json", json.dumps(known).encode()).status == 202
    before = stored(broker, "one")
    answers = publish_batches(context, {"one": bodies})[0]
    if answers is None:
        assert stored(broker, "one") == before
    else:
        each = [publish(context, "each", "application/json", body) for body in bodies]
        assert [comparable((answers.status, answers.headers, body)) for body in answers.bodies] == list(
            map(comparable, each)
        )
        assert stored(broker, "one") == stored(broker, "each")
    broker.close()


@given(st.dictionaries(st.sampled_from(["user.a", "user.b", "user.c", "$own", "alerts"]), bodies, min_size=1))
def test_posts_to_many_topics_get_the_answers_of_each_topic_alone(
    redis_url: str, posts: dict[str, list[bytes]]
) -> None:
    """The topics of one round trip must not see each other, whatever is refused."""
    known = [{"id": f"known-{n}", "key": "k", "time": NOW, "n": n, "m": "text"} for n in range(LEARN_AFTER)]
    found, logs = [], []
    for prefix in (f"many-{next(NUMBERS)}:", f"alone-{next(NUMBERS)}:"):
        broker = Broker(redis_url, prefix)
        context = context_of(create_app(broker))
        for _ in range(2):
            publish(context, "user.learns", "application/json", json.dumps(known).encode())
        if prefix.startswith("many"):
            found.append(publish_batches(context, posts))
        else:
            found.append([publish_batches(context, {topic: own})[0] for topic, own in posts.items()])
        logs.append([stored(broker, topic) for topic in posts if not topic.startswith("$")])
        broker.close()
    together, alone = ([answer and [comparable((*answer[:2], body)) for body in answer.bodies] for answer in one]
                       for one in found)  # fmt: skip
    assert together == alone
    assert logs[0] == logs[1]


def test_valid_posts_of_one_shape_are_published_as_one(broker: Broker) -> None:
    context = context_of(create_app(broker))
    known = json.dumps([{"key": "k", "n": n} for n in range(LEARN_AFTER)]).encode()
    for _ in range(2):
        publish(context, "t", "application/json", known)
    answers = publish_batches(context, {"t": [b'{"key":"a","n":%d}' % n for n in range(100)]})[0]
    assert answers is not None
    assert [json.loads(body)["first_offset"] for body in answers.bodies] == [*range(129, 229)]
    assert context.rules.settings_of("t") == TopicSettings()
    log = Log("t")
    assert len(broker.read(log.partition, {log: 0}).logs[log].entries) == 3
