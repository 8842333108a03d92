"""Start the support desk, let three users act and ask, answer one of them, and show who saw what.

python examples/support/run.py          ends when it has shown it
python examples/support/run.py --stay   goes on until Ctrl-C: open http://127.0.0.1:5060/ and …/agent
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

HERE = Path(__file__).parent
PORT = int(os.environ.get("PORT", "5060"))


class Visitor:
    """Somebody with a browser, of which only the cookie matters here."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cookie = ""
        status, headers, _ = self.call("POST", "/login", name=name)
        assert status == 302, status
        self.cookie = headers["Set-Cookie"].partition(";")[0]

    def call(self, method: str, path: str, **form: str) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", PORT, timeout=60)
        headers = {"Cookie": self.cookie, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request(method, path, urlencode(form) or None, headers)
        answer = connection.getresponse()
        try:
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        status, _, body = self.call("GET", path)
        return json.loads(body) if status == 200 else None

    def stream_url(self) -> str:
        """Return the URL in this user's page: it has a token for this user's topic."""
        found = re.search(rb'new EventSource\("([^"]+)"\)', self.call("GET", "/")[2])
        assert found is not None
        return found[1].decode().encode().decode("unicode_escape")


def told(visitor: Visitor, url: str, count: int) -> list[str]:
    """Return what a user was told, once there is so much."""
    return [event["text"] for event in wait(lambda: _enough(visitor.json(f"{url}&format=json"), count))]


def _enough(page: Any, count: int) -> Any:
    return page["events"] if page and len(page["events"]) >= count else None


def wait(look: Any) -> Any:
    end = time.monotonic() + 120
    while not (found := look()):
        if time.monotonic() > end:
            raise SystemExit("the desk did not get so far within two minutes")
        time.sleep(0.1)
    return found


def main() -> None:
    ann, bob, eve = (Visitor(name) for name in ("ann", "bob", "eve"))
    agent = Visitor("agent-kim")
    for visitor, pages in ((ann, ["shoes", "cart"]), (bob, ["shoes", "returns", "shoes"]), (eve, ["home"])):
        for page in pages:
            visitor.call("POST", "/actions", page=page)
    ann.call("POST", "/requests", text="When are you open?")
    bob.call("POST", "/requests", text="My left shoe is a right shoe")

    print("ann:", *told(ann, ann.stream_url(), 1))
    waiting = wait(lambda: _enough(agent.json("/push/v1/topics/waiting/latest?format=json"), 1))
    for event in waiting:
        print(f"waiting: {event['key']}, {event['text']}")
    actions = agent.json("/push/v1/topics/actions/events?format=json&last=20&key=bob")["events"]
    print("bob did:", ", ".join(event.get("page", event["type"]) for event in actions))
    agent.call("POST", "/answers", to="bob", text="We send you a left one")
    print("bob:", " / ".join(told(bob, bob.stream_url(), 2)))
    other = bob.stream_url().replace("user.bob", "user.ann")
    print("bob asks for ann's answers:", bob.call("GET", other)[0])
    print("eve asks for the requests:", eve.call("GET", "/push/v1/topics/support/events?format=json")[0])

    wait(
        lambda: (
            agent.json("/push/v1/topics/waiting/latest?format=json") == {"topic": "waiting", "events": [], "evicted": 0}
        )
    )
    path = "/push/v1/topics/closed/stats?window=15m&shape=records&format=json&field=seconds&at_least=2"
    total = next(row for row in wait(lambda: agent.json(path))["data"] if row["key"] is None)
    path = "/push/v1/topics/actions/stats?window=15m&shape=records&format=json&field=key&at_least=8"
    users = next(row for row in wait(lambda: agent.json(path))["data"] if row["key"] is None)
    print(
        f"team: 0 waiting, {total['count']} answered, p95 below a minute: {total['p95'] < 60}, "
        f"users: {users['distinct']}"
    )


@contextmanager
def running(*command: str, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=HERE, env=os.environ | variables, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # what was started ends, too
    with tempfile.TemporaryDirectory(prefix="desk-") as folder:
        data = Path(folder, "data")
        application = ("flask", "--app", "app", "run", "--port", str(PORT))
        worker = ("pushsvc", "worker", "--app", "desk", "--wait", "--redis", f"unix://{data / 'valkey.sock'}")
        with running(*application, log=Path(folder, "app.log"), PUSHSVC_DATA_DIR=str(data)) as server:
            try:
                wait(lambda: b"Running on" in Path(folder, "app.log").read_bytes())
                Visitor("agent-kim").call("GET", "/push/v1/topics/support/events?format=json")  # starts the push server
                with running(*worker, log=Path(folder, "worker.log")):
                    wait(lambda: b"the worker works" in Path(folder, "worker.log").read_bytes())
                    main()
                    if "--stay" in sys.argv:
                        server.wait()
            except BaseException:
                for log in Path(folder).glob("*.log"):
                    print(log.read_text()[-3_000:], file=sys.stderr)
                raise
