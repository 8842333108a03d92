"""The tab that has the stream for others dies between two messages, is reloaded, or is followed by a tab that slept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from support.stack import Stack
from support.tabs import FOLLOW, begun, check, open_tab, publish, state, wait_begun, wait_seen
from support.waiting import until

# As if the tab were killed then: of what it posts, the others get no more than `left` messages.
_STOPS = """() => {
  const post = BroadcastChannel.prototype.postMessage;
  window.left = Infinity;
  BroadcastChannel.prototype.postMessage = function (data) { if (left-- > 0) post.call(this, data); };
}"""

# While it is asleep, messages wait, as in a tab that the browser has frozen. `leads` once its stream brought something.
_SLEEPS = """() => {
  const post = BroadcastChannel.prototype.postMessage;
  window.leads = false;
  BroadcastChannel.prototype.postMessage = function (data) {
    leads ||= data.message && !data.to;
    post.call(this, data);
  };
  const waiting = [];
  window.asleep = false;
  window.wake = () => { window.asleep = false; while (waiting.length) waiting.shift()(); };
  Object.defineProperty(BroadcastChannel.prototype, "onmessage", {
    set(take) { this.addEventListener("message", (event) => asleep ? waiting.push(() => take(event)) : take(event)); },
  });
}"""

_HAS_TOKEN = """() => {
  window.user = "first";
  window.token = () => `.${btoa(JSON.stringify({ sub: user }))}.`;
}"""


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    yield context
    context.close()


def tabs(context: BrowserContext, server: Stack, topics: list[str], first: str = "0") -> list[Page]:
    """Open a tab for each topic, one after the other. The first one leads, and the second one after it."""
    pages = []
    for topic in topics:
        pages.append(open_tab(context, server.url, topic, "lock", first))
        wait_begun(pages[-1:])
    return pages


@pytest.mark.parametrize("passed", range(7))
def test_a_leader_that_dies_between_two_messages_leaves_no_gap(
    context: BrowserContext, own_server: Stack, topic: str, passed: int
) -> None:
    publish(own_server, topic, [0])
    leader, *others = tabs(context, own_server, [topic] * 4, _STOPS)
    leader.evaluate("passed => { left = passed; }", passed)
    for n in range(1, 4):
        publish(own_server, topic, [n])
    until(lambda: state(leader)["seen"] == [1, 2, 3])
    leader.close()
    publish(own_server, topic, [4])
    wait_seen(others, [1, 2, 3, 4])
    check(others, own_server, topic)


def test_a_leader_that_dies_before_any_message_leaves_no_gap(
    context: BrowserContext, own_server: Stack, topic: str
) -> None:
    """What is published after the subscription is on the stream comes, though no message of it ever came."""
    publish(own_server, topic, [0])
    leader, follower = tabs(context, own_server, [topic] * 2, _STOPS)
    leader.evaluate("left = 0")
    leader.close()
    publish(own_server, topic, [1])
    wait_seen([follower], [1])
    check([follower], own_server, topic)


def test_a_leader_that_is_reloaded_gets_a_state_of_its_own_topic(
    context: BrowserContext, own_server: Stack, topic: str
) -> None:
    """The next leader has no state of it, though the cursor has its position."""
    own = f"{topic}.own"
    for name in (topic, own):
        publish(own_server, name, [0])
    leader, follower = tabs(context, own_server, [own, topic])
    for name in (topic, own):
        publish(own_server, name, [1])
    wait_seen([leader, follower], [1])
    leader.reload()
    leader.evaluate(FOLLOW, [own, "lock"])
    check([leader], own_server, own)
    check([follower], own_server, topic)
    for name in (topic, own):
        publish(own_server, name, [2])
    wait_seen([leader], [2])
    wait_seen([follower], [1, 2])
    check([leader], own_server, own)


def test_a_tab_that_slept_while_a_leader_took_over_has_no_gap(
    context: BrowserContext, own_server: Stack, topic: str
) -> None:
    publish(own_server, topic, [0])
    leader, next_leader, sleeper = tabs(context, own_server, [topic] * 3, _SLEEPS)
    sleeper.evaluate("asleep = true")
    leader.close()
    until(lambda: next_leader.evaluate("leads"))
    publish(own_server, topic, [1])
    wait_seen([next_leader], [1])  # no other tab has joined it
    publish(own_server, topic, [2])
    wait_seen([next_leader], [1, 2])
    sleeper.evaluate("wake()")
    publish(own_server, topic, [3])
    wait_seen([next_leader, sleeper], [1, 2, 3])
    check([next_leader, sleeper], own_server, topic)


@pytest.mark.parametrize("known", [False, True], ids=["new", "begun anew"])
def test_a_tab_that_slept_while_nobody_had_its_topic_is_told_so(
    context: BrowserContext, own_server: Stack, topic: str, known: bool
) -> None:
    """The next leader began without it; or with it anew, as another tab asked for it."""
    own = f"{topic}.own"
    for name in (topic, own):
        publish(own_server, name, [0])
    leader, next_leader, sleeper = tabs(context, own_server, [topic, topic, own], _SLEEPS)
    sleeper.evaluate("asleep = true")
    leader.close()
    until(lambda: next_leader.evaluate("leads"))
    publish(own_server, topic, [1])
    wait_seen([next_leader], [1])
    publish(own_server, own, [1])
    others = tabs(context, own_server, [own]) if known else []
    sleeper.evaluate("wake()")
    until(lambda: state(sleeper)["told"] == ["reset"])
    wait_begun([sleeper])
    check([sleeper, *others], own_server, own)
    publish(own_server, own, [2])
    until(lambda: state(sleeper)["seen"] == [2])
    assert state(sleeper)["told"] == ["reset"]
    wait_seen(others, [2])
    check([sleeper, *others], own_server, own)


def test_a_tab_of_another_user_leaves_the_channel(context: BrowserContext, own_server: Stack, topic: str) -> None:
    """It has a stream of its own, and takes nothing from that of the tabs that it has left."""
    publish(own_server, topic, [0])
    leader, follower, leaves = pages = tabs(context, own_server, [topic] * 3, _HAS_TOKEN)
    leaves.evaluate("user = 'second'")
    context.route("**/v1/stream?*", lambda route: route.fulfill(status=401, body="{}"), times=1)
    own_server.restart_web()
    until(lambda: all(map(begun, pages)) and own_server.metric("pushsvc_streams") == 2)
    for n in range(1, 4):
        publish(own_server, topic, [n])
    wait_seen([leader, follower], [1, 2, 3])
    until(lambda: state(leaves)["seen"] == [1, 2, 3])
    assert state(leaves)["told"] == ["reset"]
    check(pages, own_server, topic)
