"""Publishing over HTTP: accepted and refused bodies; a refusal changes nothing."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.event import Limits
from pushsvc.topic import partition_of
from pushsvc.web.app import create_app
from pushsvc.web.context import Context
from pushsvc.web.publish import publish
from pushsvc.web.security import Security
from support.metrics import metric

URL = "/v1/topics/feedback/events"


@pytest.fixture
def client(broker):
    return create_app(broker).test_client()


def post(client, body, media_type="application/json", query=""):
    return client.post(URL + query, data=body, content_type=media_type)


def stored(client):
    return client.get(URL + "?limit=10000").json["events"]


NDJSON = "application/x-ndjson"

ACCEPTED = [
    ('{"key":"pizza","rating":4}', "application/json", "", 1),
    ('[{"key":"pizza","rating":4},{"rating":5}]', "application/json", "", 2),
    ('{"rating":4}', "application/x-www-form-urlencoded", "", 1),
    ('{"rating":4}', None, "", 1),
    ('{"rating":4}\n\n{"rating":5}\r\n', NDJSON, "", 2),
    ("\ufeff" + '{"rating":4}', NDJSON, "", 1),
    ("dish,rating\npizza,4\nsoup,\n", "text/csv", "?key=dish", 2),
    (
        '{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"rating":4}}',
        "application/cloudevents+json",
        "",
        1,
    ),
    ("{}", "application/json", "", 1),
]


@pytest.mark.parametrize(("body", "media_type", "query", "count"), ACCEPTED)
def test_a_valid_body_is_accepted(client, body, media_type, query, count):
    answer = post(client, body.encode(), media_type, query)
    assert answer.status_code == 202, answer.data
    assert answer.json == {
        "topic": "feedback", "accepted": count, "duplicates": 0, "rejected": 0, "late": 0,
        "first_offset": 1, "last_offset": count,
    }  # fmt: skip
    assert [event["$offset"] for event in stored(client)] == list(range(1, count + 1))


REFUSED = [
    ("wrong JSON", '{"rating":', "application/json", "", 400, None),
    ("no object", "7", "application/json", "", 400, None),
    ("empty body", "", "application/json", "", 400, None),
    ("empty array", "[]", "application/json", "", 400, None),
    ("NaN", '{"rating":NaN}', "application/json", "", 400, None),
    ("infinite", '{"rating":1e999}', "application/json", "", 400, "rating"),
    ("a 300-character key", json.dumps({"key": "k" * 300}), "application/json", "", 400, "key"),
    ("a time in 2090", '{"time":"2090-01-01T00:00:00Z"}', "application/json", "", 400, "time"),
    ("seconds", '{"time":1700000000}', "application/json", "", 400, "time"),
    ("no offset", '{"time":"2024-01-01T00:00:00"}', "application/json", "", 400, "time"),
    ("our names", '{"$x":1}', "application/json", "", 400, "$x"),
    ("our key", '{"key":"__other__"}', "application/json", "", 400, "key"),
    ("too many fields", json.dumps({f"f{n}": n for n in range(40)}), "application/json", "", 400, None),
    ("unknown type", "<a/>", "application/xml", "", 415, None),
    ("text", '{"a":1}', "text/plain", "", 415, None),
    ("unknown parameter", '{"a":1}', "application/json", "?foo=1", 400, None),
    ("column of no CSV", '{"a":1}', "application/json", "?key=a", 400, None),
    ("bad on_error", '{"a":1}', "application/json", "?on_error=maybe", 400, None),
]


@pytest.mark.parametrize(("name", "body", "media_type", "query", "status", "field"), REFUSED)
def test_a_refused_body_changes_nothing(client, name, body, media_type, query, status, field):
    answer = post(client, body, media_type, query)
    assert answer.status_code == status, answer.data
    assert answer.content_type == "application/problem+json"
    assert answer.json["status"] == status
    assert answer.json["detail"]
    if field is not None:
        assert answer.json["errors"][0]["field"] == field
        assert answer.json["errors"][0]["line"] == 1
    assert stored(client) == []
    assert client.get("/v1/topics").json == {"topics": []}


DIRECT = [(body, media_type, 202) for body, media_type, query, _ in ACCEPTED if not query]
DIRECT += [(body, media_type, status) for _, body, media_type, query, status, _ in REFUSED if not query]


@pytest.mark.parametrize(("body", "media_type", "status"), DIRECT)
def test_publishing_without_flask_gives_the_same_answer(broker, monkeypatch, body, media_type, status):
    """There is no application context, so any use of Flask's request would raise."""
    monkeypatch.setattr(Context, "now", staticmethod(lambda: 1_800_000_000_000))  # some answers contain the time
    app = create_app(broker)
    context = app.extensions["pushsvc"]
    answer = publish(context, "direct", media_type or "", body.encode())
    by_flask = post(app.test_client(), body.encode(), media_type)
    assert answer.status == by_flask.status_code == status
    same = re.sub(rb',"request_id":"[0-9a-f]+"}$', b"}", by_flask.data)
    assert answer.body == same.replace(b'"topic":"feedback"', b'"topic":"direct"')
    assert set(answer.headers) <= set(by_flask.headers)
    assert {name for name, _ in answer.headers} == {"Content-Type", "Cache-Control"}


