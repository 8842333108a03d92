"""The subscriptions of a process to the channels of logs, all on its live connection."""

from pushsvc.broker.cluster.cluster_live import ClusterLiveConnection
from pushsvc.broker.confirmations import Confirmation
from pushsvc.broker.keys import Keys, Log
from pushsvc.broker.live import LiveConnection


class Subscriptions:
    """Subscribes to logs. ``logs`` holds the subscribed logs by channel."""

    def __init__(self, live: LiveConnection | ClusterLiveConnection, keys: Keys) -> None:
        self.logs: dict[str, Log] = {}
        self._live = live
        self._keys = keys

    @property
    def is_up(self) -> bool:
        """True while subscriptions are confirmed soon."""
        return self._live.up.is_set()

    def subscribe(self, of: Log) -> Confirmation:
        """Subscribe; return the confirmation to come."""
        channel = self._keys.log_channel(of)
        self.logs[channel] = of
        return self._live.subscribe(channel)

    def unsubscribe(self, of: Log) -> None:
        channel = self._keys.log_channel(of)
        self.logs.pop(channel, None)
        self._live.unsubscribe(channel)

    def named(self, partition: int, name: str) -> Log | None:
        """Return the subscribed log of that name in a partition, if there is one."""
        return self.logs.get(self._keys.named_log_channel(partition, name))

    def is_confirmed(self, of: Log) -> bool:
        """Return whether every notification of a log arrives from now on."""
        return self._live.is_confirmed(self._keys.log_channel(of))

    def wait_arrived(self, of: Log, timeout: float) -> bool:
        """Wait until all that was sent so far to the connection of a log has arrived; return whether it has."""
        return self._live.wait_arrived(self._keys.log_channel(of), timeout)
