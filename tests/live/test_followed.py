"""The limit of logs that the streams of a process follow together."""

import re
from contextlib import ExitStack

import redis

from support.waiting import until

FULL = b": The streams of this process follow too many topics and windows\n"


def followed(stack):
    """Return the logs that have a subscription in Redis."""
    names = redis.Redis.from_url(stack.redis_url).pubsub_channels(f"{stack.prefix}*:live:*")
    return {name.decode().split(":live:")[1] for name in names}


def opened(streams, stack, path):
    stream = streams.enter_context(stack.stream(path))
    until(lambda: (stream.read(), b"retry: 2000\n" in stream.raw)[1])
    return stream


def refused(stack, path):
    with stack.stream(path) as stream:
        assert stream.status == 200  # an EventSource never reconnects after any other status
        said = stream.rest()
    assert 2_000 <= int(re.findall(rb"retry: (\d+)", said)[-1]) < 4_000
    return FULL in said


def test_stream_beyond_the_limit_of_logs_gets_a_retry_until_there_is_room(stack):
    stack.configure("[limits]\nfollowed = 3\n")
    stack.start_web()
    with ExitStack() as streams:
        first = streams.enter_context(ExitStack())
        opened(first, stack, "/v1/stream?events=a&events=b")
        opened(first, stack, "/v1/topics/a/stats")
        assert followed(stack) == {"a", "b", "a.$stats.1m"}
        assert refused(stack, "/v1/topics/c/events")
        assert refused(stack, "/v1/stream?events=a&events=c&stats=a&window=1m")
        opened(streams, stack, "/v1/stream?events=a&stats=a&window=1m")
        assert followed(stack) == {"a", "b", "a.$stats.1m"}, "another stream may share a followed log"
        until(lambda: b"pushsvc_logs_followed 3.0\n" in stack.get("/metrics").body)
        first.close()
        until(lambda: not refused_or_opened(streams, stack))
        assert followed(stack) == {"a", "c", "a.$stats.1m"}


def refused_or_opened(streams, stack):
    """Open a stream of one more log; return whether it was refused."""
    stream = streams.enter_context(stack.stream("/v1/topics/c/events"))
    until(lambda: (stream.read(), b"\nretry: " in stream.raw or b"retry: 2000\n" in stream.raw)[1])
    return FULL in stream.raw


def test_stream_of_a_pattern_that_outgrows_the_limit_ends_with_the_reason(stack):
    stack.configure("[limits]\nfollowed = 2\n")
    stack.start_web()
    with stack.stream("/v1/stream?events=n.*") as stream:
        for number in range(3):
            assert stack.post(f"n.{number}", {"n": 1}).status == 202
        assert FULL in stream.rest()
    assert refused(stack, "/v1/stream?events=n.*")
    until(lambda: followed(stack) == set())


def test_refused_pattern_leaves_no_subscription(stack):
    stack.configure("[limits]\ntopics = 2\n")
    stack.start_web()
    for number in range(3):
        assert stack.post(f"n.{number}", {"n": 1}).status == 202
    for _ in range(2):
        assert stack.get("/v1/stream?events=n.*", Accept="text/event-stream").status == 400
    until(lambda: followed(stack) == set())
