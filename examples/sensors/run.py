"""Start a server with the components, send them two noisy sensors with gaps, and show and draw what they made of it.

python examples/sensors/run.py                 prints the figures
python examples/sensors/run.py --plot FILE     also draws them, as plot.svg was drawn
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PORT = os.environ.get("PORT", "8055")
URL = f"http://127.0.0.1:{PORT}/v1/topics"
SAMPLES = 240
Point = tuple[int, float]


def measured(sensor: str, chance: random.Random) -> list[dict[str, Any]]:
    """Return the values of a sensor: noise on all, spikes on some, and none for a while."""
    wave = math.sin if sensor == "sine" else math.cos
    silent = range(100, 112) if sensor == "sine" else range(30, 38)
    events = []
    for n in range(SAMPLES):
        value = wave(n / 20) + chance.gauss(0, 0.02)
        if 0 < n < SAMPLES - 1 and chance.random() < 0.05:
            value += chance.choice((-5, 5))
        if n not in silent:
            events.append({"id": f"{sensor}-{n}", "key": sensor, "n": n, "value": value})
    return events


def call(path: str, data: bytes | None = None, method: str | None = None) -> Any:
    kind = "application/merge-patch+json" if method == "PATCH" else "application/x-ndjson"
    request = urllib.request.Request(URL + path, data, {"Content-Type": kind} if data else {}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def events_of(topic: str, at_least: int) -> list[dict[str, Any]]:
    """Return the events of a topic when there are so many."""
    for _ in range(600):
        try:
            events: list[dict[str, Any]] = call(f"/{topic}/events?format=json&limit=10000")["events"]
        except OSError:
            events = []
        if len(events) >= at_least:
            return events
        time.sleep(0.1)
    raise SystemExit(f"{topic} has fewer than {at_least} events")


def draw(file: str, lines: Sequence[tuple[str, Sequence[Point]]], dots: Sequence[Point]) -> None:
    """Draw lines and dots as SVG."""
    shown = ""
    for colour, points in lines:
        places = " ".join(f"{3 * n},{150 - 60 * value:.1f}" for n, value in points)
        shown += f'<polyline fill="none" stroke="{colour}" points="{places}"/>\n'
    shown += "".join(f'<circle cx="{3 * n}" cy="{150 - 60 * max(-2.3, min(2.3, v)):.1f}" r="2.5"/>' for n, v in dots)
    size = 3 * SAMPLES
    Path(file).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 {size + 20} 300" fill="crimson" '
        f'stroke-width="1.5">\n<rect x="-10" width="{size + 20}" height="300" fill="white"/>\n{shown}\n</svg>\n'
    )


def main() -> None:
    chance = random.Random(5)
    sensors = {sensor: measured(sensor, chance) for sensor in ("sine", "cosine")}
    for sensor, values in sensors.items():
        for start in range(0, len(values), 20):
            call(f"/raw.{sensor}/events", "\n".join(map(json.dumps, values[start : start + 20])).encode())
    circle = events_of("circle", SAMPLES)
    clean = events_of("clean", 2 * SAMPLES)
    spikes = events_of("spikes", 1)
    silent = events_of("status", 2)
    filled = [event for event in clean if event["type"] == "filled"]
    radii = [event["radius"] for event in circle]
    print(f"created   {sum(map(len, sensors.values()))} values of two sensors")
    print(f"triggered {len(spikes)} events for impossible values, {len(silent)} for silence")
    print(f"passed    {len(clean)} values, of which {len(filled)} are interpolated")
    print(f"processed {len(circle)} samples: radius {sum(radii) / len(radii):.3f} on average")
    first, second = (event["id"] for event in spikes[:2])
    call(f"/spikes/events/{first}", b'{"note": "the cable was loose"}', "PATCH")
    call(f"/spikes/events/{second}", method="DELETE")
    left = events_of("spikes", 1)
    print(f"updated   {sum('note' in event for event in left)} impossible value, deleted {len(spikes) - len(left)}")
    if "--plot" in sys.argv:
        lines = [
            (colour, sorted((event["n"], event["value"]) for event in clean if event["sensor"] == sensor))
            for sensor, colour in (("sine", "steelblue"), ("cosine", "seagreen"))
        ]
        lines.append(("gray", sorted((event["n"], event["radius"]) for event in circle)))
        draw(sys.argv[sys.argv.index("--plot") + 1], lines, sorted((event["n"], event["value"]) for event in spikes))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pushsvc", "serve", "--port", PORT, "--components", "sensors"]
        environment = os.environ | {"PUSHSVC_DATA_DIR": folder}
        with (
            Path(folder, "server.log").open("wb") as output,
            subprocess.Popen(command, cwd=HERE, env=environment, stdout=output, stderr=output) as server,
        ):
            try:
                for _ in range(300):
                    try:
                        call("")
                        break
                    except OSError:
                        time.sleep(0.2)
                main()
            finally:
                server.terminate()
