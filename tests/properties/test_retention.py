"""A log against a model of its retention."""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_hex

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.broker.broker import Broker
from pushsvc.broker.limits import BrokerLimits
from pushsvc.errors import LogFull
from pushsvc.settings import LOG_FULL_FACTOR, TopicSettings
from pushsvc.stats.window import Window
from support.reference.logs import LOG, PARTITION, Windowless, entries, held, size_of, texts

CHUNK_EVENTS = BrokerLimits().chunk_events


SETTINGS = st.builds(
    Windowless,
    retention=st.sampled_from([0, 3, 10, 1_000]),
    retention_age=st.sampled_from([0, 1, 5]),
    retention_bytes=st.sampled_from([0, 60, 500]),
    kept=st.sampled_from([-1, 0, 3, 3_600_000]),
    windows=st.sampled_from([(Window.parse("1m"),), (Window.parse("last 5"),)]),
)


OPERATIONS = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, 4), st.integers(0, 120)),
    st.tuples(st.just("publish"), st.just(CHUNK_EVENTS + 1), st.just(1)),
    st.tuples(st.just("sweep"), st.sampled_from([1, 3, 1_000])),
    st.tuples(st.just("delete")),
    st.tuples(st.just("settings"), SETTINGS),
)


@dataclass
class Model:
    """A log as a list of (first, last, arrival, bytes)."""

    settings: TopicSettings
    log: list[tuple[int, int, int, int]]
    last: int = 0

    def append(self, events, arrival):
        for at in range(0, len(events), CHUNK_EVENTS):
            piece = events[at : at + CHUNK_EVENTS]
            self.log.append((self.last + 1, self.last + len(piece), arrival, size_of(piece)))
            self.last += len(piece)

    def remaining(self, now, max_entries):
        """Return the entries that remain if the log is trimmed at time ``now``."""
        settings, log = self.settings, list(self.log)
        while log and max_entries:
            _, through, arrival, _ = log[0]
            too_many = self.last - through >= settings.retention
            too_old = settings.retention_age and now - arrival >= settings.retention_age
            too_large = settings.retention_bytes and sum(entry[3] for entry in log) > settings.retention_bytes
            needed = now - arrival < settings.kept or self.last - through < settings.largest_count_window
            if needed or not (too_many or too_old or too_large):
                break
            log.pop(0)
            max_entries -= 1
        return log


@given(settings=SETTINGS, operations=st.lists(OPERATIONS, max_size=40))
def test_a_log_keeps_the_entries_of_its_model(redis_url, settings, operations):
    broker = Broker(redis_url, f"model-{token_hex(4)}:")
    try:
        run(broker, Model(settings, []), operations)
    finally:
        broker.delete(LOG.topic)
        broker.close()


def run(broker, model, operations):
    fence = broker.lease([PARTITION], "me", 3_600_000)[PARTITION]
    for name, *how in operations:
        before = broker.time()
        match name:
            case "settings":
                [model.settings] = how
            case "delete":
                broker.delete(LOG.topic)
                model.log = []
            case "sweep":
                broker.sweep({LOG.topic: model.settings}, fence, *how)
                model.log = seen(broker, model, before, *how)
            case "publish":
                publish(broker, model, before, texts(*how))
        assert seen_now(broker) == model.log
        assert held(broker) == sum(entry[3] for entry in model.log)


def publish(broker, model, before, events):
    full = model.settings.retention_bytes * LOG_FULL_FACTOR
    size = sum(entry[3] for entry in model.log)
    try:
        receipt = broker.publish(LOG.topic, events, model.settings)
    except LogFull:
        model.log = seen(broker, model, before, 256)
        assert sum(entry[3] for entry in model.log) >= full > 0
        return
    if full and size >= full:
        model.log = model.remaining(receipt.arrival, 256)
        assert sum(entry[3] for entry in model.log) < full
    chunks = -(-len(events) // CHUNK_EVENTS)
    model.append(events, receipt.arrival)
    model.log = model.remaining(receipt.arrival, 32 + chunks)


def seen_now(broker):
    return [(entry.first, entry.last, entry.arrival, len(entry.data)) for entry in entries(broker)]


def seen(broker, model, before, most):
    """Return the log; check that it is what remains of the model at some time since ``before``."""
    found = seen_now(broker)
    assert len(model.remaining(broker.time(), most)) <= len(found) <= len(model.remaining(before, most))
    assert found == model.log[len(model.log) - len(found) :]
    return found
