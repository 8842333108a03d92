"""Allowances and reservations that processes share through a real Redis. Each Accounts stands for one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gevent
import pytest

from pushsvc.broker.broker import Broker
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.rates import Reservation
from pushsvc.errors import TooManyRequests
from pushsvc.event import Limits
from pushsvc.web.rates.accounts import Account, Accounts, try_posts
from pushsvc.web.rates.limits import Rate
from pushsvc.web.rates.streams import StreamCounts, hold
from support.stack import client_of
from support.waiting import until

run_loop = partial(until, sleep=gevent.sleep)
"""Waits for what a greenlet does."""

ADDRESS = "203.0.113.7"


def account_of(accounts: Accounts, address: str = ADDRESS) -> Account:
    [account] = accounts.of_address(address)
    return account


def allowed(account: Account, attempts: int) -> int:
    """Return how many of some requests are allowed."""
    count = 0
    for _ in range(attempts):
        try:
            account.count_request()
        except TooManyRequests:
            continue
        count += 1
    return count


def test_processes_share_a_rate_but_for_a_slice_each(broker: Broker) -> None:
    processes = [Accounts(broker.rates, Limits(requests_per_second=1_000)) for _ in range(4)]
    begun = time.monotonic()
    count = sum(allowed(account_of(process), 2_000) for process in processes)
    assert 1_000 <= count <= 1_000 * (1 + time.monotonic() - begun) + 4 * 100


def test_requests_that_come_together_draw_once(broker: Broker) -> None:
    """All wait for the greenlet that draws; none is refused while there is room, and none is counted twice."""
    account = account_of(Accounts(broker.rates, Limits(requests_per_second=20)))
    begun = time.monotonic()
    greenlets = [gevent.spawn(allowed, account, 1) for _ in range(100)]
    gevent.joinall(greenlets)
    count = sum(greenlet.value for greenlet in greenlets)
    assert 20 <= count <= 20 * (1 + time.monotonic() - begun) + 2


def test_a_rate_recovers(broker: Broker) -> None:
    account = account_of(Accounts(broker.rates, Limits(requests_per_second=5)))
    assert 5 <= allowed(account, 20) <= 7
    assert until(lambda: allowed(account, 1) == 1)


def test_a_batch_beyond_the_rate_is_made_up_for_by_the_next_ones(broker: Broker) -> None:
    account = account_of(Accounts(broker.rates, Limits(events_per_second=10)))
    account.count_events(50)
    with pytest.raises(TooManyRequests) as refused:
        account.count_events(1)
    assert 3 <= refused.value.retry_after <= 5
    with pytest.raises(TooManyRequests):
        account.check_events()


def test_other_processes_hear_of_a_batch_beyond_the_rate(broker: Broker) -> None:
    limits = Limits(events_per_second=10)
    account_of(Accounts(broker.rates, limits)).count_events(100)
    run_loop(lambda: broker.connections.command("EXISTS", broker.keys.rate("events", f"address:{ADDRESS}")))
    other = account_of(Accounts(broker.rates, limits))
    other.count_events(1)  # its free slice
    with pytest.raises(TooManyRequests) as refused:
        other.count_events(1)
    assert refused.value.retry_after > 5


def test_a_huge_batch_closes_a_rate_for_a_minute_at_most(broker: Broker) -> None:
    account = account_of(Accounts(broker.rates, Limits(events_per_second=1)))
    account.count_events(10_000)
    with pytest.raises(TooManyRequests) as refused:
        account.count_events(1)
    assert refused.value.retry_after <= 62


def test_posts_are_counted_in_all_accounts_or_in_none(broker: Broker) -> None:
    accounts = Accounts(broker.rates, Limits(requests_per_second=1_000, events_per_second=100))
    first, second = account_of(accounts), account_of(accounts, "203.0.113.8")
    assert try_posts([first, second], 10)  # the free slice
    assert try_posts([first], 0)
    assert not try_posts([first, second], 1)
    first.count_posts(-10)
    assert not try_posts([first, second], 1)
    assert try_posts([first], 10)


def test_without_redis_a_process_grants_the_rate_itself(tmp_path: Path) -> None:
    broker = Broker(f"unix://{tmp_path}/nothing.sock")
    begun = time.monotonic()
    count = allowed(account_of(Accounts(broker.rates, Limits(requests_per_second=100))), 1_000)
    broker.close()
    assert 100 <= count <= 100 * (1 + time.monotonic() - begun) + 10


def test_a_redis_that_refuses_to_draw_does_not_fail_requests(start_redis: Callable[..., EmbeddedServer]) -> None:
    url = start_redis().url
    client_of(url).execute_command("ACL", "SETUSER", "limited", "on", "nopass", "~*", "&*", "+@all", "-set", "-hgetall")
    broker = Broker(url.replace("unix://", "unix://limited:any@"))
    begun = time.monotonic()
    count = allowed(account_of(Accounts(broker.rates, Limits(requests_per_second=100))), 1_000)
    assert 100 <= count <= 100 * (1 + time.monotonic() - begun) + 10
    process, rate = StreamCounts(broker.rates), Rate("streams-of-subject", 3)
    assert [acquired(process, "subject:ann", rate) for _ in range(5)] == [True] * 3 + [False] * 2
    broker.close()


def test_the_addresses_of_a_client_are_one_account(broker: Broker) -> None:
    accounts = Accounts(broker.rates, Limits())
    assert account_of(accounts, "::ffff:203.0.113.7") is account_of(accounts)
    assert account_of(accounts, "2001:db8::1") is account_of(accounts, "2001:db8:0:0:ffff::2")
    assert account_of(accounts, "2001:db8::1") is not account_of(accounts, "2001:db8:0:1::1")
    assert accounts.of_address("no address") == ()


def test_the_defaults_spare_programs_of_this_machine(broker: Broker) -> None:
    accounts = Accounts(broker.rates, Limits())
    assert accounts.of_address("127.0.0.1") == accounts.of_address("::1") == ()
    assert accounts.of_subject("ann", loopback=True) == ()
    assert accounts.of_address("127.0.0.1", forwarded=True)  # a proxy says so, and its client told it
    assert accounts.of_subject("ann")
    assert Accounts(broker.rates, Limits(events_per_second=7)).of_address("127.0.0.1")
    none = Limits(
        requests_per_second=0, events_per_second=0, connections_per_second=0, streams_per_address=0,
        streams_per_subject=0,
    )  # fmt: skip
    assert allowed(account_of(Accounts(broker.rates, none)), 5_000) == 5_000


def test_a_process_remembers_so_many_addresses_only(broker: Broker) -> None:
    accounts = Accounts(broker.rates, Limits(), known=1_000)
    first = account_of(accounts)
    for number in range(5_000):
        allowed(account_of(accounts, f"10.0.{number >> 8}.{number & 255}"), 1)
    assert accounts.known <= 1_000
    assert account_of(accounts) is not first


def test_processes_share_the_limit_of_streams(broker: Broker) -> None:
    processes = [StreamCounts(broker.rates) for _ in range(2)]
    rate = Rate("streams-of-subject", 3)
    ends = [processes[number % 2].acquire("subject:ann", rate) for number in range(3)]
    for process in processes:
        with pytest.raises(TooManyRequests):
            process.acquire("subject:ann", rate)
        process.acquire("subject:bob", rate)
    ends[0]()
    ends[0]()  # a second time ends nothing
    run_loop(lambda: acquired(processes[1], "subject:ann", rate))
    with pytest.raises(TooManyRequests):
        processes[0].acquire("subject:ann", rate)


def acquired(process: StreamCounts, who: str, rate: Rate) -> bool:
    try:
        process.acquire(who, rate)
    except TooManyRequests:
        return False
    return True


def test_many_streams_of_an_address_cost_a_call_for_each_tenth(broker: Broker) -> None:
    process, rate = StreamCounts(broker.rates), Rate("streams-of-address", 100)
    ends = [process.acquire("address:203.0.113.7", rate) for _ in range(100)]
    with pytest.raises(TooManyRequests):
        process.acquire("address:203.0.113.7", rate)
    for end in ends:
        end()
    run_loop(lambda: not broker.connections.command("EXISTS", broker.keys.streams("address:203.0.113.7")))
    assert acquired(process, "address:203.0.113.7", rate)


def test_reservations_of_a_killed_process_end(broker: Broker) -> None:
    store = broker.rates
    assert store.reserve("killed", [Reservation("subject:ann", 2, 2)], 0.2) == [2]
    assert store.reserve("other", [Reservation("subject:ann", 1, 2)], 30) == [0]
    until(lambda: store.reserve("other", [Reservation("subject:ann", 1, 2)], 30) == [1])


def test_without_redis_a_process_counts_streams_alone(tmp_path: Path) -> None:
    broker = Broker(f"unix://{tmp_path}/nothing.sock")
    process, rate = StreamCounts(broker.rates), Rate("streams-of-subject", 3)
    assert [acquired(process, "subject:ann", rate) for _ in range(5)] == [True] * 3 + [False] * 2
    broker.close()


def test_a_stream_counts_for_all_accounts_or_for_none(broker: Broker) -> None:
    limits = Limits(streams_per_subject=1, streams_per_address=5)
    accounts, counts = Accounts(broker.rates, limits), StreamCounts(broker.rates)
    own = [account_of(accounts), *accounts.of_subject("ann")]
    end = hold(counts, own)
    assert end is not None
    for _ in range(10):
        with pytest.raises(TooManyRequests) as refused:
            hold(counts, own)
        assert refused.value.policy == "streams-of-subject"
    end()

    def free() -> bool:
        try:
            return hold(counts, own) is not None
        except TooManyRequests:
            return False

    run_loop(free)
