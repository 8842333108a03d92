import numpy as np

from pushsvc.aggregate.cadence import BYTES_PER_SECOND, Cadence

TOPICS = np.array([0, 3])


def test_the_first_update_may_come_at_once_and_the_next_after_the_cadence():
    cadence = Cadence(2)
    cadence.open(0, 1_000, 100)
    cadence.open(3, 2_000, 500)
    assert cadence.ready_at(0, TOPICS).tolist() == [1_000, 2_000]
    cadence.spend(0, TOPICS, 2_000, np.array([10, 10]))
    assert cadence.ready_at(0, TOPICS).tolist() == [2_100, 2_500]
    assert cadence.ready_at(1, TOPICS).tolist() == [1_000, 2_000]


def test_large_updates_stretch_the_interval_of_their_window():
    cadence = Cadence(2)
    cadence.open(0, 0, 100)
    cadence.open(3, 0, 100)
    cadence.spend(1, TOPICS, 5_000, np.array([BYTES_PER_SECOND // 2, BYTES_PER_SECOND // 40]))
    assert cadence.intervals(1, TOPICS).tolist() == [1_000, 100]
    cadence.open(0, 6_000, 100)
    assert cadence.intervals(1, TOPICS).tolist() == [100, 100]


def test_a_cadence_is_set_for_a_window_of_a_topic():
    cadence = Cadence(2)
    for topic in (0, 3):
        cadence.open(topic, 0, 100)
    assert [cadence.set(1, 3, 7), cadence.set(1, 3, 7), cadence.set(1, 0, 100)] == [True, False, False]
    assert [cadence.intervals(window, TOPICS).tolist() for window in (0, 1)] == [[100, 100], [100, 7]]
