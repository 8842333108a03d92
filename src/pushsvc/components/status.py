"""How far groups of components are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from pushsvc.broker.broker import Broker
from pushsvc.broker.components import TOTALS
from pushsvc.broker.keys import Log
from pushsvc.pause import Pause, no_pause
from pushsvc.topic import PARTITIONS, partition_of

_MOST_TOPICS = 1_000  # of a group that an answer names


def status(broker: Broker) -> dict[str, dict[str, Any]]:
    """Return what there is of each group: lag and position by topic, keys with state, parked and dead events, timers,
    unknown types."""
    found = {}
    for group in broker.components.groups():
        positions, totals, unknown = _read(broker, group, no_pause)
        topics = _described(broker, group, positions)
        found[group] = {
            "lag": sum(one["lag"] for one in topics.values()), "states": sum(one["states"] for one in topics.values()),
            **totals, "unknown_types": unknown, "topics": topics,
        }  # fmt: skip
    return found


def visible_groups(
    broker: Broker, topic: str | None, sees: Callable[[str], bool], *, totals: bool, pause: Pause
) -> list[dict[str, Any]]:
    """Return the groups that read a topic (None: any topic) that the caller ``sees``, with these topics.

    ``totals`` asks for the counts of each group, which are about all of its topics.
    """
    found = []
    for group in broker.components.groups():
        if topic is None:
            positions, counts, _ = _read(broker, group, pause)
        else:
            position = broker.components.position(group, topic)
            positions = {} if position is None else {topic: position}
            counts = broker.components.totals(group, range(PARTITIONS)) if positions and totals else {}
        wanted = sorted(name for name in positions if sees(name))
        if not wanted:
            continue
        shown = wanted[:_MOST_TOPICS]
        topics = _described(broker, group, {name: positions[name] for name in shown}, pause)
        found.append({
            "group": group, "totals": counts if totals else None,
            "topics": [{"topic": name, **one} for name, one in topics.items()],
            **({"more": len(wanted) - len(shown)} if len(wanted) > len(shown) else {}),
        })  # fmt: skip
        pause()
    return found


def _read(broker: Broker, group: str, pause: Pause) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return the positions by topic, the totals and the unknown types of a group."""
    positions: dict[str, int] = {}
    unknown: dict[str, int] = {}
    totals = dict.fromkeys(TOTALS, 0)
    for one in broker.components.overview(group, range(PARTITIONS)):
        positions |= one["positions"]
        for name, count in one["unknown"].items():
            unknown[name] = unknown.get(name, 0) + count
        for name in totals:
            totals[name] += one[name]
        pause()
    return positions, totals, unknown


def _described(
    broker: Broker, group: str, positions: Mapping[str, int], pause: Pause = no_pause
) -> dict[str, dict[str, Any]]:
    """Return for topics, in their order by name, the offset, lag, parked events, keys with state and unknown types of a
    group."""
    topics = sorted(positions)
    parked: Counter[str] = Counter()
    partitions = sorted({partition_of(topic) for topic in topics})
    unknown = broker.components.unknown_types(group, partitions)
    for partition in partitions:
        parked.update(broker.components.parked_topics(group, partition))
        pause()
    states = broker.components.count_states(group, topics)
    metadata = broker.metadata([Log(topic) for topic in topics])
    found = {}
    for topic, count, one in zip(topics, states, metadata, strict=True):
        offset = positions[topic]
        lag = max(0, int(one.get("last", 0)) - offset)
        found[topic] = {
            "offset": offset, "lag": lag, "parked": parked[topic], "states": count,
            "unknown_types": unknown.get(topic, {}),
        }  # fmt: skip
    return found
