"""Statistics of values in windows that keep their events, for long series; test_values.py has arbitrary series."""

import dataclasses
import random

import pytest

from pushsvc.event import Event
from support.effort import rounds
from support.reference.values import ALL, BOTH, EXACT, LAST, Recorder, T, check, check_approximate, event


@pytest.mark.parametrize("settings", [LAST, BOTH, ALL])
def test_long_series_with_disorder_lateness_gaps_and_ticks(settings):
    random_, recorder, now = random.Random(5), Recorder(settings), T
    pool = [*(f"value {n}" for n in range(9)), *range(3), True, 0.5, 2**60, [1], None]
    for step in range(rounds(200)):
        now += random_.choice([0, 1, 300, 1_000, 30_000 if random_.random() < 0.1 else 100])
        if random_.random() < 0.2:
            recorder.all.advance(now)
            continue
        disorder = random_.choice([0, 0, 500, 15_000, 90_000])
        times = [now - random_.randrange(disorder + 1) // 100 * 100 for _ in range(random_.choice([1, 3, 30]))]
        data = [{"v": random_.choice(pool), "k2": random_.choice("pq"), "w": random_.choice(pool)} for _ in times]
        recorder.send(
            now, *[Event(time=at, key=random_.choice("abc"), data=one) for at, one in zip(times, data, strict=True)]
        )
        for window in settings.windows if step % 4 == 0 else ():
            check(recorder, window.name)


@pytest.mark.parametrize("settings", [EXACT, BOTH])
def test_long_series_beyond_the_limit_are_exact_unless_flagged(settings):
    settings = dataclasses.replace(settings, key=("key",), max_values=6)
    random_, recorder, now, approximate = random.Random(3), Recorder(settings), T, 0
    for step in range(rounds(200)):
        now += random_.choice([100, 1_000, 7_000])
        crowd = 30 if step // 10 % 2 else 5
        values = [random_.randrange(crowd) for _ in range(random_.choice([1, 20]))]
        recorder.send(now, *[event(now - random_.randrange(2_000), random_.choice("ab"), v=one) for one in values])
        if step % 3 == 0:
            approximate += sum(check_approximate(recorder, window.name) for window in settings.windows)
    assert approximate > 0 or rounds(200) < 100
