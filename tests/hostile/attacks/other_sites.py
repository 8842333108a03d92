"""Requests that pages of other sites make a browser send: by DNS rebinding, by another origin, and without one."""

from __future__ import annotations

from collections import Counter
from http.client import HTTPConnection
from urllib.parse import urlsplit

NAME = "pages of other sites"
TIMEOUT = 60.0
TARGET = "/v1/topics/hostile.sites/events"
HEADERS = (
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "2130706433"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
)


def attack(url: str) -> Counter[str]:
    """Return how many of the writes were answered with each status."""
    place = urlsplit(url)
    answers: Counter[str] = Counter()
    for headers in HEADERS:
        connection = HTTPConnection(place.hostname or "127.0.0.1", place.port or 80, timeout=TIMEOUT)
        connection.request("POST", TARGET, b'{"n":1}', {"Content-Type": "application/json", **headers})
        answers[str(connection.getresponse().status)] += 1
        connection.close()
    return answers
