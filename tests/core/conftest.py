"""The core does no I/O, and neither do its tests: a test that opens, connects, starts or sleeps fails."""

import sys
from collections.abc import Generator
from threading import get_ident

import pytest

REFUSED = ("open", "os.fork", "os.posix_spawn", "os.system", "socket.", "subprocess.", "tempfile.", "time.sleep")
"""Audit events of the interpreter, or the start of their names; sleeping has one since Python 3.13."""

MODULES = (".py", ".pyc", ".so", ".zip")
"""Files that an import opens; numpy imports some of its modules at their first use."""

_guarded = 0
"""The thread that runs a test; threads of other fixtures are not checked."""


class DoesIo(BaseException):
    """A BaseException, so that tested code cannot catch it as an Exception."""


def _refuse(event: str, args: tuple[object, ...]) -> None:
    if _guarded != get_ident() or not event.startswith(REFUSED):
        return
    if event != "open" or not str(args[0]).endswith(MODULES):
        raise DoesIo(f"{event} {args}")


sys.addaudithook(_refuse)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    global _guarded
    _guarded = get_ident()
    try:
        return (yield)
    finally:
        _guarded = 0