def test_publishing_without_flask_never_raises(broker, prefix, tmp_path, monkeypatch, caplog):
    context = create_app(broker, limits=Limits(body=100)).extensions["pushsvc"]
    for topic, body, status, slug in (
        ("a b", b"{}", 400, "invalid-topic"),
        ("t", b" " * 101, 413, "too-large"),
        ("t", b"{}", 500, "internal"),
    ):
        if status == 500:
            monkeypatch.setattr(broker, "publish", lambda *_, **__: 1 / 0)
        answer = publish(context, topic, "application/json", body)
        assert (answer.status, json.loads(answer.body)["type"]) == (status, f"urn:pushsvc:problem:{slug}")
    assert "ZeroDivisionError" in caplog.text
    dead = create_app(Broker(f"unix://{tmp_path}/nothing.sock", prefix)).extensions["pushsvc"]
    answer = publish(dead, "t", "application/json", b"{}")
    assert (answer.status, json.loads(answer.body)["detail"]) == (503, "Redis is not reachable")
    assert dict(answer.headers)["Retry-After"] == "2"
    assert "POST /v1/topics/t/events: " in caplog.text


@pytest.mark.parametrize("known", [False, True])
def test_the_metrics_count_each_outcome(client, known):
    if known:
        assert post(client, '{"id":"x","n":1,"time":1767225600000}\n' * 64, NDJSON).status_code == 202
    names = ("accepted", "duplicate", "rejected", "late")
    before = [metric(f"pushsvc_events_{name}_total") for name in names]
    body = '{"id":"a","n":1}\n{"id":"a","n":2}\n{"id":"b","n":3,"time":1767225600000}\n'
    assert post(client, body, NDJSON).json["duplicates"] == 1
    assert post(client, body, NDJSON).json["duplicates"] == 3
    assert post(client, '{"n":1}\n{"n":NaN}\n', NDJSON, "?on_error=skip").status_code == 202
    assert post(client, '{"n":1}\n{"n":NaN}\n', NDJSON).status_code == 400
    after = [metric(f"pushsvc_events_{name}_total") for name in names]
    assert [now - then for now, then in zip(after, before, strict=True)] == [3, 4, 2, 1]


def test_one_bad_event_refuses_the_batch_and_names_its_line(client):
    body = '{"rating":1}\n{"rating":2}\n{"key":[]}\n{"time":5}\n'
    answer = post(client, body, NDJSON)
    assert answer.status_code == 400
    assert [(error["line"], error["field"]) for error in answer.json["errors"]] == [(3, "key"), (4, "time")]
    assert stored(client) == []


def test_on_error_skip_stores_the_good_events_and_reports_the_bad(client):
    body = '{"rating":1}\n{"key":[]}\n{"rating":2}\n'
    answer = post(client, body, NDJSON, "?on_error=skip")
    assert answer.status_code == 202
    assert (answer.json["accepted"], answer.json["rejected"]) == (2, 1)
    assert answer.json["errors"][0]["line"] == 2
    assert [event["rating"] for event in stored(client)] == [1, 2]


def test_at_most_a_hundred_faults_are_listed(client):
    answer = post(client, '{"time":5}\n' * 150, NDJSON)
    assert (len(answer.json["errors"]), answer.json["more"]) == (100, 50)


