"""Watch statistics with nothing but http.client: the mean of each sensor in the last minute.

python watch_http.py http://127.0.0.1:8000 sensors [HOW_MANY_FRAMES]
"""

import json
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlsplit


def watch(url: str, topic: str, window: str = "1m") -> Iterator[dict[str, float]]:
    """Yield the mean of ``celsius`` by key after each frame: a snapshot has all rows, an update the changed ones."""
    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=60)
    path = f"/v1/topics/{topic}/stats?window={window}&field=celsius"
    connection.request("GET", path, headers={"Accept": "text/event-stream"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(answer.read().decode())
    kind, means = "", dict[str, float]()
    while line := answer.readline().decode():
        field, _, value = line.strip().partition(": ")
        if field == "event":
            kind = value
        elif field == "data":
            frame = json.loads(value)
            if kind == "snapshot":
                means = {}
            for key, _ in frame.get("gone", ()):
                means.pop(key, None)
            for row in (dict(zip(frame["columns"], values, strict=True)) for values in frame["data"]):
                if row["key"] is not None:
                    means[row["key"]] = row["mean"]
            if means:
                yield dict(means)


if __name__ == "__main__":
    wanted = int(sys.argv[3]) if len(sys.argv) > 3 else -1
    for means in watch(sys.argv[1], sys.argv[2]):
        print(json.dumps(means), flush=True)
        wanted -= 1
        if not wanted:
            break
