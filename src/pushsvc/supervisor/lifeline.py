"""Ends a child process when its parent has ended, even by SIGKILL.

The parent holds the writing end of a pipe. When the parent ends, the child reads the end of the pipe; what the parent
writes ends the child, too.
"""

import _thread
import os
import signal
from time import sleep

LIFELINE_VARIABLE = "PUSHSVC_LIFELINE"  # the descriptor to watch and the seconds that an orderly end may take: "7 5"


def end_with_parent() -> None:
    """Watch the pipe that the environment names, if any. Call this before gevent patches threads."""
    text = os.environ.pop(LIFELINE_VARIABLE, "")
    if text:
        descriptor, grace = text.split()
        os.set_inheritable(int(descriptor), False)
        _thread.start_new_thread(_watch, (int(descriptor), float(grace)))


def _watch(descriptor: int, grace: float) -> None:
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    sleep(grace)
    os._exit(1)
