"""Statistics of text values (distinct, top, first, last) through a real web process and aggregator."""

from collections import Counter
from random import Random

from support.stack import Table
from support.waiting import until

SETTINGS = """
[topics."orders"]
windows = ["1m", "last 100"]
values = ["user", "dish"]
statistics = ["p50", "distinct", "top3", "first", "last"]
"""


def row(frame, key, field):
    """Return the row of a key and a field by column names."""
    (found,) = [one for one in frame["data"] if one[:2] == [key, field]]
    return dict(zip(frame["columns"], found, strict=True))


def test_value_statistics_on_a_stream_and_in_one_response(stack):
    stack.configure(SETTINGS)
    stack.start_aggregator()
    stack.start_web()
    random, users = Random(1), [f"user {number}" for number in range(20)]
    orders = [
        {"key": "north", "user": random.choice(users), "dish": random.choice(["pizza", "soup", 7, True]), "price": 2.5}
        for _ in range(500)
    ]
    stack.post("orders", orders[:1])
    until(lambda: stack.stats("orders")["exists"])
    table = Table()
    with stack.stream("/v1/topics/orders/stats") as stream:
        table.apply(*stream.frame())
        for start in range(1, 500, 50):
            offset = stack.post("orders", orders[start : start + 50]).json()["last_offset"]
        while table.offset < offset:
            table.apply(*stream.frame())
    frame = stack.stats("orders", f"?at_least={offset}")
    last = stack.stats("orders", f"?at_least={offset}&window=last%20100")
    assert sorted(map(str, table.live().values())) == sorted(map(str, frame["data"]))
    assert frame["columns"][9:] == ["p50", "distinct", "top3", "first", "last", "approximate"]
    counts = Counter(one["user"] for one in orders)
    for key in (None, "north"):
        users = row(frame, key, "user")
        assert (users["count"], users["distinct"], users["sum"]) == (500, len(counts), None)
        assert users["top3"] == [list(one) for one in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:3]]
        assert (users["first"], users["last"]) == (orders[0]["user"], orders[-1]["user"])
        dishes = row(frame, key, "dish")
        sevens = sum(one["dish"] == 7 and one["dish"] is not True for one in orders)
        assert (dishes["distinct"], dishes["sum"], dishes["approximate"]) == (4, 7.0 * sevens, False)
    assert (row(frame, None, "price")["distinct"], row(frame, None, "price")["sum"]) == (None, 1_250.0)

    ends = row(last, None, "user")
    assert (ends["count"], ends["distinct"]) == (100, len({one["user"] for one in orders[400:]}))
    assert (ends["first"], ends["last"]) == (orders[400]["user"], orders[499]["user"])

    csv = stack.get("/v1/topics/orders/stats?format=csv&field=user&key=north").body.decode().splitlines()
    assert csv[0].endswith("p50,distinct,top3,first,last,approximate")
    assert csv[1].startswith("1m,key,north,user,500,")
    assert csv[1].endswith(",false")
    records = stack.stats("orders", "?shape=records&top=1&by=distinct")["data"]
    assert {one["key"] for one in records} == {None, "north"}
    refused = stack.get("/v1/topics/orders/stats?top=1&by=top3")
    assert (refused.status, refused.json()["detail"].count("top3")) == (400, 1)
