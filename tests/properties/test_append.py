"""Any merged requests get the replies, and leave the log, that they would have alone."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.broker.broker import Broker
from pushsvc.event import Batch, Event
from pushsvc.settings import TopicSettings
from support.reference.appended import EVENT, SECOND, WALL, commit, requests, stored

NUMBERS = iter(range(1_000_000))


names = st.none() | st.sampled_from("abcdef")


times = st.none() | st.integers(SECOND, SECOND + 20_000)


batches = st.lists(st.lists(st.tuples(names, times), min_size=1, max_size=4), min_size=1, max_size=8)


@given(batches, st.sampled_from([WALL, EVENT]))
def test_each_merged_request_gets_its_own_reply(redis_url: str, batches: Any, settings: TopicSettings) -> None:
    broker = Broker(redis_url, f"append-{next(NUMBERS)}:")
    asked = []
    for at, batch in enumerate(batches):
        whole = Batch.from_events([Event(id=name, time=time, data={"of": at}) for name, time in batch])
        asked.append(whole.without(whole.repeated_ids()))
    answers = commit(broker, requests(broker, "t", asked, settings))
    log = stored(broker, "t")
    kept = 0
    for at, (batch, answer) in enumerate(zip(asked, answers, strict=True)):
        own = log[answer[1] - 1 : answer[2]] if answer[0] == b"ok" else []
        kept += len(own)
        if own:
            assert [event["of"] for event in own] == [at] * batch.count
            assert [event["id"] or "" for event in own] == list(batch.ids or [""] * batch.count)
            assert [event["time"] for event in own] == list(batch.times or [None] * batch.count)
        elif answer[0] == b"known":
            assert batch.ids is not None
            assert log[answer[2] - 1]["id"] == batch.ids[answer[1]]
            assert log[answer[2] - 1]["of"] != at
        else:
            assert (answer[0], settings) == (b"ahead", EVENT)
    assert kept == len(log) >= 1
    ids = [event["id"] for event in log if event["id"]]
    assert len(ids) == len(set(ids))
    broker.close()
