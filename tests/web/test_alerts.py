"""``/v1/alerts`` on an application over a real Redis; the aggregator is moved by hand."""

import pytest
from flask.testing import FlaskClient

from pushsvc.alerts.rule import ALERTS_TOPIC, MOST_ALERTS, read_rule
from pushsvc.alerts.webhook import AlertSettings
from pushsvc.broker.alerts import AlertStore
from pushsvc.broker.broker import Broker
from pushsvc.errors import TooManyAlerts
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.web.app import create_app
from support.owner import Owner

LOW = {"topic": "orders", "when": "mean(rating, 5m) < 3 and count(5m) >= 2", "for": "90s"}


@pytest.fixture
def client(broker: Broker) -> FlaskClient:
    broker.check_layout()
    return create_app(broker).test_client()


def test_an_alert_is_defined_replaced_and_removed(client: FlaskClient) -> None:
    made = client.put("/v1/alerts/low", json=LOW)
    assert made.status_code == 201
    assert made.json == {
        "name": "low", **LOW, "until": None, "by": None, "webhook": None, "fixed": False,
        "states": [{"row": None, "state": "ok", "since": None, "value": None}],
    }  # fmt: skip
    assert client.get("/v1/alerts/low").json == made.json
    assert client.get("/v1/alerts").json == {"alerts": [made.json]}
    assert client.get("/v1/alerts?topic=orders").json == {"alerts": [made.json]}
    assert client.get("/v1/alerts?topic=orders.eu").json == {"alerts": []}
    assert client.get("/v1/alerts?topic=orders.*").status_code == 400
    assert client.put("/v1/alerts/low", json={**LOW, "name": "low", "for": None}).status_code == 200
    assert client.get("/v1/alerts/low").json["for"] is None
    assert client.delete("/v1/alerts/low").status_code == 204
    assert client.delete("/v1/alerts/low").status_code == client.get("/v1/alerts/low").status_code == 404
    assert client.get("/v1/alerts").json == {"alerts": []}


def test_a_topic_with_parts_has_alerts_of_statistics_and_of_events(broker: Broker) -> None:
    broker.check_layout()
    client = create_app(broker, TopicRules((("orders", TopicSettings(parts=2)),))).test_client()
    assert client.put("/v1/alerts/low", json=LOW).status_code == 201
    assert client.put("/v1/alerts/bad", json={"topic": "orders", "when": "event.rating < 2"}).status_code == 201


@pytest.mark.parametrize(
    ("name", "change", "member", "fault", "text"),
    [
        ("low", {"when": "mean(rating, 7m) < 3"}, "when", "unknown-window", "orders has no window '7m'"),
        ("low", {"when": "mean(rating, 5m < 3"}, "when", "unexpected", "at character 17"),
        ("low", {"when": None}, "when", None, "is missing"),
        ("low", {"topic": "a b"}, "topic", None, ""),
        ("low", {"topic": ALERTS_TOPIC}, "topic", None, "cannot watch"),
        ("low", {"webhook": "https://hooks.example/"}, "webhook", None, "webhook_secret"),
        ("low", {"name": "other"}, "name", None, "differs"),
        ("low", {"wehn": "x"}, "wehn", None, "there is no such member"),
        ("l$w", {}, "name", None, ""),
        ("x" * 101, {}, "name", None, ""),
    ],
)
def test_a_faulty_alert_is_refused_by_name_and_not_stored(
    client: FlaskClient, name: str, change: dict[str, object], member: str, fault: str | None, text: str
) -> None:
    answer = client.put(f"/v1/alerts/{name}", json=LOW | change)
    assert (answer.status_code, answer.json["type"]) == (400, "urn:pushsvc:problem:invalid-alert")
    assert (answer.json["member"], answer.json["fault"]) == (member, fault)
    assert answer.json["detail"].startswith(f"{member}: ")
    assert text in answer.json["detail"]
    assert client.get("/v1/alerts").json == {"alerts": []}


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b" " * 10_001, "application/json", 413),
        (b"a,b", "text/csv", 415),
    ],
)
def test_a_body_that_is_no_alert_is_refused(client: FlaskClient, body: bytes, media_type: str, status: int) -> None:
    assert client.put("/v1/alerts/low", data=body, content_type=media_type).status_code == status


