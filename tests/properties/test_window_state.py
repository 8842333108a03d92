"""One update with the changes since any position leaves a client where all updates one by one do."""

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.hub.window_state import WindowState
from pushsvc.pause import no_pause
from support.reference.statistics_log import Client, decoded, entries

KEYS = st.sampled_from([None, "a", "b", "c", "d"])
ROWS = st.lists(st.tuples(KEYS, st.just("n"), st.integers(0, 3)), max_size=4)
STEPS = st.lists(st.tuples(st.sampled_from("uuuuubs"), ROWS, st.lists(KEYS.filter(bool), max_size=2)), max_size=30)


@given(STEPS, st.integers(0, 31), st.integers(1, 6))
def test_update_since_any_position_leads_to_the_state(steps, cut, removed):
    log, state, client = entries(steps), WindowState(Log("topic", "1m"), removed=removed), Client()
    for number, entry in enumerate(log):
        state.apply(entry)
        assert state.bytes == sum(map(len, state._rows.values()))
        if number <= cut and entry.kind is not FrameKind.BASELINE:
            client.take(entry.frame, snapshot=entry.kind is FrameKind.SNAPSHOT)
    sequence = log[min(cut, len(log) - 1)].sequence
    frame = state.since(sequence)
    client.take(decoded(state.snapshot() if frame is None else frame), snapshot=frame is None)
    expected = Client()
    expected.take(decoded(state.snapshot()), snapshot=True)
    assert client.live() == expected.live()
    updates = [entry for entry in log if entry.kind is FrameKind.UPDATE and entry.sequence > sequence]
    assert state.updates_since(sequence) == len(updates)


@given(STEPS, st.integers(1, 6), st.lists(st.booleans(), min_size=31, max_size=31))
def test_a_staged_entry_leads_to_the_same_state(steps, removed, staged):
    """It is put into a copy in slices, which replaces the state unless another entry came first."""
    log = entries(steps)
    one, other = (WindowState(Log("topic", "1m"), removed=removed) for _ in range(2))
    for number, entry in enumerate(log):
        before = decoded(one.snapshot())
        one.stage(log[-1 if staged[number] else number], no_pause)
        assert decoded(one.snapshot()) == before
        one.apply(entry)
        one.drop_replaced(no_pause)
        other.apply(entry)
        assert decoded(one.snapshot()) == decoded(other.snapshot())
        assert (one.sequence, one.bytes) == (other.sequence, other.bytes)
        for sequence in range(entry.sequence + 1):
            assert one.changes_since(sequence) == other.changes_since(sequence)
