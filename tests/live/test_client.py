"""The Python client against a running server."""

import itertools
import json
import threading

import pytest

from pushsvc.client import Client, ClientError
from stack import free_port


@pytest.fixture
def client(shared_server):
    client = Client(shared_server.url)
    yield client
    client.close()


def test_what_is_published_is_followed(client, topic):
    receipt = client.publish(topic, [{"key": "pizza", "rating": 4}, {"rating": 5}])
    assert (receipt["accepted"], receipt["last_offset"]) == (2, 2)
    client.publish(topic, b"rating\n1\n", "text/csv")
    messages = itertools.islice(Client(client.url).events(topic, "earliest"), 3)
    assert [json.loads(message.data)["rating"] for message in messages] == [4, 5, 1]
    event = next(iter(client.stats(topic, window="5m")))
    assert event.event == "snapshot"


def test_a_refusal_says_what_the_server_says(client, topic):
    with pytest.raises(ClientError, match="seconds") as refused:
        client.publish(topic, [{"time": 1}])
    assert refused.value.status == 400
    assert not refused.value.temporary
    assert refused.value.problem["errors"][0]["field"] == "time"
    with pytest.raises(ClientError, match="400"):
        next(client.stats(topic, window="7m"))


def test_no_server_is_a_temporary_failure(topic):
    with pytest.raises(ClientError, match="no connection") as failed:
        Client(f"http://127.0.0.1:{free_port()}", attempts=1).publish(topic, [{}])
    assert failed.value.temporary
    assert not failed.value.sent


def test_a_stream_goes_on_over_a_restart_of_the_server(own_server, topic):
    seen = []
    client = Client(own_server.url)
    for number in range(5):
        client.publish(topic, [{"id": f"a{number}", "n": number}])
    stream = client.events(topic, "earliest")
    seen += [json.loads(next(stream).data)["n"] for _ in range(3)]
    restart = threading.Thread(target=own_server.restart_web)
    restart.start()
    restart.join()
    Client(own_server.url).publish(topic, [{"id": "a5", "n": 5}])
    seen += [json.loads(next(stream).data)["n"] for _ in range(3)]
    assert seen == list(range(6))
