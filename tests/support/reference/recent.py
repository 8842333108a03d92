"""Count windows and exact windows: their events and rows, computed from the log."""

import dataclasses

from pushsvc.stats.window import Window
from support.reference.numbers import NOW, assert_same, rows_of, statistics_of

LAST_3 = dataclasses.replace(NOW, windows=(Window.parse("last 3"),))
EXACT = dataclasses.replace(NOW, exact=True)
FEW = dataclasses.replace(EXACT, max_events=4)
BOTH = dataclasses.replace(NOW, windows=tuple(map(Window.parse, ("10s", "last 5", "1m", "last 20"))))
ALL = dataclasses.replace(BOTH, exact=True)
GROUPED = dataclasses.replace(ALL, key=("key", "x"))


def in_window(log, window, options, clock):
    """Return the events of a window, and ``from``, ``to`` (ms) and ``truncated`` of its frame."""
    if window.events:
        last = log[-window.events :]
        times = [time for time, _, _ in last]
        return last, (min(times), max(times) + 1, False) if last else (None, None, False)
    start, end = clock - window.length + 1, clock + 1
    newest = sorted((time for time, _, _ in log), reverse=True)
    floor = newest[options.max_events] + 1 if len(newest) > options.max_events else start
    truncated, start = floor > start, min(max(start, floor), end)
    return [one for one in log if start <= one[0] < end], (start, end, truncated)


def rows_for(log, inside, window):
    """Compute the rows of the events ``inside``; every field of the log has a total."""
    groups = {(None, None): []} | {(None, field): [] for _, _, numbers in log for field in numbers}
    for _, key, numbers in inside:
        for owner in {key, None}:
            for field, value in [(None, None), *numbers.items()]:
                groups.setdefault((owner, field), []).append(value)
    rows = {name: statistics_of(name[1], values, window.length / 1_000 or 1) for name, values in groups.items()}
    return {name: [row[0], None, *row[2:]] if window.events else row for name, row in rows.items()}


def assert_frame(frame, window, producer, options, now):
    times = [time for time, _, _ in producer.log]
    clock = now if options.clock == "wall" else max(times)
    inside, extent = in_window(producer.log, window, options, clock)
    assert (frame.start, frame.end, frame.truncated) == extent
    assert_same(rows_of(frame), rows_for(producer.log, inside, window), exact=10**9)
