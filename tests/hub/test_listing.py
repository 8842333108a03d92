from pushsvc.errors import BrokerUnavailable
from pushsvc.hub.hub import Hub
from support.peer import Peer
from support.waiting import turn_until


def test_listing_that_fails_ends_its_streams(broker):
    """The clients come back; a list that stands still would be taken for the truth."""
    hub = Hub(broker, refresh=0.01)
    polls = iter([(1, b"data: 1\n\n")])
    listing = hub.listing("numbers", lambda known: next(polls))
    peer = Peer(listing.channel, hub=hub)
    listing.refresh()
    turn_until(lambda: b"retry: " in peer.read())
    assert peer.closed == 1
    hub.close()
    peer.theirs.close()


def test_a_change_that_cannot_be_described_is_described_with_the_next_poll(broker):
    hub = Hub(broker, refresh=0.01)
    values = iter([1, 2, 3])
    described = []

    def describe(before, after):
        described.append((before, after))
        if len(described) == 1:
            raise BrokerUnavailable("made to fail")
        return b"event: changes\ndata: %d to %d\n\n" % (before, after)

    def poll(known):
        value = next(values, 3)
        return None if value == known else (value, b"data: all of %d\n\n" % value)

    listing = hub.listing("numbers", poll, describe)
    listing.refresh()
    assert listing.state() == b"data: all of 1\n\n"
    peer = Peer(listing.channel, hub=hub)
    turn_until(lambda: b"data: 1 to 3" in peer.read())
    assert described == [(1, 2), (1, 3)]
    assert listing.state() == b"data: all of 3\n\n"
    hub.close()
    peer.theirs.close()
