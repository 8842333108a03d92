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
