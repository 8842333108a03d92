"""When the sweeper looks at a topic."""

from __future__ import annotations

import tracemalloc

from pushsvc.worker.sweep_schedule import STEP, SweepSchedule


def test_a_topic_is_looked_at_once_at_the_earliest_time_asked_for() -> None:
    schedule = SweepSchedule(1)
    schedule.add(["a", "b"], 10 * STEP)
    schedule.add(["b"], 20 * STEP)
    schedule.add(["a"], 5 * STEP)
    assert [schedule.take(number * STEP) for number in (4, 5, 9, 10, 30)] == [[], ["a"], [], ["b"], []]


def test_times_that_an_earlier_one_replaced_take_no_memory() -> None:
    """The oldest event of a busy topic goes in a month, and is another one each minute."""
    month = 30 * 86_400.0
    schedule = SweepSchedule(1)
    tracemalloc.start()
    try:
        for minute in range(10_000):
            now = 60.0 * minute
            schedule.add(["busy"], now + month)
            schedule.add(["busy"], now + 60)
            assert schedule.take(now + 75) == ["busy"]
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
