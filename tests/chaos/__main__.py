"""``python -m tests.chaos --minutes 30 --seed 7``, run in the project's folder, exits with 1 if a check failed."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.run import Report, run

ROUND, PAUSE = 40.0, 4.0


def show(report: Report) -> None:
    sys.stdout.write(f"\n{report}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Break parts of a running system at random and check that nothing is lost.",
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="approximate duration [default: 5]")
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(10**6), help="decides the order of faults [default: random]"
    )
    parser.add_argument("--replica", action="store_true", help="let a replica take over when Redis is killed")
    parser.add_argument("--quiet", type=int, default=0, help="topics with a subscriber each [default: 0]")
    parser.add_argument("--folder", type=Path, help="folder for data and logs [default: a new temporary one]")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"seed {given.seed}; logs are in {folder}\n")
    rounds = max(1, round(given.minutes * 60 / (ROUND * 1.3)))
    report = run(
        folder, given.seed, seconds=ROUND, pause=PAUSE, rounds=rounds, on_round=show, replicated=given.replica,
        quiet_topics=given.quiet,
    )  # fmt: skip
    show(report)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
