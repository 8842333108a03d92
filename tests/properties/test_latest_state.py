"""The newest events that a web process keeps: the fold of the log, and one update of what changed since a position."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.broker.latest import LatestEvent, LatestEvents
from pushsvc.broker.log import EventsEntry
from pushsvc.event import Event
from pushsvc.hub.groups.latest_state import LatestState, merge_changes
from pushsvc.pause import no_pause
from pushsvc.settings import TopicSettings
from support.latest import Board, fold

KEYS = st.sampled_from([None, *"abcdefgh"])
EVENTS = st.builds(Event, key=KEYS, type=st.sampled_from(["message", "message", "message", "delete"]))
ENTRIES = st.lists(st.lists(EVENTS, min_size=1, max_size=4), max_size=25)
BETWEEN = 3
"""Sequences of other topics between two entries."""


def log_of(batches):
    entries, offset, sequence = [], 0, 10
    for batch in batches:
        sequence += BETWEEN + len(batch)
        data = b"\n".join(event.encode() for event in batch)
        entries.append(EventsEntry(offset + 1, offset + len(batch), sequence, 1_000, data))
        offset += len(batch)
    return entries


def public(entries):
    return [
        event.public("t", entry.first + n, entry.arrival) for entry in entries for n, event in enumerate(entry.events)
    ]


def fold_of(entries, most):
    """Fold entry by entry: keys go for lack of room after each of them."""
    newest, evicted = [], 0
    for entry in entries:
        newest, _ = fold([*newest, *public([entry])])
        evicted += max(0, len(newest) - most)
        newest = newest[max(0, len(newest) - most) :]
    return newest, evicted


def state_of(entries, settings):
    """Return the state that is read after some entries."""
    newest, evicted = fold_of(entries, settings.max_keys)
    stored = [line for entry in entries for line in entry.data.split(b"\n")]
    found = {event["key"]: LatestEvent(event["$offset"], 1_000, stored[event["$offset"] - 1]) for event in newest}
    last, sequence = (entries[-1].last, entries[-1].sequence) if entries else (0, 5)
    return LatestState("t", settings, LatestEvents(1, sequence, last, evicted, found), no_pause)


@given(ENTRIES, st.integers(0, 25), st.integers(0, 25), st.integers(1, 6))
def test_an_update_since_any_position_leads_to_the_fold(batches, read, cut, most):
    settings, entries = TopicSettings(latest=True, max_keys=most), log_of(batches)
    read, cut = sorted((min(read, len(entries)), min(cut, len(entries))))
    state, client = state_of(entries[:read], settings), Board()
    beginning = sequence = state.sequence
    for number, entry in enumerate(entries[max(0, read - 2) :], max(0, read - 2)):  # some entries come again
        state.apply(entry)
        if number == cut - 1 and number >= read:
            sequence = entry.sequence
    assert [json.loads(data) for data in state.events(None)] == fold_of(entries, most)[0]
    assert state.evicted == fold_of(entries, most)[1]
    client.events = {event["key"]: event for event in fold_of(entries[:cut], most)[0]}
    changes = state.since(sequence, None)
    assert changes is not None
    client.apply("update", {"events": list(map(json.loads, changes[0])), "gone": changes[1]})
    assert list(client.events.values()) == fold_of(entries, most)[0]
    assert state.since(state.sequence, None) == ([], [])
    assert state.since(beginning - 1, None) is None


@given(ENTRIES, st.integers(1, 4), st.integers(1, 6), st.sets(KEYS.filter(bool), max_size=3))
def test_updates_of_several_entries_lead_to_the_fold(batches, together, most, keys):
    settings, entries = TopicSettings(latest=True, max_keys=most), log_of(batches)
    state, every, some = state_of([], settings), Board(), Board()
    for start in range(0, len(entries), together):
        changed, gone = merge_changes(map(state.apply, entries[start : start + together]))
        events = [json.loads(state.event(key)) for key in changed]
        every.apply("update", {"events": events, "gone": gone})
        some.apply("update", {
            "events": [event for event in events if event["key"] in keys],
            "gone": [key for key in gone if key in keys],
        })  # fmt: skip
    newest, _ = fold_of(entries, most)
    assert list(every.events.values()) == newest
    assert list(some.events.values()) == [event for event in newest if event["key"] in keys]
    assert [json.loads(data) for data in state.events(keys)] == list(some.events.values())


def test_removed_keys_are_forgotten_and_older_positions_get_a_snapshot():
    settings = TopicSettings(latest=True)
    state = state_of([], settings)
    batches = [[Event(key=f"k{n}"), Event(key=f"k{n}", type="delete")] for n in range(1_500)]
    singles = log_of([[event] for batch in batches for event in batch])
    for entry in singles:
        state.apply(entry)
    assert state.since(singles[100].sequence, None) is None
    events, gone = state.since(singles[-3].sequence, None)
    assert (events, gone) == ([], ["k1499"])
    assert state.size == 0
