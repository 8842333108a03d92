"""The windows of a partition whose frames somebody reads, as its owner knows them."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pushsvc.broker.keys import Log
from pushsvc.settings import TopicSettings


@dataclass(slots=True)
class Demand:
    """The wanted windows of each topic, by the names of their logs, with the ms (of Redis) until which they are wanted.

    ``asked`` are the logs that need a snapshot, because somebody asked for them anew. It must have everything that was
    stored when they were asked for, so they do not count as wanted until they are taken, before the next read.
    ``counted`` are topics that alerts watch: they are counted, whether anybody wants their windows or not.
    """

    asked: set[str] = field(default_factory=set)
    counted: Collection[str] = ()
    _until: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))

    def __contains__(self, name: str) -> bool:
        return name in self._until.get(topic_of(name), ())

    def ask(self, name: str, until: int) -> None:
        """Note that a log is wanted, beginning with a snapshot."""
        self._until[topic_of(name)][name] = until
        self.asked.add(name)

    def take_asked(self) -> set[str]:
        """Return the logs that were asked for since the last call."""
        asked, self.asked = self.asked, set()
        return asked

    @property
    def wanted(self) -> bool:
        """True if any window is wanted."""
        return bool(self._until)

    def wants(self, topic: str) -> bool:
        """Return whether a topic is to be counted: a window is wanted, or an alert watches it."""
        return topic in self._until or topic in self.counted

    def windows(self, topic: str, settings: TopicSettings) -> set[str]:
        """Return the names of the wanted windows of a topic."""
        wanted = self._until.get(topic)
        if not wanted:
            return set()
        names = {Log(topic, window.name).name: window.name for window in settings.windows}
        return {names[name] for name in wanted if name in names and name not in self.asked}

    def over(self, now: int) -> list[str]:
        """Return the logs whose demand is over, as far as this process knows."""
        return [name for wanted in self._until.values() for name, until in wanted.items() if until <= now]

    def renew(self, left: Mapping[str, int], now: int) -> set[str]:
        """Note for how many ms the logs are still wanted that were ``over`` at ``now``; return the topics of those that
        are not. Somebody may have asked for them anew while Redis was asked: then they stay."""
        ended = set()
        for name, rest in left.items():
            wanted = self._until[topic_of(name)]
            if rest:
                wanted[name] = now + rest
            elif wanted[name] <= now:
                ended.add(topic_of(name))
                del wanted[name]
        for topic in ended:
            if not self._until[topic]:
                del self._until[topic]
        return ended


def topic_of(name: str) -> str:
    """Return the topic of a statistics log of that name."""
    return name.partition(".$stats.")[0]
