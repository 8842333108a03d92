"""Webhooks of alerts: to real receivers, in order, with retries, at least once."""

from __future__ import annotations

import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import gevent
import pytest

from pushsvc.alerts.rule import ALERTS_TOPIC, AlertRule, read_rule
from pushsvc.alerts.webhook import WebhookPolicy
from pushsvc.broker.broker import Broker
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from pushsvc.worker.alerts.post import NotDelivered, is_public, post
from pushsvc.worker.alerts.webhooks import DeliveryPolicy, WebhookSender
from support.owner import Owner, lease
from support.waiting import until

SECRET = b"0123456789abcdef01234567"
HOSTS = WebhookPolicy(("127.0.0.1",), SECRET)
FAST = DeliveryPolicy(timeout=5.0, delays=(0.01, 0.01, 0.01), waiting=5)


@dataclass
class Receiver:
    """Takes webhooks. ``answers`` are the statuses of the next ones; afterwards it is 204."""

    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    @property
    def types(self) -> list[int]:
        return [json.loads(body)["data"]["n"] for _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = state.answers.pop(0) if state.answers else 204
            if status < 300:
                state.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/hook?x=1"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Hooks:
    """The consumer of a new owner of the partition of alerts."""

    broker: Broker
    owner: Owner
    sender: WebhookSender

    def tell(self, count: int, key: str = "low", first: int = 0) -> None:
        events = [Event(f"{key}//{n}", "raised", key=key, data={"n": n}) for n in range(first, first + count)]
        self.broker.publish(ALERTS_TOPIC, events, TopicSettings())

    @property
    def delivered(self) -> int | None:
        return self.broker.alerts.load(self.owner.number).delivered


def begin(broker: Broker, rules: list[AlertRule], hosts: WebhookPolicy = HOSTS) -> Hooks:
    owner = Owner(broker, [ALERTS_TOPIC], unwanted=True)
    owner.step(1)
    by_name = {rule.name: rule for rule in rules}
    hooks = Hooks(broker, owner, WebhookSender(broker, lambda: by_name, owner.worker.partitions, hosts, FAST))
    hooks.sender.step()
    return hooks


@pytest.fixture
def new_hooks(broker: Broker) -> Iterator[Callable[..., Hooks]]:
    broker.check_layout()
    made: list[Hooks] = []

    def start(rules: list[AlertRule], hosts: WebhookPolicy = HOSTS) -> Hooks:
        made.append(begin(broker, rules, hosts))
        return made[-1]

    yield start
    for hooks in made:
        hooks.sender.close()


def rule(url: str, name: str = "low") -> AlertRule:
    return read_rule(name, {"topic": "sales", "when": "count(5m) > 1", "webhook": url})


def wait(hooks: Hooks, condition: Callable[[], bool]) -> None:
    def look() -> bool:
        hooks.sender.step()
        gevent.sleep(0.001)
        return condition()

    until(look)


def test_an_alert_is_posted_with_a_signature(new_hooks: Callable[..., Hooks], receiver: Receiver) -> None:
    hooks = new_hooks([rule(receiver.url)])
    hooks.tell(1)
    wait(hooks, lambda: len(receiver.got) == 1)
    headers, body = receiver.got[0]
    message = json.loads(body)
    assert (message["type"], message["data"]["key"], message["data"]["$offset"]) == ("alert.raised", "low", 1)
    assert message["timestamp"] == message["data"]["time"]
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = b64encode(hmac.new(SECRET, content, sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert b64decode(expected)
    assert headers["webhook-id"] == "low//0"
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("row", "id"),
    [("東京", "low/%E6%9D%B1%E4%BA%AC/1"), ("Zürich 100%", "low/Z%C3%BCrich%20100%25/1"), ("a b%", "low/a b%/1")],
)
def test_the_id_of_any_row_fits_into_a_header(
    new_hooks: Callable[..., Hooks], receiver: Receiver, row: str, id: str
) -> None:
    """Headers are bytes of Latin-1: alerts of other rows were given up, after they had held up those behind them."""
    hooks = new_hooks([rule(receiver.url)])
    hooks.broker.publish(ALERTS_TOPIC, [Event(f"low/{row}/1", "raised", key="low", data={"n": 1})], TopicSettings())
    wait(hooks, lambda: hooks.delivered == 1)
    [(headers, body)] = receiver.got
    assert headers["webhook-id"] == id
    content = f"{id}.{headers['webhook-timestamp']}.".encode() + body
    assert headers["webhook-signature"] == f"v1,{b64encode(hmac.new(SECRET, content, sha256).digest()).decode()}"


def test_failures_are_repeated_and_the_order_is_kept(new_hooks: Callable[..., Hooks], receiver: Receiver) -> None:
    receiver.answers = [500, 302, 204, 503]
    hooks = new_hooks([rule(receiver.url)])
    hooks.tell(3)
    wait(hooks, lambda: hooks.delivered == 3)
    assert receiver.types == [0, 1, 2]
    assert receiver.answers == []


@pytest.mark.parametrize("answers", [[500] * 4, [410]])
def test_a_receiver_that_takes_nothing_is_given_up(
    new_hooks: Callable[..., Hooks], receiver: Receiver, answers: list[int]
) -> None:
    receiver.answers = answers
    hooks = new_hooks([rule(receiver.url)])
    hooks.tell(2)
    wait(hooks, lambda: hooks.delivered == 2)
    assert receiver.types == [1]


def test_alerts_without_webhook_and_those_of_before_are_not_posted(
    new_hooks: Callable[..., Hooks], receiver: Receiver, broker: Broker
) -> None:
    broker.publish(ALERTS_TOPIC, [Event("low//old", "raised", key="low", data={"n": -1})], TopicSettings())
    hooks = new_hooks([rule(receiver.url), read_rule("other", {"topic": "sales", "when": "count(5m) > 1"})])
    hooks.tell(1, key="other")
    hooks.tell(1, key="unknown")
    hooks.tell(1, first=7)
    wait(hooks, lambda: hooks.delivered == 4)
    assert receiver.types == [7]


def test_a_successor_goes_on_and_repeats_only_what_was_not_taken(
    new_hooks: Callable[..., Hooks], receiver: Receiver
) -> None:
    hooks = new_hooks([rule(receiver.url)])
    hooks.tell(2)
    wait(hooks, lambda: hooks.delivered == 2)
    receiver.answers = [500] * 2
    hooks.tell(1, first=2)
    hooks.sender.step()
    successor = new_hooks([rule(receiver.url)])
    hooks.sender.close()
    wait(successor, lambda: successor.delivered == 3)
    assert receiver.types == [0, 1, 2]


def test_alerts_are_posted_after_redis_has_lost_those_of_before(
    start_redis: Callable[..., EmbeddedServer], receiver: Receiver
) -> None:
    """The offsets of the topic began again, below the position of the owner: it posted nothing until they passed it."""
    redis = start_redis(appendonly="no", save="")
    with closing(Broker(redis.url)) as broker:
        broker.check_layout()
        hooks = begin(broker, [rule(receiver.url)])
        hooks.tell(3)
        wait(hooks, lambda: hooks.delivered == 3)
        redis.stop()
        redis.start()
        broker.check_layout()
        fence = lease(broker, hooks.owner.number)
        assert fence == hooks.owner.partition.fence
        hooks.tell(2, first=3)
        hooks.owner.step(2)
        wait(hooks, lambda: receiver.types == [0, 1, 2, 3, 4])
        wait(hooks, lambda: hooks.delivered == 2)
        hooks.sender.close()


def test_a_receiver_that_is_away_holds_up_no_other_and_its_queue_is_bounded(
    new_hooks: Callable[..., Hooks], receiver: Receiver
) -> None:
    away = DeliveryPolicy(timeout=5.0, delays=(3_600.0,), waiting=5)
    hooks = new_hooks([rule("http://127.0.0.1:9/", "away"), rule(receiver.url)])
    hooks.sender._policy = away
    for n in range(10):
        hooks.tell(1, key="away", first=n)
        hooks.tell(1, first=n)
        wait(hooks, lambda taken=n + 1: receiver.types == list(range(taken)))
    assert hooks.delivered == 0
    assert hooks.sender._consumer is not None
    assert len(hooks.sender._consumer.receivers["http://127.0.0.1:9/"].waiting) == 5


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2001:4860:4860::8888", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("169.254.169.254", False), ("192.168.0.1", False), ("100.64.0.1", False), ("0.0.0.0", False),
        ("224.0.0.1", False), ("::1", False), ("fe80::1%eth0", False), ("fd00::1", False), ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True), ("64:ff9b::a00:1", False), ("2002:a00:1::", False),
    ],
)  # fmt: skip
def test_only_addresses_of_the_public_internet_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1"])
def test_a_private_address_is_refused_by_whatever_name(host: str) -> None:
    url = urlsplit(f"https://{host}:9/")
    with pytest.raises(NotDelivered, match="private address"):
        post(url, WebhookPolicy(("*",), SECRET), {}, b"", 5.0)
