"""Throughput against latency: a curve per TP, the batch at its points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from shardwise.analysis.frontier import Point
from shardwise.evidence.record import Kind
from shardwise.reports.cells import at_least_one
from shardwise.reports.figure_style import (
    DASHES,
    GREY,
    HEIGHT,
    SHAPES,
    WIDTH,
    caption,
    data,
    titled,
    tp_colour,
)
from shardwise.reports.label_places import place


def throughput_latency(points: Sequence[Point]) -> Any:
    """Altair chart of `points`, both axes logarithmic; Pareto-efficient points are filled.

    Each kind of evidence has its own dash and shape; batches are written at the first kind.
    """
    import altair as alt

    points = at_least_one(points, "points")
    kinds = list(dict.fromkeys(p.evidence.source.kind for p in points))
    x_axis = _LogAxis.around([p.latency.lo for p in points], [p.latency.hi for p in points], WIDTH)
    y_axis = _LogAxis.around(
        [p.throughput.lo for p in points], [p.throughput.hi for p in points], HEIGHT
    )
    x = alt.X("latency:Q", title="E2E latency of a request, s", scale=x_axis.scale())
    y = alt.Y("throughput:Q", title=_throughput_title(points), scale=y_axis.scale())
    colour = tp_colour([p.tp_size for p in points])
    base = alt.Chart(data(map(_row, points))).encode(color=colour)
    rule = base.mark_rule(opacity=0.35, strokeWidth=1.5)
    lines = base.mark_line(strokeWidth=2).encode(x=x, y=y, order="batch:Q", strokeDash=_dash(kinds))
    marks = base.mark_point(size=60, strokeWidth=1.8, opacity=1).encode(
        x=x,
        y=y,
        shape=_shape(kinds),
        fill=alt.condition("datum.efficient", colour, alt.value("white")),
    )
    labels = (
        alt.Chart(data(_labels(points, kinds[0], x_axis, y_axis)))
        .mark_text(fontSize=10, color=GREY)
        .encode(x=x, y=y, text="batch:N")
    )
    layers = alt.layer(
        rule.encode(x="latency_lo:Q", x2="latency_hi:Q", y=y),
        rule.encode(x=x, y="throughput_lo:Q", y2="throughput_hi:Q"),
        lines,
        marks,
        labels,
    )
    return titled(
        layers.properties(width=WIDTH, height=HEIGHT),
        f"Throughput against latency, {_of_what(points)}",
        (
            *caption([p.evidence for p in points], drawn=len(kinds) > 1),
            "numbers: batch per copy; filled: no other point is better in both",
        ),
    )


class _LogAxis(msgspec.Struct, frozen=True):
    """A logarithmic axis from `low` to `high` over `pixels`."""

    low: float
    high: float
    pixels: float

    @classmethod
    def around(cls, lows: Sequence[float], highs: Sequence[float], pixels: float) -> _LogAxis:
        return cls(min(lows) / 1.2, max(highs) * 1.15, pixels)

    def scale(self) -> Any:
        import altair as alt

        return alt.Scale(type="log", domain=[self.low, self.high], nice=False)

    def to_pixels(self, value: float) -> float:
        return self.pixels * math.log(value / self.low) / math.log(self.high / self.low)

    def to_value(self, pixels: float) -> float:
        return self.low * math.exp(pixels / self.pixels * math.log(self.high / self.low))


def _row(p: Point) -> dict[str, Any]:
    return {
        "tp": f"TP={p.tp_size}",
        "kind": p.evidence.source.kind,
        "batch": p.concurrency,
        "efficient": p.is_efficient,
        "latency": p.latency.value,
        "latency_lo": p.latency.lo,
        "latency_hi": p.latency.hi,
        "throughput": p.throughput.value,
        "throughput_lo": p.throughput.lo,
        "throughput_hi": p.throughput.hi,
    }


def _labels(points: Sequence[Point], kind: Kind, x: _LogAxis, y: _LogAxis) -> list[dict[str, Any]]:
    """A row per label that found a place; pixels run downwards, the y axis upwards."""

    def at(p: Point) -> tuple[float, float]:
        return x.to_pixels(p.latency.value), -y.to_pixels(p.throughput.value)

    named = [p for p in points if p.evidence.source.kind == kind]
    others = [p for p in points if p.evidence.source.kind != kind]
    curves: dict[tuple[int, Kind], list[tuple[float, float]]] = {}
    for p in sorted(points, key=lambda p: p.concurrency):
        curves.setdefault((p.tp_size, p.evidence.source.kind), []).append(at(p))
    places = place(
        list(map(at, named)),
        [str(p.concurrency) for p in named],
        list(map(at, others)),
        list(curves.values()),
    )
    return [
        {
            "tp": f"TP={p.tp_size}",
            "batch": str(p.concurrency),
            "latency": x.to_value(spot[0]),
            "throughput": y.to_value(-spot[1]),
        }
        for p, spot in zip(named, places, strict=True)
        if spot is not None
    ]


def _throughput_title(points: Sequence[Point]) -> str:
    return f"output throughput of {'one copy' if _one_copy(points) else 'the node'}, tok/s"


def _of_what(points: Sequence[Point]) -> str:
    return "one copy" if _one_copy(points) else "a node full of copies"


def _one_copy(points: Sequence[Point]) -> bool:
    return {p.copies for p in points} == {1}


def _dash(kinds: Sequence[Kind]) -> Any:
    import altair as alt

    scale = alt.Scale(domain=kinds, range=[DASHES[kind] for kind in kinds])
    return alt.StrokeDash("kind:N", scale=scale, legend=None)


def _shape(kinds: Sequence[Kind]) -> Any:
    import altair as alt

    scale = alt.Scale(domain=kinds, range=[SHAPES[kind] for kind in kinds])
    return alt.Shape("kind:N", scale=scale, legend=None)
