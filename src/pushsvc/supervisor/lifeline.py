"""A child process ends when its parent is gone, however the parent ended.

The parent holds the writing end of a pipe and never writes. Its end, kill -9 included, ends the pipe.
"""

from __future__ import annotations

import _thread
import os
import signal
from time import sleep

VARIABLE = "PUSHSVC_LIFELINE"
"""Names the descriptor to watch and the seconds that an orderly end may take: ``7 5``."""


def follow_parent() -> None:
    """Watch the pipe that the environment names, if it names one. To be called before gevent patches threads."""
    text = os.environ.pop(VARIABLE, "")
    if text:
        descriptor, grace = text.split()
        os.set_inheritable(int(descriptor), False)
        _thread.start_new_thread(_watch, (int(descriptor), float(grace)))


def _watch(descriptor: int, grace: float) -> None:
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    sleep(grace)
    os._exit(1)
