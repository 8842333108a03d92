import re

import pytest

from pushsvc import errors
from pushsvc.errors import Fault, InvalidBatch, InvalidParameter, LogFull, PushError

KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, PushError)}


def test_the_docstring_draws_the_tree_of_classes():
    drawn = re.findall(r"^    ([ │├└─]+)(\w+) +(\d{3})\b", errors.__doc__, re.MULTILINE)
    above = ["PushError"]
    for branch, name, status in drawn:
        depth = len(branch) // 4
        assert KINDS[name].__bases__[0] is KINDS[above[depth - 1]], name
        assert KINDS[name].status == int(status), name
        above[depth:] = [name]
    assert {name for _, name, _ in drawn} | {"PushError"} == KINDS.keys()


def test_slugs_and_titles_are_unique():
    for attribute in ("slug", "title"):
        names = [vars(kind)[attribute] for kind in KINDS.values() if attribute in vars(kind)]
        assert len(names) == len(set(names)) >= len(KINDS) - 1
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", kind.slug) for kind in KINDS.values())


def test_members_name_the_parameter_or_the_faults():
    error = InvalidParameter("window", "there is none of 7x")
    assert (error.detail, error.members()) == ("window: there is none of 7x", {"parameter": "window"})
    batch = InvalidBatch([Fault(3, "a", "is bad"), Fault(4, None, "is worse")], more=2)
    assert batch.detail == "line 3, field 'a': is bad"
    assert batch.members() == {
        "errors": [
            {"line": 3, "field": "a", "detail": "is bad"},
            {"line": 4, "field": None, "detail": "is worse"},
        ],
        "more": 2,
    }
    assert InvalidBatch([Fault(1, None, "is bad")]).detail == "line 1: is bad"


@pytest.mark.parametrize(("wait", "seconds"), [(0, 1), (1_000, 1), (1_001, 2), (10**9, 60)])
def test_retry_after_of_a_full_log_is_between_1_and_60_seconds(wait, seconds):
    assert LogFull("full", wait).retry_after == seconds
