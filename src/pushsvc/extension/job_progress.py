"""The progress of a job that runs in a Flask application, or in a worker with its context."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from pushsvc_client.progress import DONE, FAILED, Progress

CANCELLED = "cancelled"


class JobProgress(Progress):
    """As ``pushsvc.client``'s; its state is ``cancelled`` when the job is interrupted, not ``failed``."""

    def advance(self, by: float = 1, **fields: Any) -> None:
        """Count ``by`` more as done. ``fields`` are members that this event and all later ones have, too."""
        self.update(by, **fields)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close(DONE)
        else:  # KeyboardInterrupt, SystemExit, asyncio.CancelledError and gevent.GreenletExit are no Exception
            self.close(FAILED if issubclass(kind, Exception) else CANCELLED)
