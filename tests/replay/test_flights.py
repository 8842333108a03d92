"""Twenty thousand real flights through HTTP, log, aggregator and SSE, with a restart and two resumes on the way."""

import json
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from support.stack import Table
from support.waiting import until

pandas = pytest.importorskip("pandas")
demo = pytest.importorskip("pushsvc.cli.demo")

FLIGHTS = 20_000
POSTERS = 8
FIELDS = ("dep_delay", "arr_delay", "distance", "air_time")


@pytest.fixture(scope="module")
def flights():
    try:
        found = list(islice(demo.flights(), FLIGHTS))
    except demo.MissingData as error:
        pytest.skip(str(error))
    return [{name: value for name, value in flight.items() if name not in ("id", "time")} for flight in found]


def batches(flights, seed):
    """Cut a poster's share into batches of 1 to 1,000."""
    sizes = random.Random(seed)
    while flights:
        size = sizes.choice([1, 2, 10, 100, 1_000])
        yield flights[:size]
        flights = flights[size:]


def test_replayed_flights_have_every_offset_once_and_the_totals_of_pandas(own_server, flights):
    server = own_server

    def post(number):
        for batch in batches(flights[number::POSTERS], number):
            body = b"\n".join(json.dumps(flight).encode() for flight in batch)
            answer = server.post("flights", body, "application/x-ndjson")
            assert (answer.status, answer.json()["accepted"]) == (202, len(batch)), answer

    def read():
        """Read every event, hanging up twice in the middle."""
        seen, cursor = [], "earliest"
        for end in (FLIGHTS // 3, 2 * FLIGHTS // 3, FLIGHTS):
            with server.stream("/v1/topics/flights/events", Last_Event_ID=cursor) as stream:
                while len(seen) < end:
                    message = stream.next()
                    seen.append(json.loads(message.data))
                    cursor = message.id
        return seen

    with ThreadPoolExecutor(POSTERS + 1) as pool:
        reader = pool.submit(read)
        posting = [pool.submit(post, number) for number in range(POSTERS)]
        until(lambda: (server.get("/v1/topics/flights").json()["last_offset"] or 0) > FLIGHTS // 3)
        server.stop("aggregator", signal.SIGKILL)
        server.start_aggregator()
        for future in posting:
            future.result()
        seen = reader.result()

    assert [event["$offset"] for event in seen] == list(range(1, FLIGHTS + 1))

    table = Table()
    with server.stream("/v1/topics/flights/stats?window=15m") as stream:
        while table.offset < FLIGHTS:
            table.apply(*stream.frame())
    frame = pandas.DataFrame(seen)
    for field in FIELDS:
        groups = frame.groupby("key")[field].agg(["count", "sum", "min", "max"])
        for key, row in groups[groups["count"] > 0].iterrows():
            assert _figures(table.rows[key, field]) == tuple(row), (key, field)
        column = frame[field]
        assert _figures(table.rows[None, field]) == (column.count(), column.sum(), column.min(), column.max())
    counts = frame.groupby("key").size()
    assert {key: table.rows[key, None][2] for key in counts.index} == counts.to_dict()
    assert table.rows[None, None][2] == FLIGHTS


def _figures(row):
    return row[2], row[4], row[6], row[7]
