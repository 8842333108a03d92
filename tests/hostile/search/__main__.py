"""``python -m tests.hostile.search``, run in the project's folder: what requests cost a server most per byte?

For each kind of request a grammar makes requests within all limits, and hypothesis climbs to those that cost most. The
ten costliest of a kind are repeated, and printed with the medians. ``--repeat`` sends one of them again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings, target

from hostile.search.grammar import AUTHORIZED, KINDS
from hostile.search.probe import Cost, Probe
from hostile.search.recipe import Recipe, Sender
from hostile.search.topics import CREDENTIALS, KEY, SETTINGS, fill
from hostile.site import Site

EXAMPLES = 300
"""Requests of one climb. Then the next one begins elsewhere."""

SHOWN = {"per_kb": 5, "stall": 3, "kept": 2}
"""How many requests of a kind are shown that cost most of each."""


class TimeIsUp(BaseException):
    """Ends a climb. Hypothesis would repeat a test that raises an Exception, and go on after one that returns."""


@contextmanager
def probed(folder: Path, *, authorizes: bool) -> Iterator[Probe]:
    """A server with its topics."""
    folder.mkdir(exist_ok=True)
    (folder / "pushsvc.toml").write_text((CREDENTIALS if authorizes else "") + SETTINGS)
    with Site(folder) as site:
        cursor = fill(site.url)
        with Probe(site, Sender(site.url, KEY, cursor)) as probe:
            yield probe


def search(kind: str, probe: Probe, minutes: float, seed: int) -> list[Recipe]:
    """Return the costliest requests, none of the same form."""
    found: dict[str, dict[str, tuple[float, Recipe]]] = {measure: {} for measure in SHOWN}
    end = time.monotonic() + 60 * minutes

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate, Phase.target],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(KINDS[kind])
    def climb(recipe: Recipe) -> None:
        if time.monotonic() > end:
            raise TimeIsUp
        cost = probe.measure(recipe)
        for measure, forms in found.items():
            target(getattr(cost, measure), label=measure)
            forms[recipe.form] = max(
                (getattr(cost, measure), recipe), forms.get(recipe.form, (0.0, recipe)), key=lambda pair: pair[0]
            )

    with suppress(TimeIsUp):
        while True:
            hypothesis.seed(seed)(climb)()
            seed += 1
    chosen: dict[str, Recipe] = {}
    for measure, count in SHOWN.items():
        ranked = sorted(found[measure].items(), key=lambda item: item[1][0], reverse=True)
        new = [(form, recipe) for form, (_, recipe) in ranked if form not in chosen]
        chosen |= dict(new[:count])
    return list(chosen.values())


def show(kind: str, cost: Cost, recipe: Recipe) -> None:
    sys.stdout.write(f"{kind:11} {cost}  {recipe}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.search", description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"{', '.join(KINDS)} [default: all]")
    parser.add_argument("--minutes", type=float, default=2.0, help="for each kind [default: 2]")
    parser.add_argument("--seed", type=int, default=0, help="of the first climb [default: 0]")
    parser.add_argument("--repeat", metavar="REQUEST", nargs="+", help="send requests, as they were printed, and end")
    parser.add_argument("--times", type=int, default=5, help="how often a request is repeated [default: 5]")
    given = parser.parse_args()
    kinds = given.kinds or list(KINDS)
    folder = Path(tempfile.mkdtemp(prefix="search-"))
    sys.stdout.write(f"logs are in {folder}\n")
    for authorizes in (False, True):
        chosen = [kind for kind in kinds if (kind in AUTHORIZED) is authorizes]
        if not chosen:
            continue
        with ExitStack() as stack:
            probe = stack.enter_context(probed(folder / str(authorizes), authorizes=authorizes))
            if given.repeat:
                for recipe in map(Recipe.parse, given.repeat):
                    show("repeated", probe.confirm(recipe, given.times), recipe)
                continue
            for kind in chosen:
                for recipe in search(kind, probe, given.minutes, given.seed):
                    show(kind, probe.confirm(recipe, given.times), recipe)
    return 0


if __name__ == "__main__":
    sys.exit(main())
