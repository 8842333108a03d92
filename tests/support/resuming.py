"""A subscriber that resumes from positions, within the process of the hub."""

import contextlib
import json

from pushsvc.hub.delivery.connection import Connection
from pushsvc.hub.groups.group import ResumeReason
from pushsvc.sse import Decoder
from support.chunked import ChunkDecoder
from support.waiting import turn_until


class Subscriber:
    def __init__(self, hub, group, ours, theirs, positions):
        for end in (ours, theirs):
            end.setblocking(False)
        self.messages = []
        self._theirs = theirs
        self._decoder, self._chunks = Decoder(), ChunkDecoder()
        self.connection = Connection(ours.detach(), group.channel, lambda: None)
        hub.enter(group.channel, self.connection)
        hub.replays.begin(group, self.connection, positions, ResumeReason.CURSOR)

    def received(self, number):
        """Return a summary of the messages, once there are so many."""
        turn_until(lambda: self.receive() >= number)
        return [summary(message) for message in self.messages]

    def receive(self):
        """Take what has arrived; return the number of messages."""
        assert not self.connection.closed
        with contextlib.suppress(BlockingIOError):
            self.messages += self._decoder.feed(self._chunks.feed(self._theirs.recv(65_536)))
        return len(self.messages)


def summary(message):
    data = json.loads(message.data)
    if "reason" in data:
        return message.event, data["topic"], data["reason"]
    return (data["topic"], data["offset"]) if "offset" in data else (data["$topic"], data["$offset"])
