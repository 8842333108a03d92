"""What is told behind a position; tests/properties/test_mirror.py has any log and position."""

from pushsvc.broker.keys import Log
from pushsvc.hub.window_state import Mirror
from support.accounts.mirror import entries


def test_who_stands_at_the_end_has_nothing_to_hear():
    mirror = Mirror(Log("topic", "1m"))
    for entry in entries([("u", [("a", "n", 1)], []), ("u", [("b", "n", 1)], [])]):
        mirror.apply(entry)
    assert mirror.since(mirror.sequence)["data"] == []
    assert [row[0] for row in mirror.since(mirror.sequence - 3)["data"]] == ["b"]
    assert mirror.since(0) is None
