"""The account over rows of two topics, step by step."""

import numpy as np

from pushsvc.stats.rows import ALL_KEYS, COUNT
from support.accounts.rolling import WINDOWS, Account, T


def put(account, topic, now, *events):
    """Put events: (ms from now, key, value)."""
    shifts, keys, values = zip(*events, strict=True)
    account.put(topic, now + np.array(shifts), np.array(keys), np.array(values, float))


def check(account):
    for window in range(len(WINDOWS)):
        for topic in (0, 1):
            account.check(window, topic, [None, 0, 1, 2])


def test_every_row_is_that_of_the_events_in_its_interval():
    account, now = Account(3), T
    for step in (0, 9_750, 61_000, 10**9):
        now += step
        account.engine.advance(now)
        put(account, 0, now, (0, 0, 1.5), (-300, 1, 4.0), (0, 0, -2.0))
        put(account, 1, now, (0, 1, 8.0), (-15_000, 0, 0.5), (3_000, 2, 16.0))
        if step:
            check(account)


def test_a_topic_that_is_discarded_leaves_nothing_to_the_next():
    account = Account(3)
    for second in range(3):
        now = T + second * 1_000
        account.engine.advance(now)
        for topic in (0, 1):
            put(account, topic, now, (0, 0, 1.0 + second), (-12_000, 1, 2.0), (2_500, 2, 4.0))
        if second == 1:
            account.engine.drop_topic(account.topics[0])
            account.topics[0] = account.engine.rows.add_topic(10_000, 4)
            account.events[0] = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        else:
            check(account)


def test_what_is_put_together_or_apart_is_the_same():
    events = [(-20_000, 0, 0.5), (0, 1, 1.5), (-1, 0, -3.0), (0, 1, 7.0), (3_500, 0, 0.25), (0, 2, 9.0)]
    whole, apart = Account(3), Account(3)
    for now in (T, T + 14_000):
        for account, parts in ((whole, [events]), (apart, [events[:1], events[1:4], events[4:]])):
            account.engine.advance(now)
            for part in parts:
                put(account, 0, now, *part)
                account.engine.settle()
    keys = np.array([ALL_KEYS, *map(whole.topics[0].key, whole.names)])
    for window in range(len(WINDOWS)):
        for field in (COUNT, 1):
            held = [account.engine.counts(window, account.topics[0].rows(field, keys)) for account in (whole, apart)]
            assert held[0].tolist() == held[1].tolist()
        figures, others = (account.engine.read(window, account.topics[0].rows(1, keys)) for account in (whole, apart))
        assert np.allclose(figures, others, rtol=1e-14, atol=0, equal_nan=True)
        exact = [0, 2, 3, 5, 6]
        assert np.array_equal(figures[exact], others[exact], equal_nan=True)