@pytest.mark.parametrize("path", ["/v1/alerts?x=1", "/v1/alerts/low?x=1"])
def test_an_unknown_parameter_is_refused(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 400


def test_states_are_those_that_the_owner_stored(client: FlaskClient, broker: Broker) -> None:
    client.put("/v1/alerts/each", json={"topic": "orders", "when": "count(5m) >= 2", "by": "key"})
    for key in ("a", "b", "a"):
        client.post("/v1/topics/orders/events", json={"key": key})
    owner = Owner(broker, ["orders"], TopicRules(), unwanted=True)
    owner.worker.alerts.refresh(owner.worker.partitions.values())
    owner.step(3)
    owner.worker.alert_sender.send()
    (state,) = client.get("/v1/alerts/each").json["states"]
    assert (state["row"], state["state"], state["value"]) == ("a", "raised", 2.0)
    (event,) = client.get("/v1/topics/alerts/events?key=each").json["events"]
    assert (event["type"], event["row"], event["value"], event["since"]) == ("raised", "a", 2.0, state["since"])
    assert (event["$topic"], event["topic"], event["alert"], event["when"]) == (
        "alerts", "orders", "each", "count(5m) >= 2",
    )  # fmt: skip


@pytest.mark.parametrize("body", [{"key": "x"}, [{"key": "x"}], []])
def test_nobody_else_publishes_alerts(client: FlaskClient, body: object) -> None:
    answer = client.post("/v1/topics/alerts/events", json=body)
    assert (answer.status_code, answer.json["type"]) == (403, "urn:pushsvc:problem:reserved-topic")
    assert client.get("/v1/topics/alerts").json["exists"] is False


def test_an_alert_of_the_settings_cannot_be_changed(broker: Broker) -> None:
    client = create_app(broker, alerts=AlertSettings((read_rule("low", LOW),))).test_client()
    assert client.get("/v1/alerts/low").json["fixed"] is True
    assert client.put("/v1/alerts/low", json=LOW).status_code == 409
    assert client.delete("/v1/alerts/low").status_code == 409


def test_the_number_of_alerts_is_bounded(broker: Broker) -> None:
    assert MOST_ALERTS == 1_000
    store = AlertStore(broker.keys, broker.connections, most=2)
    rule = read_rule("a", LOW)
    assert [store.define(read_rule(name, LOW)) for name in ("a", "b", "a")] == [False, False, True]
    with pytest.raises(TooManyAlerts):
        store.define(read_rule("c", LOW))
    assert set(store.definitions()) == {"a", "b"}
    assert store.definitions()["a"] == rule


def test_a_rule_about_events_begins_where_the_log_ends(client: FlaskClient, broker: Broker) -> None:
    """An aggregator that starts later looks at the events from then on."""
    for _ in range(2):
        client.post("/v1/topics/orders/events", json=[{"rating": 0}, {"rating": 1}])
    for name, topic in (("bad", "orders"), ("worse", "none-yet")):
        assert client.put(f"/v1/alerts/{name}", json={"topic": topic, "when": "event.rating <= 1"}).status_code == 201
    found = broker.alerts.definitions()
    assert {name: rule.after for name, rule in found.items()} == {"bad": 4, "worse": 0}
    assert "after" not in client.get("/v1/alerts/bad").json
    client.post("/v1/topics/orders/events", json={"rating": 5})
    for when, after in (
        ("event.rating <= 1", 4),
        ("event.rating <= 2", 5),
    ):  # the same rule goes on, another one begins
        assert client.put("/v1/alerts/bad", json={"topic": "orders", "when": when}).status_code == 200
        assert broker.alerts.definitions()["bad"].after == after
