"""Frame times of the dashboard in a real Chromium: 5,000 keys, 500 events/s, a chart with one key and with six.

The browser, the server and the producer share the machine. A page of nothing but an animation is the floor, in the same
browser while the same server works. ``python benchmarks/page.py [--keys 5000] [--rate 500] [--seconds 20]``
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from measure import Table, machine

PORT = 18_437
TICK = 0.1
_FLOOR = (
    "data:text/html,<style>@keyframes a{to{transform:translateX(99px)}}</style><p style='animation:a 1s infinite'>x"
)
_FRAMES = """(seconds) => new Promise((resolve) => {
  const times = [];
  const end = performance.now() + 1000 * seconds;
  const look = (now) => {
    times.push(now);
    if (now < end) requestAnimationFrame(look);
    else resolve(times);
  };
  requestAnimationFrame(look);
})"""


class Producer(threading.Thread):
    """Posts events at a steady rate until it is told to stop."""

    def __init__(self, keys: int, rate: int) -> None:
        super().__init__(daemon=True)
        self.stopped = threading.Event()
        self._keys, self._batch = keys, round(rate * TICK)
        self._connection = HTTPConnection("127.0.0.1", PORT)

    def post(self, keys: range | list[int]) -> None:
        events = [{"key": f"key-{key}", "x": random.gauss(100, 20), "y": random.random()} for key in keys]
        self._connection.request(
            "POST", "/v1/topics/bench/events", json.dumps(events), {"Content-Type": "application/json"}
        )
        self._connection.getresponse().read()

    def run(self) -> None:
        due = time.monotonic()
        while not self.stopped.is_set():
            self.post([random.randrange(self._keys) for _ in range(self._batch)])
            due += TICK
            time.sleep(max(0, due - time.monotonic()))


def frames(browser: Browser, address: str, seconds: float) -> list[str]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    if address != _FLOOR:
        page.wait_for_selector('#chart:not([data-last=""])')
        page.wait_for_timeout(3_000)
    gaps = np.diff(page.evaluate(_FRAMES, seconds))
    page.close()
    return [f"{value:.1f}" for value in (np.median(gaps), *np.percentile(gaps, (95, 99)), gaps.max())]


def main() -> None:
    parser = ArgumentParser()
    for name, default in (("keys", 5_000), ("rate", 500), ("seconds", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    note = f"{machine()}; {chosen.keys} keys, {chosen.rate} events/s; ms between frames"
    table = Table("The dashboard", ("page", "median", "p95", "p99", "longest"), note)
    with TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("pushsvc")), "serve", "--port", str(PORT), "--data-dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until_ready()
            producer = Producer(chosen.keys, chosen.rate)
            for begin in range(0, chosen.keys, 1_000):
                producer.post(range(begin, min(begin + 1_000, chosen.keys)))
            producer.start()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                page = f"http://127.0.0.1:{PORT}/#topic=bench&window=15m&field=x&statistic=mean"
                others = "".join(f"&compare=key-{n}" for n in range(1, 6))
                for name, address in (("floor", _FLOOR), ("one key", page), ("six keys", f"{page}&key=key-0{others}")):
                    table.add(name, *frames(browser, address, chosen.seconds))
                browser.close()
            producer.stopped.set()
            producer.join()
        finally:
            server.terminate()
            server.wait()
    table.print()


def wait_until_ready() -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            connection = HTTPConnection("127.0.0.1", PORT)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
