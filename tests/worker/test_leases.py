"""Partitions are shared evenly, and an owner notices when it has lost one."""

import time

import gevent

from pushsvc.errors import BrokerUnavailable
from pushsvc.topic import PARTITIONS
from pushsvc.worker.leases import Leases
from pushsvc.worker.policy import WorkerPolicy


class Owner:
    """An owner of leases; ``partitions`` has the fencing tokens of its own."""

    def __init__(self, broker, policy=None):
        self.partitions = {}
        self.leases = Leases(broker, self.partitions.__setitem__, self.partitions.pop, policy)


def owners(broker, count):
    """Return owners that joined one after the other and share the partitions."""
    found = []
    for _ in range(count):
        found.append(Owner(broker))
        for _ in range(2):  # in the first round owners release partitions beyond their share, which others then take
            for owner in found:
                owner.leases.renew()
    return found


def test_every_partition_has_one_owner_and_shares_are_even(broker):
    shares = [set(owner.partitions) for owner in owners(broker, 3)]
    assert set().union(*shares) == set(range(PARTITIONS))
    assert sum(map(len, shares)) == PARTITIONS
    assert max(map(len, shares)) == -(-PARTITIONS // 3)


def test_released_partitions_are_taken_at_once_with_newer_tokens(broker):
    first, second = owners(broker, 2)
    before = dict(first.partitions)
    first.leases.close()
    assert first.partitions == {}
    assert {first.leases.fence_of(partition) for partition in before} == {None}
    second.leases.renew()
    assert set(second.partitions) == set(range(PARTITIONS))
    assert all(second.partitions[partition] > fence for partition, fence in before.items())


def test_a_partition_that_another_owned_meanwhile_is_adopted_again(broker):
    (owner,) = owners(broker, 1)
    before = dict(owner.partitions)
    broker.connections.command("DEL", broker.keys.lease(7))
    broker.lease([7], "other", 60_000)
    broker.release([7], "other")
    owner.leases.renew()
    changed = {partition: fence for partition, fence in owner.partitions.items() if before[partition] != fence}
    assert changed == {7: before[7] + 2}
    assert owner.leases.fence_of(7) == before[7] + 2


def test_a_partition_that_another_owns_is_dropped(broker):
    (owner,) = owners(broker, 1)
    broker.connections.command("DEL", broker.keys.lease(7))
    broker.lease([7], "other", 60_000)
    owner.leases.renew()
    assert set(owner.partitions) == set(range(PARTITIONS)) - {7}
    assert owner.leases.fence_of(7) is None


def test_a_forgotten_partition_is_taken_again(broker):
    (owner,) = owners(broker, 1)
    owner.leases.forget(7)
    assert owner.leases.fence_of(7) is None
    owner.leases.renew()
    assert set(owner.partitions) == set(range(PARTITIONS))


def test_without_redis_partitions_are_kept_until_their_leases_expire(broker, monkeypatch):
    owner = Owner(broker, WorkerPolicy(lease=1.5))
    owner.leases.renew()

    def away(*_):
        raise BrokerUnavailable("away")

    monkeypatch.setattr(broker, "time", away)
    monkeypatch.setattr(broker, "lease", away)
    owner.leases.renew_or_expire()
    assert len(owner.partitions) == PARTITIONS
    time.sleep(1.6)
    owner.leases.renew_or_expire()
    assert owner.partitions == {}


def test_releasing_does_not_wait_long_for_a_redis_that_hangs(broker, monkeypatch):
    (owner,) = owners(broker, 1)
    monkeypatch.setattr(broker, "release", lambda *_: gevent.sleep(60))
    begun = time.monotonic()
    owner.leases.close()
    assert WorkerPolicy().leave_timeout <= time.monotonic() - begun < 30
    assert owner.partitions == {}
