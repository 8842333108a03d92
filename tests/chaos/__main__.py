"""``python -m tests.chaos --minutes 30 --seed 7`` from the project's folder; ends with 1 if anything was wrong."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.run import Report, run

ROUND, PAUSE = 40.0, 4.0


def tell(report: Report) -> None:
    sys.stdout.write(f"\n{report}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Torment a site and judge it.")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long, more or less [default: 5]")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="which faults [default: any]")
    parser.add_argument("--replica", action="store_true", help="a replica takes over when Redis is killed")
    parser.add_argument("--folder", type=Path, help="where data and logs stay [default: a new one in the temporary]")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"seed {given.seed}; logs are in {folder}\n")
    rounds = max(1, round(given.minutes * 60 / (ROUND * 1.3)))
    report = run(folder, given.seed, seconds=ROUND, pause=PAUSE, rounds=rounds, say=tell, replicated=given.replica)
    tell(report)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
