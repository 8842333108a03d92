import numpy as np

from pushsvc.aggregate.cadence import BYTES_PER_SECOND, Paces

TOPICS = np.array([0, 3])


def test_the_first_update_may_come_at_once_and_the_next_after_the_cadence():
    paces = Paces(2)
    paces.open(0, 1_000, 100)
    paces.open(3, 2_000, 500)
    assert paces.ready_at(0, TOPICS).tolist() == [1_000, 2_000]
    paces.spend(0, TOPICS, 2_000, np.array([10, 10]))
    assert paces.ready_at(0, TOPICS).tolist() == [2_100, 2_500]
    assert paces.ready_at(1, TOPICS).tolist() == [1_000, 2_000]


def test_large_updates_rest_until_their_share_of_the_bytes_is_paid_for():
    paces = Paces(2)
    paces.open(0, 0, 100)
    paces.open(3, 0, 100)
    paces.spend(1, TOPICS, 5_000, np.array([BYTES_PER_SECOND // 2, BYTES_PER_SECOND // 40]))
    assert paces.intervals(1, TOPICS).tolist() == [1_000, 100]
    paces.open(0, 6_000, 100)
    assert paces.intervals(1, TOPICS).tolist() == [100, 100]


def test_a_cadence_is_chosen_for_a_window_and_a_topic():
    paces = Paces(2)
    for topic in (0, 3):
        paces.open(topic, 0, 100)
    assert [paces.set(1, 3, 7), paces.set(1, 3, 7), paces.set(1, 0, 100)] == [True, False, False]
    assert [paces.intervals(window, TOPICS).tolist() for window in (0, 1)] == [[100, 100], [100, 7]]
