"""Publish many events over one connection with nothing but http.client, and repeat safely what failed.

python publish_http.py http://127.0.0.1:8000 sensors HOW_MANY
"""

import json
import math
import sys
import time
import uuid
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit


class Publisher:
    """Keeps one connection to a server, and replaces it when it fails."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._connection = HTTPConnection(address.hostname or "", address.port, timeout=10)

    def publish(self, topic: str, events: list[dict[str, object]]) -> dict[str, object]:
        """Return the receipt. The key lets the server know a repetition, so that no event is stored twice."""
        body = json.dumps(events).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        for wait in (0.1, 0.5, 2, 5, None):
            try:
                self._connection.request("POST", f"/v1/topics/{topic}/events", body, headers)
                answer = self._connection.getresponse()
                receipt = json.loads(answer.read())
                if answer.status == 202:
                    return receipt
                if answer.status not in (429, 502, 503, 504):
                    raise SystemExit(json.dumps(receipt))
                problem = receipt.get("detail")
            except (OSError, HTTPException) as error:
                self._connection.close()
                problem = error
            if wait is None:
                break
            time.sleep(wait)
        raise SystemExit(f"the server did not take the events: {problem}")


if __name__ == "__main__":
    publisher = Publisher(sys.argv[1])
    for number in range(int(sys.argv[3])):
        celsius = 20 + 3 * math.sin(number / 10)
        print(publisher.publish(sys.argv[2], [{"key": "kitchen", "celsius": celsius}]), flush=True)
