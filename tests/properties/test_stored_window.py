"""A window that is read row by row has the rows of one that is read at once, in the same order."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind, StatisticsEntry
from pushsvc.frame_text import ROWS_A_SLICE, FrameText
from pushsvc.hub.window_state import Selection, WindowState
from pushsvc.pause import no_pause
from pushsvc.web.stored_window import StoredWindow
from support.reference.statistics_log import decoded

LOG = Log("t", "1m")
COLUMNS = ["key", "field", "count", "top"]
NAMES = ["a", "b", '],["', '"],"gone":[', "\\", 'x"y', "[[{", "ü\n", ""]
KEYS = st.sampled_from([None, *NAMES])
FIELDS = st.sampled_from([None, *NAMES[:3]])
TOP = st.sampled_from([None, [], [["],[", 2], [1.5, 1]]])


@st.composite
def entries(draw: st.DrawFn) -> list[StatisticsEntry]:
    logged = []
    for number in range(1, draw(st.integers(2, 8))):
        kinds = list(FrameKind) if number > 1 else [FrameKind.SNAPSHOT, FrameKind.BASELINE]
        kind = draw(st.sampled_from(kinds))
        names = draw(st.lists(st.tuples(KEYS, FIELDS), unique=True, max_size=12))
        data = [[*name, draw(st.integers(0, 2)), draw(TOP)] for name in names]
        frame: dict[str, Any] = {"topic": "t", "window": "1m", "offset": number, "columns": COLUMNS, "data": data}
        taken = set(names)
        gone = draw(st.lists(st.tuples(KEYS, FIELDS).filter(lambda name, taken=taken: name not in taken), max_size=4))
        frame["gone"] = gone if kind is FrameKind.UPDATE else []
        if draw(st.booleans()):
            frame["partial"] = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
        logged.append(StatisticsEntry(kind, number, number, 0, number, orjson.dumps(frame)))
    return logged


SELECTIONS = st.builds(
    Selection,
    keys=st.none() | st.frozensets(KEYS, min_size=1),
    fields=st.none() | st.frozensets(FIELDS, min_size=1),
    top=st.none() | st.integers(1, 3),
)


@given(entries())
def test_a_state_that_is_loaded_is_one_to_which_entries_are_applied(logged: list[StatisticsEntry]) -> None:
    applied, loaded, in_slices = WindowState(LOG), WindowState(LOG), WindowState(LOG)
    for entry in logged:
        applied.apply(entry)
        one = StatisticsEntry(entry.kind, entry.sequence, entry.source, 0, entry.last, entry.data)
        loaded.load(one, no_pause)
        if in_slices.exists:
            one.decode(no_pause)
        in_slices.apply(one)
    for state in (loaded, in_slices):
        assert decoded(state.snapshot()) == decoded(applied.snapshot())
        for sequence in range(len(logged) + 1):
            assert decoded(state.since(sequence)) == decoded(applied.since(sequence))


@given(entries(), SELECTIONS, st.booleans(), st.booleans())
def test_a_selected_frame_is_the_selection_of_the_frame(
    logged: list[StatisticsEntry], selection: Selection, records: bool, limited: bool
) -> None:
    state, selection = WindowState(LOG), replace(selection, top=None, records=records, limited=limited)
    for entry in logged:
        state.apply(entry)
    assert decoded(state.snapshot(selection)) == selection.apply(decoded(state.snapshot()))
    for sequence in range(len(logged) + 1):
        update = decoded(state.since(sequence))
        assert decoded(state.since(sequence, selection)) == (update and selection.apply(update))


@given(entries(), SELECTIONS)
def test_rows_are_those_of_the_window_state(logged: list[StatisticsEntry], selection: Selection) -> None:
    state, stored = WindowState(LOG), StoredWindow(LOG)
    for entry in logged:
        state.apply(entry)
        stored.apply(entry, no_pause)
    expected = selection.apply(decoded(state.snapshot()))
    found = selection.apply(stored.snapshot())
    found["data"] = list(chain.from_iterable(stored.rows(selection, no_pause)))
    assert orjson.dumps(found) == orjson.dumps(expected)
    assert stored.sequence == state.sequence


@pytest.mark.parametrize("rows", [0, 1, ROWS_A_SLICE, 10 * ROWS_A_SLICE + 1])
def test_rows_are_decoded_in_slices_with_pauses(rows: int) -> None:
    data = [[f"],[{number}", None, 1, [["}", 1]]] for number in range(rows)]
    pauses: list[None] = []
    frame = FrameText(orjson.dumps({"columns": COLUMNS, "data": data, "gone": []}), lambda: pauses.append(None))
    slices = list(frame.rows(lambda: pauses.append(None)))
    assert list(chain.from_iterable(slices)) == data
    assert max(map(len, slices), default=0) <= ROWS_A_SLICE
    assert len(pauses) >= 2 * rows // ROWS_A_SLICE


def test_text_that_is_no_frame_is_refused() -> None:
    for text in (b"{}", b'{"data":[', b'{"data":[[1],[2', b'{"data":[x]}'):
        with pytest.raises(ValueError, match=r"not found|do not end"):
            FrameText(text, no_pause)
