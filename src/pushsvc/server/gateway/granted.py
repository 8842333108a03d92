"""What the application answers when the gateway asks whether a request may be served."""

from __future__ import annotations

import msgspec

MEDIA_TYPE = "application/vnd.pushsvc.granted+json"


class Granted(msgspec.Struct):
    """The request may be served: as ``path``, with its query, by this token, until ``expires`` (epoch seconds).

    ``html`` makes the HTML of events the data of messages.
    """

    path: str
    token: str
    expires: float
    html: bool = False

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Granted:
        """Raise ValueError."""
        return msgspec.json.decode(data, type=cls)