def test_a_large_body_is_refused(broker):
    client = create_app(broker, limits=Limits(body=1_000)).test_client()
    answer = post(client, b"[" + b" " * 2_000 + b"]")
    assert (answer.status_code, answer.content_type) == (413, "application/problem+json")


@pytest.mark.parametrize(("lines", "status"), [(100, 202), (101, 413), (500, 413)])
def test_a_large_body_of_unknown_length_is_refused_and_not_cut(broker, lines, status):
    client = create_app(broker, limits=Limits(body=1_000)).test_client()
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    body = b'{"n":123}\n' * lines
    answer = client.post(URL, data=body, content_type=NDJSON, environ_overrides=chunked)
    assert answer.status_code == status, answer.data
    assert len(stored(client)) == (lines if status == 202 else 0)


@pytest.mark.parametrize("topic", ["a b", "a..b", ".a", "a" * 201, "$x", "%C3%A9"])
def test_a_topic_must_be_well_formed(client, topic):
    for path in (f"/v1/topics/{topic}/events", f"/v1/topics/{topic}/stats", f"/v1/topics/{topic}"):
        assert client.get(path).status_code == 400, path
    assert client.post(f"/v1/topics/{topic}/events", json={"a": 1}).status_code == 400


def test_a_batch_older_than_every_window_is_stored_with_a_hint(client):
    old = int(time.time() * 1000) - 3_600_000
    answer = client.post(URL, json=[{"time": old}, {"time": old}])
    assert answer.json["late"] == 2
    assert "clock" in answer.json["hint"]
    assert len(stored(client)) == 2


def test_an_event_comes_back_as_flat_as_it_went_in(client):
    sent = {"id": "x", "type": "order", "time": "2026-01-01T01:00:00+01:00", "key": 7, "a": 1.5, "b": {"c": [True]}}
    client.post(URL, json=sent)
    assert stored(client) == [
        {"$topic": "feedback", "$offset": 1, "id": "x", "type": "order", "time": "2026-01-01T00:00:00.000Z",
         "key": "7", "a": 1.5, "b": {"c": [True]}}
    ]  # fmt: skip


def test_a_dead_redis_is_503_with_retry_after(prefix, tmp_path):
    broker = Broker(f"unix://{tmp_path}/nothing.sock", prefix)
    client = create_app(broker).test_client()
    for answer in (post(client, '{"a":1}'), client.get(URL), client.get("/v1/topics/feedback/stats")):
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.content_type == "application/problem+json"
    assert client.get("/readyz").status_code == 503
    assert client.get("/livez").status_code == 200


def test_a_partition_refuses_topics_beyond_its_limit(redis_url, prefix):
    broker = Broker(redis_url, prefix, topics=2)
    client = create_app(broker).test_client()
    names = [name for name in map("t{}".format, range(1_000)) if partition_of(name) == partition_of("t0")][:3]
    other = next(name for name in map("t{}".format, range(1_000)) if partition_of(name) != partition_of("t0"))

    def send(name):
        return client.post(f"/v1/topics/{name}/events", json={"id": "a", "n": 1}, headers={"Idempotency-Key": "k"})

    before = metric("pushsvc_topics_refused_total")
    assert [send(name).status_code for name in names] == [202, 202, 507]
    refused = send(names[2])
    assert refused.content_type == "application/problem+json"
    assert refused.json["type"] == "urn:pushsvc:problem:too-many-topics"
    assert names[2] in refused.json["detail"]
    assert metric("pushsvc_topics_refused_total") - before == 2
    assert sorted(broker.topics()) == sorted(names[:2])
    assert broker.metadata([Log(names[2])]) == [{}]
    assert client.post(f"/v1/topics/{names[0]}/events", json={"n": 2}).json["last_offset"] == 2
    assert send(other).status_code == 202
    assert client.delete(f"/v1/topics/{names[0]}").status_code == 204
    assert send(names[2]).json["accepted"] == 1, "the refused request left its id or its key behind"
    broker.close()


