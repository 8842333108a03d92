"""Become another program that ends with the process that asked for it. Run by path in a bare interpreter.

A program of its own, because between fork and exec of a threaded process almost nothing may be done safely.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Let the kernel send SIGTERM to this process when its parent is gone (Linux); it survives exec."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above could tell the kernel
        sys.exit(1)


def watch(pipe: int, lock: int) -> None:
    """Leave a child behind that terminates this process when ``pipe`` ends, that is, when its writer is gone."""
    server = os.getpid()
    if os.fork():
        os.set_inheritable(pipe, False)
        return
    os.close(lock)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.read(pipe, 1)
    if os.getppid() == server:  # else the number may be another process's by now
        os.kill(server, signal.SIGTERM)
    os._exit(0)


def main(parent: int, lock: int, pipe: int, command: list[str]) -> None:
    """``lock`` is an inherited descriptor that the program keeps; ``pipe`` is -1 where the kernel does the watching."""
    os.umask(0o077)
    if pipe < 0:
        end_with_parent(parent)
    else:
        watch(pipe, lock)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
