"""What changed behind a position, told at once, leaves a client where the updates one by one do."""

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.broker.keys import Log
from pushsvc.hub import window_state as module
from pushsvc.hub.window_state import Mirror
from support.accounts.mirror import Client, entries

KEYS = st.sampled_from([None, "a", "b", "c", "d"])


ROWS = st.lists(st.tuples(KEYS, st.just("n"), st.integers(0, 3)), max_size=4)


STEPS = st.lists(st.tuples(st.sampled_from("uuuuubs"), ROWS, st.lists(KEYS.filter(bool), max_size=2)), max_size=30)


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
