"""Start the restaurant's application, send it a file of feedback, and show the ranking.

python examples/restaurant/run.py          ends when it has shown it
python examples/restaurant/run.py --stay   goes on until Ctrl-C: open http://127.0.0.1:5050/
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
PORT = os.environ.get("PORT", "5050")
URL = f"http://127.0.0.1:{PORT}"


def get(path: str) -> dict[str, object]:
    with urllib.request.urlopen(URL + path, timeout=10) as answer:
        return json.load(answer)


def raised() -> dict[str, dict[str, str]]:
    """Return the alerts that hold now, by dish. One may have been low for a moment while its reviews were counted."""
    events = get("/push/v1/topics/alerts/events?format=json")["events"]
    newest = {alert["row"]: alert for alert in events}  # type: ignore[attr-defined]
    return {dish: alert for dish, alert in newest.items() if alert["type"] == "raised"}


def main() -> None:
    """Upload the reviews, then print the ranking."""
    request = urllib.request.Request(
        f"{URL}/reviews", (HERE / "reviews.csv").read_bytes(), {"Content-Type": "text/csv"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        report = json.load(answer)
    for rule in report["rules"]:
        print(f"{rule['rule']:50} {rule['changed']:4} changed {rule['refused']:4} refused")
    path = f"/push/v1/topics/feedback/stats?window=15m&field=rating&shape=records&at_least={report['published']}"
    dishes = [row for row in get(path)["data"] if row["key"]]  # type: ignore[attr-defined]
    for row in sorted(dishes, key=lambda row: -row["mean"]):
        print(f"{row['key']:12} {row['count']:4} ratings, mean {row['mean']:.2f}")
    low = {row["key"] for row in dishes if row["mean"] < 3 and row["count"] >= 5}
    while (alerts := raised()).keys() != low:
        time.sleep(0.5)
    for alert in alerts.values():
        print(f"{alert['type']}: {alert['row']}, {alert['when']}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # what was started ends, too
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "flask", "--app", "app", "run", "--port", PORT]
        environment = os.environ | {"PUSHSVC_DATA_DIR": folder}
        with (
            Path(folder, "requests.log").open("wb") as requests,
            subprocess.Popen(command, cwd=HERE, env=environment, stderr=requests) as server,
        ):
            try:
                for _ in range(300):
                    try:
                        get("/push/v1/topics/feedback/stats")
                        break
                    except OSError:
                        time.sleep(0.2)
                main()
                if "--stay" in sys.argv:
                    server.wait()
            finally:
                server.terminate()
