"""The changes since a position; tests/properties/test_window_state.py covers any log and position."""

import orjson
import pytest

from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind, StatisticsEntry
from pushsvc.hub.window_state import Selection, WindowState
from support.reference.statistics_log import COLUMNS, decoded, entries


def test_client_at_the_end_lacks_nothing():
    state = WindowState(Log("topic", "1m"))
    for entry in entries([("u", [("a", "n", 1)], []), ("u", [("b", "n", 1)], [])]):
        state.apply(entry)
    assert state.since(state.sequence)["data"] == []
    assert [row[0] for row in decoded(state.since(state.sequence - 3))["data"]] == ["b"]
    assert state.since(0) is None


@pytest.mark.parametrize("kind", FrameKind)
def test_every_kind_of_frame_makes_an_unknown_window_known(kind):
    state = WindowState(Log("topic", "1m"))
    state.apply(entries([(kind, [("a", "n", 1)], [])])[-1])
    assert state.exists


def test_a_limited_frame_does_not_tell_of_other_keys():
    frame = {
        "columns": ["key", "field", "count"], "data": [["a", None, 1], ["b", None, 2], [None, None, 3]],
        "gone": [["c", None]], "partial": ["b"], "full": True,
    }  # fmt: skip
    keys = frozenset(["a"])
    limited = Selection(keys=keys, limited=True).apply(frame)
    assert limited == {"columns": frame["columns"], "data": [["a", None, 1]], "gone": []}
    assert "partial" not in Selection(keys=frozenset(["a", "b"]), limited=True).apply(frame)
    assert Selection(keys=keys).apply(frame)["full"]  # the client asked for the key, and may have lost some of it
    assert Selection().apply(frame) == frame


@pytest.mark.parametrize(
    "selection",
    [
        pytest.param(Selection(), id="all"),
        pytest.param(Selection(keys=frozenset(["k1", "k2"])), id="keys"),
        pytest.param(Selection(fields=frozenset(["n"])), id="fields"),
        pytest.param(Selection(records=True), id="records"),
        pytest.param(Selection(top=3), id="top"),
        pytest.param(Selection(keys=frozenset(["k1"]), fields=frozenset([None])), id="key and field"),
    ],
)
def test_the_estimate_is_about_the_size_of_the_rows_in_a_message(selection):
    state = WindowState(Log("topic", "1m"))
    assert state.estimate(selection) == 0
    rows = [(f"k{number}", field, number) for number in range(100) for field in (None, "n", "total")]
    state.apply(StatisticsEntry(FrameKind.SNAPSHOT, 1, 1, 0, 1, orjson.dumps({"columns": COLUMNS, "data": rows})))
    size = len(orjson.dumps(selection.apply(decoded(state.snapshot()))["data"])) - 1
    assert size * 0.8 <= state.estimate(selection) <= size * 1.5
