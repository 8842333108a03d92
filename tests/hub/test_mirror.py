"""What changed behind a position, told at once, leaves a client where the updates one by one do."""

import json

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.broker import Log, StatisticsEntry
from pushsvc.hub import mirror as module
from pushsvc.hub.mirror import Mirror

COLUMNS = ["key", "field", "count"]
KEYS = st.sampled_from([None, "a", "b", "c", "d"])
ROWS = st.lists(st.tuples(KEYS, st.just("n"), st.integers(0, 3)), max_size=4)
STEPS = st.lists(st.tuples(st.sampled_from("uuuuubs"), ROWS, st.lists(KEYS.filter(bool), max_size=2)), max_size=30)


def entries(steps):
    """Return a log as an aggregator writes it: a snapshot says what is there (b), or begins anew (s)."""
    state, made = {}, []
    for number, (kind, rows, gone) in enumerate([("s", [], []), *steps], 1):
        changed = {row[0]: list(row) for row in rows}
        gone = [key for key in gone if key not in changed and key in state]
        if kind == "b":
            changed, gone = {key: row for key, row in state.items() if row[2] or key is None}, []
        elif kind == "s":
            state, gone = {}, []
        state = {key: row for key, row in {**state, **changed}.items() if key not in gone}
        frame = {"columns": COLUMNS, "offset": number, "data": list(changed.values())}
        if kind == "u":
            frame["gone"] = [[key, "n"] for key in gone]
        made.append(StatisticsEntry(kind, number * 3, number, 0, number, json.dumps(frame).encode()))
    return made


class Client:
    def __init__(self):
        self.rows = {}

    def take(self, frame, *, snapshot):
        if snapshot:
            self.rows.clear()
        for key, _ in frame.get("gone", ()):
            self.rows.pop(key, None)
        self.rows.update({row[0]: row for row in frame["data"]})

    def live(self):
        return {key: row for key, row in self.rows.items() if row[2] or key is None}


@given(STEPS, st.integers(0, 31), st.integers(1, 6))
def test_an_update_since_any_position_leads_to_the_state(steps, cut, remembered):
    module._GONE, before = remembered, module._GONE
    try:
        log, mirror, client = entries(steps), Mirror(Log("topic", "1m")), Client()
        for number, entry in enumerate(log):
            mirror.apply(entry)
            if number <= cut and entry.kind != "b":
                client.take(entry.frame, snapshot=entry.kind == "s")
        sequence = log[min(cut, len(log) - 1)].sequence
        frame = mirror.since(sequence)
        client.take(mirror.snapshot() if frame is None else frame, snapshot=frame is None)
        state = Client()
        state.take(mirror.snapshot(), snapshot=True)
        assert client.live() == state.live()
        assert mirror.updates_since(sequence) == sum(e.kind == "u" and e.sequence > sequence for e in log)
    finally:
        module._GONE = before


def test_who_stands_at_the_end_has_nothing_to_hear():
    mirror = Mirror(Log("topic", "1m"))
    for entry in entries([("u", [("a", "n", 1)], []), ("u", [("b", "n", 1)], [])]):
        mirror.apply(entry)
    assert mirror.since(mirror.sequence)["data"] == []
    assert [row[0] for row in mirror.since(mirror.sequence - 3)["data"]] == ["b"]
    assert mirror.since(0) is None