def test_the_topic_limit_comes_from_the_settings_file(stack):
    stack.configure("[limits]\npartition_topics = 1\n")
    stack.start_web()
    first, second = [name for name in map("t{}".format, range(1_000)) if partition_of(name) == partition_of("t0")][:2]
    assert [stack.post(name, {"n": 1}).status for name in (first, second, first)] == [202, 507, 202]
    assert b"pushsvc_topics_refused_total 1.0" in stack.get("/metrics").body


def test_the_ack_option_makes_the_server_wait_for_replicas(stack):
    stack.start_web("--ack", "replicas:1")
    answer = stack.post("t", {"n": 1})
    assert answer.status == 503
    assert "the events are in Redis, but on 0 of 1 replicas" in answer.json()["detail"]
    assert "has 0 replicas: with --ack replicas:1" in stack.output("web")


def test_events_with_ids_repeated_after_lost_answers_are_stored_once(broker, proxy, prefix):
    """Redis executes the commands, then the connection breaks: each producer repeats and gets the stored offset."""
    through = Broker(proxy.url, prefix)
    context = create_app(through).extensions["pushsvc"]

    def send(number):
        return publish(context, "feedback", "application/json", b'{"id":"i%d"}' % number)

    assert send(0).status == 202
    proxy.downward = lambda _: None
    with ThreadPoolExecutor(20) as pool:
        lost = list(pool.map(send, range(1, 20)))
        proxy.downward = lambda data: data
        again = [json.loads(answer.body) for answer in pool.map(send, range(1, 20))]
    assert {(answer.status, json.loads(answer.body)["type"]) for answer in lost} <= {
        (503, "urn:pushsvc:problem:outcome-unknown"), (503, "urn:pushsvc:problem:broker-unavailable"),
    }  # fmt: skip
    assert all(int(dict(answer.headers)["Retry-After"]) > 0 for answer in lost)
    assert (
        sum(answer["duplicates"] for answer in again) == sum(b"outcome-unknown" in answer.body for answer in lost) > 0
    )
    ids = [event["id"] for event in stored(create_app(broker).test_client())]
    assert sorted(ids) == sorted(f"i{number}" for number in range(20))
    assert [ids[answer["first_offset"] - 1] for answer in again] == [f"i{number}" for number in range(1, 20)]
    through.close()


HOSTS = [
    ("127.0.0.1:8000", Security(), 200),
    ("localhost", Security(), 200),
    ("[::1]:8000", Security(), 200),
    ("evil.example", Security(), 403),
    ("evil.example", Security(allow_hosts=("push.example",)), 403),
    ("push.example:8000", Security(allow_hosts=("push.example",)), 200),
    ("anything", Security(insecure=True), 403),  # a name that another site may point at this server
    ("192.0.2.7:8000", Security(insecure=True), 200),
    ("[2001:db8::7]:8000", Security(insecure=True), 200),
    ("push.local:8000", Security(insecure=True, bind_host="Push.local"), 200),
    ("192.0.2.7", Security(), 403),
    ("192.0.2.7", Security(insecure=True, allow_hosts=("push.example",)), 403),
    ("192.0.2.7.evil.example", Security(insecure=True), 403),
    ("3221225991", Security(insecure=True), 403),
    ("anything", Security(insecure=True, allow_hosts=("push.example",)), 403),
]


@pytest.mark.parametrize(("host", "security", "status"), HOSTS)
def test_only_allowed_hosts_are_served(broker, host, security, status):
    client = create_app(broker, security=security).test_client()
    answer = client.get("/v1/topics", headers={"Host": host})
    assert answer.status_code == status
    assert status == 200 or "--allow-host" in answer.json["detail"]


SITES = [(None, 202), ("none", 202), ("same-origin", 202), ("cross-site", 403), ("same-site", 403)]


@pytest.mark.parametrize(("site", "status"), SITES)
def test_a_page_of_another_site_may_not_write_without_an_origin(broker, site, status):
    client = create_app(broker).test_client()
    headers = {} if site is None else {"Sec-Fetch-Site": site}
    assert client.post(URL, json={"a": 1}, headers=headers).status_code == status
    assert client.delete(URL.removesuffix("/events"), headers=headers).status_code == (403 if status == 403 else 204)


ORIGINS = [
    (None, 202),
    ("http://localhost", 202),
    ("https://evil.example", 403),
    ("null", 403),
    ("http://[", 403),
    ("https://good.example", 202),
]


