"""``python -m tests.hostile``, run in the project's folder: all attacks on a live server that serves others.

Prints for each attack how long events took to 100 subscribers, the longest stall of ``/livez``, the longest turn of the
loop of a web process (computation, without waiting for a processor) with the garbage collector's part of it, and the
memory of the web process, after 3 seconds and after a minute without attacks.
Exits with 1 if the server broke a promise.
"""

from __future__ import annotations

import argparse
import pkgutil
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile import attacks
from hostile.run import QUIET, strike
from hostile.site import Site
from hostile.turns import Turn, Turns, longest
from hostile.watch import Report, Watch

SUBSCRIBERS = 100
MOST_MEMORY = 400
MOST_STALL = 0.05
LINGER = 60.0
"""Seconds after the last attack, in which windows without streams are dropped and free memory is returned."""
LIMITS = "[limits]\nrequests_per_second = 1999\nevents_per_second = 199999\nconnections_per_second = 999\n"
"""As good as the defaults, which spare the loopback network."""


def load(only: list[str]) -> list[tuple[str, ModuleType]]:
    """Return the attacks by the names of their modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(attacks.__path__))
    return [(name, import_module(f"hostile.attacks.{name}")) for name in names if not only or name in only]


def line(name: str, statuses: dict[str, int], seconds: float, seen: Report, turn: Turn) -> str:
    told = " ".join(f"{status}×{count}" for status, count in sorted(statuses.items()))
    times = seen.p99, max(seen.latencies, default=0), seen.stall, turn.used, turn.collected
    return (
        f"{name:28} {seconds:6.1f} s {' '.join(f'{time * 1000:8.1f} ms' for time in times)} "
        f"{seen.greatest:6.0f} MB {seen.last:6.0f} MB  {seen.missing or ''} {told}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("attacks", nargs="*", help="names of modules in tests/hostile/attacks [default: all]")
    parser.add_argument("--subscribers", type=int, default=SUBSCRIBERS, help="normal subscribers [default: 100]")
    parser.add_argument("--apart", action="store_true", help="a server for each attack: what memory each one leaves")
    parser.add_argument("--folder", type=Path, help="folder for data and logs [default: a new temporary one]")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="hostile-"))
    folder.mkdir(parents=True, exist_ok=True)
    write = sys.stdout.write
    write(f"logs are in {folder}\n")
    times = "p99", "longest", "/livez", "turn", "collected"
    write(f"{'attack':28} {'took':>8} {' '.join(f'{name:>11}' for name in times)} {'greatest':>9} {'after':>9}\n")
    wrong: list[str] = []
    for limited in (False, True):
        chosen = [pair for pair in load(given.attacks) if getattr(pair[1], "LIMITED", False) is limited]
        if given.apart:
            for name, module in chosen:
                attack_all([(name, module)], folder / name, given.subscribers, wrong, limited=limited)
        elif chosen:
            attack_all(
                chosen, folder / ("limited" if limited else "unlimited"), given.subscribers, wrong, limited=limited
            )
    for text in wrong:
        write(f"WRONG: {text}\n")
    return 1 if wrong else 0


def attack_all(
    chosen: list[tuple[str, ModuleType]], folder: Path, subscribers: int, wrong: list[str], *, limited: bool
) -> None:
    """Run attacks on one server; add to ``wrong`` what it broke. ``limited``: the limits of addresses hold for this
    machine, too."""
    write = sys.stdout.write
    folder.mkdir(exist_ok=True)
    if limited:
        (folder / "pushsvc.toml").write_text(LIMITS)
    with Site(folder) as site:
        watch, turns = Watch(site.url, subscribers, site.web()), Turns(site.turns)
        time.sleep(QUIET)
        write(line("(none)", {}, QUIET, watch.report(), longest(turns.new())) + "\n")
        for name, module in chosen:
            statuses, seconds, seen = strike(name, site.url, watch)
            turn = longest(turns.new())
            write(line(module.NAME, statuses, seconds, seen, turn) + "\n")
            sys.stdout.flush()
            if not statuses:
                wrong.append(f"{module.NAME}: the attack did not end")
            if seen.greatest > MOST_MEMORY:
                wrong.append(f"{module.NAME}: {seen.greatest:.0f} MB, at most {MOST_MEMORY} are promised")
            if seen.stall > MOST_STALL:
                wrong.append(f"{module.NAME}: /livez took {seen.stall * 1000:.0f} ms")
            if turn.used > MOST_STALL:
                wrong.append(f"{module.NAME}: a turn of the loop used {turn.used * 1000:.0f} ms")
            if seen.missing:
                wrong.append(f"{module.NAME}: subscribers lack {seen.missing} events")
            if not site.is_alive():
                wrong.append(f"{module.NAME}: a process ended")
                break
        time.sleep(LINGER)
        write(line("(afterwards)", {}, LINGER, watch.report(), longest(turns.new())) + "\n")
        watch.close()


if __name__ == "__main__":
    sys.exit(main())
