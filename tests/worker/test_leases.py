"""The partitions are shared evenly, and whoever owns one knows when it does not any more."""

import time

import gevent

from pushsvc.errors import BrokerUnavailable
from pushsvc.topic import PARTITIONS
from pushsvc.worker.leases import GIVING_BACK, Leases


class Owner:
    """What the owner of leases was told: partition -> fencing token of those that are its own."""

    def __init__(self, broker):
        self.partitions = {}
        self.leases = Leases(broker, self.partitions.__setitem__, self.partitions.pop)


def owners(broker, count):
    """Return owners who have come one after the other, and have all heard of each other."""
    found = []
    for _ in range(count):
        found.append(Owner(broker))
        for _ in range(2):  # who has too many gives them away in the first round; who has too few takes them
            for owner in found:
                owner.leases.renew()
    return found


def test_every_partition_has_one_owner_and_shares_are_even(broker):
    shares = [set(owner.partitions) for owner in owners(broker, 3)]
    assert set().union(*shares) == set(range(PARTITIONS))
    assert sum(map(len, shares)) == PARTITIONS
    assert max(map(len, shares)) == -(-PARTITIONS // 3)


def test_what_is_given_back_is_taken_at_once_with_newer_tokens(broker):
    first, second = owners(broker, 2)
    before = dict(first.partitions)
    first.leases.close()
    assert first.partitions == {}
    assert {first.leases.fence_of(partition) for partition in before} == {None}
    second.leases.renew()
    assert set(second.partitions) == set(range(PARTITIONS))
    assert all(second.partitions[partition] > fence for partition, fence in before.items())


def test_one_that_another_has_owned_meanwhile_is_adopted_anew(broker):
    (owner,) = owners(broker, 1)
    before = dict(owner.partitions)
    broker._connections.command("DEL", broker.keys.lease(7))
    broker.lease([7], "other", 60_000)
    broker.release([7], "other")
    owner.leases.renew()
    changed = {partition: fence for partition, fence in owner.partitions.items() if before[partition] != fence}
    assert changed == {7: before[7] + 2}
    assert owner.leases.fence_of(7) == before[7] + 2


def test_one_that_another_owns_is_dropped(broker):
    (owner,) = owners(broker, 1)
    broker._connections.command("DEL", broker.keys.lease(7))
    broker.lease([7], "other", 60_000)
    owner.leases.renew()
    assert set(owner.partitions) == set(range(PARTITIONS)) - {7}
    assert owner.leases.fence_of(7) is None


def test_one_that_was_forgotten_is_taken_again(broker):
    (owner,) = owners(broker, 1)
    owner.leases.forget(7)
    assert owner.leases.fence_of(7) is None
    owner.leases.renew()
    assert set(owner.partitions) == set(range(PARTITIONS))


def test_without_redis_everything_is_kept_until_the_leases_have_run_out(broker, monkeypatch):
    (owner,) = owners(broker, 1)

    def away(*_):
        raise BrokerUnavailable("away")

    monkeypatch.setattr(broker, "time", away)
    monkeypatch.setattr(broker, "lease", away)
    owner.leases._renew_in_time()
    assert len(owner.partitions) == PARTITIONS
    monkeypatch.setattr("pushsvc.worker.leases.LEASE", -1.0)
    owner.leases._renew_in_time()
    assert owner.partitions == {}


def test_giving_back_does_not_wait_long_for_a_redis_that_hangs(broker, monkeypatch):
    (owner,) = owners(broker, 1)
    monkeypatch.setattr(broker, "release", lambda *_: gevent.sleep(60))
    begun = time.monotonic()
    owner.leases.close()
    assert GIVING_BACK <= time.monotonic() - begun < 30
    assert owner.partitions == {}
