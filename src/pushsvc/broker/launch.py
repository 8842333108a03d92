"""Turns its process into another program that ends with its parent. Run by path in a bare interpreter.

It is a separate program because almost nothing is safe between fork and exec of a threaded process.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Make the kernel send SIGTERM to this process when its parent ends (Linux); this outlasts exec."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the call above
        sys.exit(1)


def watch(pipe: int, lock: int) -> None:
    """Fork a child that terminates this process at the end of ``pipe``, that is, when its writer has ended."""
    server = os.getpid()
    if os.fork():
        os.set_inheritable(pipe, False)
        return
    os.close(lock)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.read(pipe, 1)
    if os.getppid() == server:  # else another process may have the number by now
        os.kill(server, signal.SIGTERM)
    os._exit(0)


def main(parent: int, lock: int, pipe: int, command: list[str]) -> None:
    """Run ``command``, which inherits the descriptor ``lock``; ``pipe`` is -1 if the kernel watches the parent."""
    os.umask(0o077)
    if pipe < 0:
        end_with_parent(parent)
    else:
        watch(pipe, lock)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