@pytest.mark.parametrize(("origin", "status"), ORIGINS)
def test_only_allowed_origins_may_write(broker, origin, status):
    client = create_app(broker, security=Security(allow_origins=("https://good.example",))).test_client()
    headers = {} if origin is None else {"Origin": origin}
    answer = client.post(URL, json={"a": 1}, headers=headers)
    assert answer.status_code == status
    allowed = answer.headers.get("Access-Control-Allow-Origin")
    assert allowed == ("https://good.example" if origin == "https://good.example" else None)


PLAIN = [
    # The page's Origin, what the browser says about it, the server's scheme, the answer.
    ("http://localhost", None, "http", 202),
    ("http://localhost", "same-origin", "http", 202),
    ("https://localhost", "same-origin", "http", 202),  # a proxy ends TLS
    ("https://localhost", None, "https", 202),
    ("https://good.example", "cross-site", "http", 202),
    ("http://localhost", "same-site", "http", 403),  # the proxy ends TLS, and the page came without
    ("http://localhost", "cross-site", "http", 403),
    ("http://localhost", None, "https", 403),
    ("http://localhost:8001", None, "http", 403),
    ("http://localhost:8001", "same-site", "http", 403),
    ("http://localhost:8001", "same-origin", "http", 403),  # Sec-Fetch-Site alone allows nothing
    ("http://127.0.0.1", None, "http", 403),
    ("http://localhost.evil.example", None, "http", 403),
    ("http://localhost, https://good.example", None, "http", 403),
    ("null", None, "http", 403),
    ("", None, "http", 403),
    (None, None, "http", 415),
    (None, "same-origin", "http", 415),
]


@pytest.mark.parametrize(("origin", "fetch_site", "scheme", "status"), PLAIN)
@pytest.mark.parametrize("media_type", ["text/plain;charset=UTF-8", "Text/Plain ; charset=utf-8", "text/plain"])
def test_text_is_json_from_pages_that_may_write(broker, origin, fetch_site, scheme, status, media_type):
    client = create_app(broker, security=Security(allow_origins=("https://good.example",))).test_client()
    named = {"Origin": origin, "Sec-Fetch-Site": fetch_site}
    headers = {name: value for name, value in named.items() if value is not None}
    answer = client.post(
        URL, data=b'{"a":1}', content_type=media_type, headers=headers, base_url=f"{scheme}://localhost"
    )
    assert answer.status_code == status, answer.data
    assert len(stored(client)) == (status == 202)


def test_text_from_a_page_keeps_the_rules_of_json(broker):
    client = create_app(broker).test_client()
    for body, media_type, query, status in [
        (b"hello", "text/plain;charset=UTF-8", "", 400),
        (b'{"a":1}', "text/plain;charset=iso-8859-1", "", 415),
        (b'{"a":1}', "text/plainer", "", 415),
        (b"a\n1\n", "text/plain", "?key=a", 400),
    ]:
        answer = client.post(URL + query, data=body, content_type=media_type, headers={"Origin": "http://localhost"})
        assert answer.status_code == status, (body, media_type, answer.data)
    assert stored(client) == []


def test_a_preflight_of_an_allowed_origin_is_answered(broker):
    client = create_app(broker, security=Security(allow_origins=("https://good.example",))).test_client()
    answer = client.options(URL, headers={"Origin": "https://good.example"})
    assert answer.status_code == 204
    assert "Last-Event-ID" in answer.headers["Access-Control-Allow-Headers"]


def test_a_preflight_allows_the_headers_of_a_cloudevent(broker):
    client = create_app(broker, security=Security(allow_origins=("https://good.example",))).test_client()
    asked = {"Access-Control-Request-Headers": "ce-id,ce-myext, Ce-Type,authorization,ce-a:b,x-ce-id,ce-"}
    answer = client.options(URL, headers=asked | {"Origin": "https://good.example"})
    allowed = answer.headers["Access-Control-Allow-Headers"].split(", ")
    assert allowed[-3:] == ["ce-id", "ce-myext", "Ce-Type"]
    assert "x-ce-id" not in allowed
    assert "Access-Control-Allow-Headers" not in client.options(URL, headers=asked).headers
