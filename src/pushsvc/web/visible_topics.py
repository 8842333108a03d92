"""The part of the list of topics that a request may see."""

from collections.abc import Hashable, Sequence

from pushsvc.auth.grants import ALL_TOPICS, NO_KEYS, TopicGrants
from pushsvc.hub.feed.topic_list import PartitionTopics, TopicList
from pushsvc.pause import Pause, no_pause
from pushsvc.topic import range_of

Topics = Sequence[PartitionTopics]

_AT_ONCE = 50  # names that are looked at between two pauses


class VisibleTopics:
    """The topics that are granted for some key. Other topics do not exist in what this returns.

    Of a ``limited`` topic only some keys are granted, so figures of all its events must not be shown.
    """

    def __init__(self, grants: TopicGrants) -> None:
        self._grants = grants
        self._seen: dict[int, tuple[PartitionTopics, PartitionTopics]] = {}  # the whole partition, and its part

    @property
    def shared_by(self) -> Hashable:
        """Return a value that is equal for all requests that see the same; None if they see everything."""
        return None if self._grants.is_everything else (self._grants.patterns, self._grants.unlimited)

    def read(self, topics: TopicList, pause: Pause = no_pause) -> Topics:
        """Return the topics of each partition as they are now; what has not changed is the same object again."""
        whole = topics.read()
        if self._grants.is_everything:
            return whole
        return [self._part_of(place, partition, pause) for place, partition in enumerate(whole)]

    def is_limited(self, topic: str) -> bool:
        return self._grants.keys(topic) is not None

    def _part_of(self, place: int, partition: PartitionTopics, pause: Pause) -> PartitionTopics:
        known = self._seen.get(place)
        if known is not None and known[0] is partition:
            return known[1]
        near: set[int] = set()
        for pattern in self._grants.patterns:
            near.update(range_of(pattern, partition.names))
        found = []
        for number, at in enumerate(sorted(near)):
            if self._grants.keys(name := partition.names[at]) != NO_KEYS:
                found.append(name)
            if number % _AT_ONCE == 0:
                pause()
        part = PartitionTopics(partition.mark, {name: partition.created[name] for name in found}, found)
        self._seen[place] = partition, part
        return part


EVERY_TOPIC = VisibleTopics(ALL_TOPICS)
