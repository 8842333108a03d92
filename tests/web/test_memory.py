"""The memory budget: who gets room, and who must let go."""

from __future__ import annotations

import random

import pytest

from pushsvc.errors import MemoryFull
from pushsvc.web.memory.budget import Hold, MemoryBudget
from pushsvc.web.memory.by_size import BySize
from pushsvc.web.memory.networks import network_of
from pushsvc.web.memory.work import Work, WorkQueue

ALICE, BOB, CAROL = "192.0.2.1", "198.51.100.7", "2001:db8:0:1::1"


def holds(budget: MemoryBudget, address: str, *sizes: int) -> list[Hold]:
    return [budget.hold(address, size, lambda: None) for size in sizes]


def test_held_bytes_follow_every_change() -> None:
    budget = MemoryBudget(4_000, 3_000)
    first, second = holds(budget, ALICE, 100, 200)
    first.resize(700)
    assert budget.held == 900
    second.release()
    second.release()
    first.resize(50)
    assert budget.held == 50
    first.release()
    assert (budget.held, budget.refusals) == (0, 0)


def test_the_largest_hold_of_the_largest_network_makes_room() -> None:
    budget = MemoryBudget(4_000, 3_000)  # 3,000 for holds
    let_go: list[str] = []
    small = budget.hold(ALICE, 300, lambda: let_go.append("small"))
    large = budget.hold(ALICE, 1_300, lambda: let_go.append("large"))
    other = budget.hold(BOB, 1_200, lambda: let_go.append("other"))
    newcomer = budget.hold(CAROL, 400, lambda: let_go.append("newcomer"))
    assert let_go == ["large"]
    assert [hold.gone for hold in (small, large, other, newcomer)] == [False, True, False, False]
    assert (budget.held, budget.refusals) == (1_900, 1)
    with pytest.raises(MemoryFull):
        large.resize(1_301)


def test_the_largest_is_refused_when_it_grows() -> None:
    budget = MemoryBudget(4_000, 4_000)
    small, large = holds(budget, ALICE, 500) + holds(budget, BOB, 2_000)
    with pytest.raises(MemoryFull):
        large.resize(2_900)
    assert (budget.held, small.gone, large.size) == (2_500, False, 2_000)


def test_more_than_all_room_lets_nothing_go() -> None:
    budget = MemoryBudget(4_000, 4_000)
    [small] = holds(budget, ALICE, 500)
    with pytest.raises(MemoryFull):
        budget.hold(BOB, 3_001)
    assert (budget.held, small.gone) == (500, False)


def test_a_network_that_exceeds_its_share_lets_go_of_its_own() -> None:
    budget = MemoryBudget(40_000, 1_000)
    [other], [first, second] = holds(budget, BOB, 900), holds(budget, ALICE, 600, 300)
    holds(budget, ALICE, 200)
    assert [hold.gone for hold in (other, first, second)] == [False, True, False]


def test_one_hold_may_be_larger_than_the_share() -> None:
    budget = MemoryBudget(40_000, 1_000)
    [alone] = holds(budget, ALICE, 5_000)
    alone.resize(6_000)
    holds(budget, ALICE, 100)
    assert alone.gone


def test_addresses_of_an_ipv6_network_share_and_those_of_loopback_do_not() -> None:
    budget = MemoryBudget(40_000, 1_000)
    [first] = holds(budget, "2001:db8:0:1::1", 700)
    holds(budget, "2001:db8:0:1:ffff::2", 700)
    assert first.gone
    local = [*holds(budget, "127.0.0.1", 700, 700), *holds(budget, "", 700, 700)]
    assert not any(hold.gone for hold in local)


def test_what_is_kept_is_not_let_go() -> None:
    budget = MemoryBudget(4_000, 4_000)
    [kept] = holds(budget, ALICE, 2_000)
    kept.keep()
    with pytest.raises(MemoryFull):
        budget.hold(BOB, 1_500)
    kept.release()
    assert budget.hold(BOB, 1_500).size == 1_500


