"""An application of components that runs in real worker processes."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from textwrap import dedent
from typing import Any

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from support.stack import Stack
from support.waiting import DEADLINE, until

SETTINGS = TopicSettings(windows=())


class Site:
    """Workers over one Redis. ``publish`` and ``events`` use the logs directly."""

    def __init__(self, stack: Stack, broker: Broker, folder: Path) -> None:
        self.stack, self.broker, self.folder = stack, broker, folder
        self._numbers = count()
        stack.configure('[topics.">"]\nwindows = []\n')

    def app(self, text: str) -> None:
        (self.folder / "app.py").write_text(
            "from __future__ import annotations\nimport os, signal, time\nfrom pushsvc import on\n" + dedent(text)
        )

    def work(self, name: str = "worker", *options: str) -> Any:
        """Start a worker and return its process when it owns partitions."""
        process = self.stack.start(name, "worker", "--app", "app", *options)
        until(lambda: "the worker works" in self.stack.output(name) or self.stack.ended(name))
        assert not self.stack.ended(name), self.stack.output(name)
        return process

    def begin(self, group: str) -> None:
        """Wait until the group owns all partitions and has stored where it begins."""
        until(lambda: all(one["begun"] for one in self.broker.components.overview(group, range(64))))

    def run(self, *arguments: str) -> Any:
        """Return what ``pushsvc worker`` prints with these arguments."""
        name = f"command-{next(self._numbers)}"
        assert self.stack.start(name, "worker", *arguments).wait(DEADLINE) == 0, self.stack.output(name)
        return json.loads(self.stack.output(name))

    def publish(self, topic: str, *events: dict[str, Any], key: str | None = None, type: str = "message") -> None:
        found = [Event(type=type, key=key, data=data) for data in events]
        self.broker.publish(topic, found, SETTINGS)

    def events(self, topic: str) -> list[Event]:
        found: list[Event] = []
        after = 0
        while True:
            read = self.broker.read(Log(topic).partition, {Log(topic): after}).logs[Log(topic)]
            for entry in read.entries:
                found += entry.events
                after = entry.last
            if not read.more:
                return found
