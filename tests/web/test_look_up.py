"""Looking events up by the fields of a topic's index, and selecting the events of a stream by them."""

import json
import time

import jwt
import pytest

from pushsvc.auth.access import Access
from pushsvc.auth.tokens import Issuer, Verifier, read_key
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.web.app import create_app

URL = "/v1/topics/feedback/events"
SECRET = "a secret of more than thirty-two bytes"
RULES = TopicRules([("feedback", TopicSettings(index=("user", "key", "type")))])
USERS = ["u1", "u2", 7, "7", 7.0, True, None, ["u1"], "u1"]


@pytest.fixture
def client(broker):
    client = create_app(broker, rules=RULES).test_client()
    for start in range(0, 27, 4):
        events = [
            {"user": USERS[n % 9], "n": n, "key": f"k{n % 2}", "type": "order" if n % 3 else "rating"}
            for n in range(start, min(27, start + 4))
        ]
        assert client.post(URL, json=events).status_code == 202
    return client


def offsets(answer):
    assert answer.status_code == 200, answer.data
    return [event["$offset"] for event in answer.json["events"]]


def expected(selected):
    return [n + 1 for n in range(27) if selected(n)]


@pytest.mark.parametrize(
    ("query", "selected"),
    [
        ("user=u1", lambda n: USERS[n % 9] == "u1"),
        ("user=7", lambda n: n % 9 in (2, 3)),
        ("user=7.0", lambda n: n % 9 == 4),
        ("user=true", lambda n: n % 9 == 5),
        ("user=null", lambda n: False),
        ("user=nobody", lambda n: False),
        ("user=u1&key=k1", lambda n: USERS[n % 9] == "u1" and n % 2),
        ("key=k1", lambda n: n % 2),
        ("type=rating&where=n>9", lambda n: n % 3 == 0 and n > 9),
        ("user=u1&type=order&where=n<20&where=n!=8", lambda n: n % 9 in (0, 8) and n % 3 and n < 20 and n != 8),
    ],
)
def test_an_indexed_field_is_a_parameter_of_history(client, query, selected):
    wanted = expected(selected)
    assert offsets(client.get(f"{URL}?{query}")) == wanted
    assert offsets(client.get(f"{URL}?{query}&order=desc")) == wanted[::-1]
    assert offsets(client.get(f"{URL}?{query}&last=2")) == wanted[-2:]
    lines = client.get(f"{URL}.ndjson?{query}&limit=all").text.splitlines()
    assert [json.loads(line)["$offset"] for line in lines] == wanted
    assert len(client.get(f"{URL}.csv?{query}&limit=all").text.splitlines()) == 1 + len(wanted)


def test_pages_of_a_look_up_link_to_each_other(client):
    seen, query = [], "?user=u1&limit=2"
    while query:
        answer = client.get(URL + query)
        seen += offsets(answer)
        query = answer.json["next"] and f"?user=u1&limit=2&after={answer.json['next']}"
    assert seen == expected(lambda n: USERS[n % 9] == "u1")
    assert "user=u1" in client.get(f"{URL}?user=u1&limit=2").headers["Link"]


@pytest.mark.parametrize("query", ["customer=u1", f"user={'u' * 2_001}", "user=u1&user=u2"])
def test_other_fields_and_unbounded_values_are_refused(client, query):
    refused = client.get(f"{URL}?{query}")
    assert (refused.status_code, query.partition("=")[0] in refused.json["detail"]) == (400, True)


def test_long_values_are_found_by_reading_the_log(client):
    client.post(URL, json=[{"user": "u" * 201}, {"user": "a\0b"}])
    assert offsets(client.get(f"{URL}?user={'u' * 201}")) == [28]
    assert offsets(client.get(f"{URL}?user=a%00b")) == [29]


def test_another_topic_has_no_such_parameter(client):
    assert client.get("/v1/topics/other/events?user=u1").status_code == 400


def test_a_token_for_some_keys_finds_their_events_only(broker, client):
    app = create_app(broker, rules=RULES, access=Access(Verifier([Issuer([read_key(SECRET, "HS256")])])))
    grants = {"subscribe": [{"topics": "feedback", "keys": ["k1"]}]}
    token = jwt.encode({"exp": time.time() + 60, "sub": "me", "pushsvc": grants}, SECRET, "HS256")
    headers = {"Authorization": f"Bearer {token}"}
    for query, selected in (
        ("user=u1", lambda n: USERS[n % 9] == "u1" and n % 2),
        ("key=k1", lambda n: n % 2),
        ("key=k0", lambda n: False),
        ("", lambda n: n % 2),
    ):
        assert offsets(app.test_client().get(f"{URL}?{query}", headers=headers)) == expected(selected)
