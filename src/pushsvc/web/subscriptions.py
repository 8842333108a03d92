"""``/v1/stream?sub=…``: subscriptions with parameters of their own on one connection."""

from __future__ import annotations

from collections.abc import Sequence

from pushsvc.auth.grants import Grants
from pushsvc.errors import InvalidInput, InvalidParameter, at_place
from pushsvc.hub.groups.listing import ListingQuery
from pushsvc.hub.query import LatestQuery, Query
from pushsvc.hub.streams import Subscription
from pushsvc.topic import Shapes, is_pattern
from pushsvc.web import events, latest, stats, topics
from pushsvc.web.authorization import check_granted
from pushsvc.web.context import Context
from pushsvc.web.subscription import LIST, SubscriptionText

_MOST = 64

Asked = Query | LatestQuery | ListingQuery


def read_subscriptions(
    context: Context, texts: Sequence[str], grants: Grants, *, named: bool
) -> tuple[Subscription, ...]:
    """Return what texts such as ``stats/flights?window=1m`` ask for, within the grants. ``named``: events have their
    types as names. Raise a PushError that names the text which it refuses."""
    if len(texts) > _MOST:
        raise InvalidParameter(f"sub[{_MOST}]", f"a stream has at most {_MOST} subscriptions, these are {len(texts)}")
    found: list[Subscription] = []
    patterns: list[str] = []
    for place, text in enumerate(texts):
        with at_place(f"sub[{place}]"):
            if text in texts[:place]:
                raise InvalidInput(f"the same as sub[{texts.index(text)}]")
            asked = SubscriptionText.parse(text)
            if asked.kind != LIST:  # it has what is granted
                check_granted(grants, asked.name, pattern=is_pattern(asked.name))
            found.append(Subscription(text, _query(context, asked, grants, named=named)))
            if is_pattern(asked.name):
                patterns.append(asked.name)
            if (shapes := len(Shapes(patterns))) > context.limits.pattern_shapes:
                raise InvalidInput(
                    f"the patterns have {shapes} arrangements of wildcards, at most {context.limits.pattern_shapes} "
                    "are allowed"
                )
    return tuple(found)


def _query(context: Context, asked: SubscriptionText, grants: Grants, *, named: bool) -> Asked:
    if asked.kind == LIST:
        return topics.subscription(context, grants, asked.args)
    if asked.kind == "latest":
        return latest.subscription(context, grants, asked.name, asked.args)
    if asked.kind == "stats":
        return stats.subscription(context, grants, asked.name, asked.args)
    return events.subscription(context, grants, asked.name, asked.args, named=named)