def test_a_hold_without_a_callback_is_not_let_go() -> None:
    budget = MemoryBudget(4_000, 4_000)
    shared = budget.hold("", 2_000)
    with pytest.raises(MemoryFull):
        budget.hold(BOB, 1_500, lambda: None)
    assert not shared.gone


def test_networks_without_holds_are_forgotten() -> None:
    budget = MemoryBudget(4_000, 4_000)
    for number in range(1_000):
        budget.hold(f"192.0.2.{number % 250}", 10).release()
    with pytest.raises(MemoryFull):
        budget.hold(ALICE, 5_000)
    assert not budget.networks


def test_random_holds_stay_within_the_budget_and_end_at_zero() -> None:
    chance = random.Random(7)
    budget = MemoryBudget(100_000, 30_000)
    open_holds: list[Hold] = []
    for _ in range(20_000):
        try:
            if chance.random() < 0.4 or not open_holds:
                open_holds += holds(budget, f"192.0.2.{chance.randrange(8)}", chance.randrange(1, 20_000))
            else:
                hold = chance.choice(open_holds)
                chance.choice([hold.release, hold.keep, lambda hold=hold: hold.resize(chance.randrange(1, 30_000))])()
        except MemoryFull:
            pass
        open_holds = [hold for hold in open_holds if not hold.gone]
        assert budget.held == sum(hold.size for hold in open_holds) <= 75_000
        if chance.random() < 0.1 and open_holds:
            open_holds.pop(0).release()
    for hold in open_holds:
        hold.release()
    assert (budget.held, budget.networks) == (0, 0)


def test_one_of_the_largest_is_found() -> None:
    sizes = BySize[str]()
    assert sizes.largest() is None
    for name, size in {"a": 5, "b": 900, "c": 1_000, "d": 90}.items():
        sizes.move(name, 0, size)
    assert sizes.largest() == "b", "the first of its class"
    sizes.move("b", 900, 0)
    sizes.move("c", 1_000, 4)
    assert sizes.largest() == "d"


def test_work_waits_for_room_and_small_work_overtakes() -> None:
    queue, admitted = WorkQueue(100), []

    def join(name: str, size: int) -> Work:
        work = queue.join(size)
        work.on_admitted = lambda: admitted.append(name)
        return work

    first, second = join("first", 60), join("second", 30)
    large, small, other = join("large", 90), join("small", 20), join("other", 20)
    assert (first.admitted, second.admitted, queue.waiting, queue.used) == (True, True, 3, 90)
    queue.leave(second)
    assert admitted == ["small", "other"]
    for work in (first, small, other):
        assert not large.admitted
        queue.leave(work)
    assert large.admitted
    queue.leave(large)
    assert (queue.used, queue.waiting) == (0, 0)


def test_the_only_work_may_be_larger_than_the_room() -> None:
    queue = WorkQueue(100)
    huge = queue.join(1_000)
    assert huge.admitted
    assert not queue.join(1).admitted


def test_work_is_not_overtaken_for_ever() -> None:
    queue = WorkQueue(100, overtakers=2)
    running, large = queue.join(10), queue.join(100)
    small = [queue.join(10) for _ in range(4)]
    assert [work.admitted for work in small] == [True, True, False, False]
    for work in (running, *small[:2]):
        assert not large.admitted
        queue.leave(work)
    assert large.admitted
    queue.leave(large)
    assert [work.admitted for work in small[2:]] == [True, True]


def test_work_that_left_while_it_waited_never_begins() -> None:
    queue = WorkQueue(100)
    first, second = queue.join(100), queue.join(100)
    queue.leave(second)
    queue.leave(first)
    assert (queue.used, second.admitted) == (0, False)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", bytes([192, 0, 2, 1])),
        ("::ffff:192.0.2.1", bytes([192, 0, 2, 1])),
        ("2001:db8::1", bytes.fromhex("20010db800000000")),
        ("fe80::1%eth0", bytes.fromhex("fe80000000000000")),
        ("127.0.0.1", None),
        ("::1", None),
        ("", None),
    ],
)
def test_the_network_of_an_address(address: str, network: bytes | None) -> None:
    assert network_of(address) == network
