"""What tests of a hub do to it."""

from threading import Event

import pytest

from pushsvc.hub.feed.topic_list import TopicList


def count_as_listed(hub):
    """Let every group with patterns go without a list of the topics that exist: the test adds topics itself."""
    confirmed = Event()
    confirmed.set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.feed.live, "subscribe", lambda channel: confirmed)
        patch.setattr(TopicList, "read", lambda *_: [])
        hub.feed.directory.wait_listed()


def captured(group):
    """Return a list that gets what the group broadcasts, in place of its connections."""
    messages = []
    group.channel.broadcast = messages.extend
    return messages
