"""Stacked figures: time of a request by component, memory of a GPU by part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from shardwise.evidence.record import Evidence
from shardwise.reports.cells import at_least_one
from shardwise.reports.figure_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PANEL,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    by_batch,
    caption,
    data,
    titled,
)
from shardwise.reports.memory import MemoryUse, fit_words
from shardwise.reports.numbers import number
from shardwise.units import GB

#: components of time and parts of memory with a fixed colour; others use the next free one
PART_COLOURS: Final = {
    "weights": BLUE,
    "kv_cache": SKY,
    "kv": SKY,
    "compute": GREEN,
    "activations": GREEN,
    "communication": VERMILION,
    "overhead": "#999999",
    "reserve": "#999999",
}
SPARE_COLOURS: Final = (ORANGE, PURPLE, YELLOW, BLACK)
LEAST_LABELLED: Final = 0.045  #: share of the tallest bar; thinner slices have no label


def time_breakdown(items: Sequence[Evidence]) -> Any:
    """Draw the seconds of a request by component, stacked per TP, with a panel per batch."""
    import altair as alt

    items = at_least_one([item for item in items if item.breakdown], "results with a breakdown")
    causes = _ordered(cause for item in items for cause in item.breakdown)
    tallest = max(sum(item.breakdown.values()) for item in items)  # the panels share their scale
    rows = [
        {
            "tp": f"TP={item.deployment.tp_size}",
            "batch": f"batch {item.workload.concurrency}",
            "cause": _words(cause),
            "order": causes.index(cause),
            "seconds": seconds,
            "total": total,
            "room": total * 1.07,
            "share": f"{seconds / total * 100:.0f} %"
            if seconds >= tallest * LEAST_LABELLED
            else "",
            "label": f"{number(total)} s",
        }
        for item in sorted(items, key=lambda i: (i.workload.concurrency, i.deployment.tp_size))
        for total in [sum(item.breakdown.values())]
        for cause, seconds in item.breakdown.items()
    ]
    base = alt.Chart(data(rows)).encode(
        x=alt.X("tp:N", title=None, sort=None, axis=alt.Axis(labelAngle=0))
    )
    y = alt.Y("seconds:Q", title="time of a request, s", stack="zero")
    middle = alt.Y("seconds:Q", stack="zero", bandPosition=0.5)
    white = alt.condition("datum.cause == 'weights'", alt.value("white"), alt.value(BLACK))
    once = base.transform_filter("datum.order == 0")
    layers = alt.layer(
        base.mark_bar(stroke="white", strokeWidth=0.7).encode(
            y=y, color=_part_colour("cause:N", causes), order="order:Q"
        ),
        base.mark_text(fontSize=10).encode(y=middle, text="share:N", order="order:Q", color=white),
        once.mark_text(dy=-7, fontSize=11).encode(y="total:Q", text="label:N"),
        once.mark_point(opacity=0).encode(y="room:Q"),  # keeps the total inside the panel
    ).properties(width=PANEL, height=300)
    return titled(by_batch(layers, rows), "Where the time of a request goes", caption(items)[:-1])


def memory_per_gpu(uses: Sequence[MemoryUse], title: str, subtitle: Sequence[str] = ()) -> Any:
    """Draw the memory of one GPU of each kind by part, its capacity as a line, and whether it
    fits."""
    import altair as alt

    uses = at_least_one(uses, "GPUs")
    parts = _ordered(part for use in uses for part in use.parts)
    rows = [
        {
            "gpu": _use_label(use),
            "part": _words(part),
            "order": parts.index(part),
            "gb": size / GB,
        }
        for use in uses
        for part, size in use.parts.items()
    ]
    limits = [
        {
            "gpu": _use_label(use),
            "capacity": use.capacity_bytes / GB,
            "end": max(use.capacity_bytes, sum(use.parts.values())) / GB,
            "fit": fit_words(use),
            "fits": use.short_bytes <= 0,
        }
        for use in uses
    ]
    y = alt.Y("gpu:N", title=None, sort=None)
    largest = max(max(use.capacity_bytes, sum(use.parts.values())) for use in uses)
    room = alt.Scale(domain=[0, largest / GB * 1.25], nice=False)
    axis = alt.Axis(labelFlush=False, tickCount=8)
    x = alt.X("gb:Q", title="memory of one GPU, GB", stack="zero", scale=room, axis=axis)
    bars = alt.Chart(data(rows)).mark_bar(size=14, stroke="white", strokeWidth=0.7)
    base = alt.Chart(data(limits)).encode(y=y)
    chart = alt.layer(
        bars.encode(x=x, y=y, color=_part_colour("part:N", parts), order="order:Q"),
        base.mark_tick(color=BLACK, thickness=3, size=20, opacity=1).encode(x="capacity:Q"),
        base.mark_text(align="left", dx=8, fontSize=11).encode(
            x="end:Q",
            text="fit:N",
            color=alt.condition("datum.fits", alt.value(GREY), alt.value("#B03A00")),
        ),
    ).properties(width=560, height=alt.Step(21))
    return titled(chart, title, (*subtitle, "thick line: memory that the engine may use"))


def _part_colour(field: str, parts: Sequence[str]) -> Any:
    import altair as alt

    spare = iter(SPARE_COLOURS * (1 + len(parts) // len(SPARE_COLOURS)))
    colours = [PART_COLOURS.get(part) or next(spare) for part in parts]
    scale = alt.Scale(domain=[_words(part) for part in parts], range=colours)
    return alt.Color(field, title=None, scale=scale, sort=None)


def _ordered(parts: Iterable[str]) -> list[str]:
    """Return the different parts, those with a fixed colour first, in the order of PART_COLOURS."""
    found = dict.fromkeys(parts)
    return [p for p in PART_COLOURS if p in found] + [p for p in found if p not in PART_COLOURS]


def _words(name: str) -> str:
    return name.replace("_", " ").replace("kv", "KV")


def _use_label(use: MemoryUse) -> str:
    sold_as = f", {use.nameplate_gb:g} GB" if use.nameplate_gb else ""
    return f"{use.gpu}{sold_as}"
