"""The core does no I/O, and nor do its tests: what opens, connects, starts or sleeps fails the test that does it."""

import sys
from collections.abc import Generator
from threading import get_ident

import pytest

REFUSED = ("open", "os.fork", "os.posix_spawn", "os.system", "socket.", "subprocess.", "tempfile.", "time.sleep")
"""Audit events of the interpreter, or how their names begin; that of sleeping is told since Python 3.13."""

MODULES = (".py", ".pyc", ".so", ".zip")
"""What an import opens; numpy imports parts of itself when they are first used."""

_guarded = 0
"""The thread in which a test runs; those of other tests' fixtures may do what they like."""


class DoesIo(BaseException):
    """Nothing that is tested catches it among errors of its own."""


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
