"""Components that clean the values of sensors, fill their gaps, combine two of them and notice silence."""

from __future__ import annotations

from typing import Any

from pushsvc import on

MOST_FILLED = 20  # values of a gap that are interpolated
SILENT = 2.0  # seconds without a value


@on("raw.*", group="clean", start="beginning")
def clean(event: Any, ctx: Any) -> None:
    """Pass good values on. An impossible one triggers an event of its own; a gap is filled with a straight line."""
    ctx.call_later(SILENT, silent, sensor=event.key)
    n, value = event["n"], event["value"]
    if abs(value) > 1.5:
        ctx.emit("spikes", {"id": f"{event.key}-{n}", "key": event.key, "n": n, "value": value})
        return
    last = ctx.state.get("n", n - 1)
    if n - last <= MOST_FILLED:
        step = (value - ctx.state.get("value", value)) / (n - last)
        for missing in range(last + 1, n):
            _pass(ctx, event, missing, ctx.state["value"] + step * (missing - last), "filled")
    _pass(ctx, event, n, value, "measured")
    ctx.state.update(n=n, value=value)


def _pass(ctx: Any, event: Any, n: int, value: float, kind: str) -> None:
    """Pass a value on to the topic of clean ones; its key is the sample, which all sensors share."""
    ctx.emit("clean", {"key": str(n), "type": kind, "sensor": event.key, "n": n, "value": value})


@on("clean", group="combine", start="beginning")
def combine(event: Any, ctx: Any) -> None:
    """Process the values of both sensors of one sample when the second one is there."""
    ctx.state[event["sensor"]] = event["value"]
    if len(ctx.state) == 2:
        radius = (ctx.state["sine"] ** 2 + ctx.state["cosine"] ** 2) ** 0.5
        ctx.emit("circle", {"key": "circle", "n": event["n"], **ctx.state, "radius": radius})
        ctx.state.clear()


@on.timer
def silent(ctx: Any, sensor: str) -> None:
    """Tell that a sensor has been silent: each of its values sets this timer anew."""
    ctx.emit("status", {"key": sensor, "type": "silent"})
