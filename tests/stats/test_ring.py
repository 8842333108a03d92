from pushsvc.stats.ring import ROOM, Ring
from pushsvc.stats.window import Window


def test_every_pane_that_is_held_has_its_own_place():
    ring = Ring(Window.parse("10s"), 100, 1_000_000)
    assert (ring.end, ring.start) == (1_000_250, 990_250)
    places = ring.places(ring.oldest, ring.head + ring.future)
    assert sorted(places.tolist()) == list(range(100, 100 + ring.size))
    assert ring.pane_at(places - 100).tolist() == list(range(ring.oldest, ring.head + ring.future + 1))


def test_there_is_a_place_for_times_ahead():
    for text in ("10s", "1m", "15m", "24h"):
        ring = Ring(Window.parse(text), 0, 1_700_000_000_123)
        assert (1_700_000_000_123 + ROOM) // ring.window.pane <= ring.head + ring.future
