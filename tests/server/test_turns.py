"""Requests that arrive together are spread over turns of the event loop."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable

import gevent

from pushsvc.server.turns import TurnBudget
from support.raw_http import ServerProcess, parse_responses, read_all

SHORT, LONG = 10, 5_000
REQUESTS = 30


def begun(budget: TurnBudget, *targets: int) -> list[tuple[int, int]]:
    """Let requests with such targets arrive in one turn; return number and turn of each, as they began."""
    order: list[tuple[int, int]] = []
    loop = gevent.get_hub().loop

    def request(number: int, target: int) -> None:
        budget.wait(target)
        order.append((number, loop.iteration))

    gevent.joinall([gevent.spawn(request, number, target) for number, target in enumerate(targets)], raise_error=True)
    return order


def test_requests_begin_in_order_each_in_a_turn_of_its_own_if_there_is_no_time_for_two() -> None:
    budget = TurnBudget(0.0)
    order = begun(budget, *[SHORT] * 10)
    assert [number for number, _ in order] == list(range(10))
    assert len({turn for _, turn in order}) == 10
    assert budget.waits == 10


def test_requests_begin_in_one_turn_if_there_is_time() -> None:
    budget = TurnBudget(60.0)
    assert len({turn for _, turn in begun(budget, *[SHORT] * 10)}) == 1
    assert budget.waits == 0


def test_long_targets_let_short_ones_go_first_but_begin_in_each_turn() -> None:
    order = begun(TurnBudget(0.0), *[LONG] * 3, *[SHORT] * 4)
    assert [number for number, _ in order] == [3, 0, 4, 1, 5, 2, 6]
    assert list(Counter(turn for _, turn in order).values()) == [2, 2, 2, 1]


def test_a_request_that_is_killed_while_it_waits_does_not_keep_its_place() -> None:
    budget = TurnBudget(0.0)
    killed = gevent.spawn(budget.wait, SHORT)
    gevent.sleep(0)
    killed.kill()
    assert len(begun(budget, SHORT, SHORT)) == 2


def test_a_server_does_not_answer_all_requests_that_have_arrived_in_one_turn(
    start_server: Callable[..., ServerProcess],
) -> None:
    """30 requests of 5 ms each held the loop for 150 ms."""
    server = start_server()
    connections = [server.connect() for _ in range(REQUESTS)]
    for connection in connections:  # each is accepted
        connection.sendall(b"GET /turn HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65_536)
    os.kill(server.process.pid, signal.SIGSTOP)
    for connection in connections:
        connection.sendall(b"GET /turn HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    os.kill(server.process.pid, signal.SIGCONT)
    turns = Counter(parse_responses(read_all(connection))[0].body for connection in connections)
    assert max(turns.values()) <= 4
