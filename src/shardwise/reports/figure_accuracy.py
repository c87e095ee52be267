"""Figure of predicted against measured values, one point per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shardwise import metrics
from shardwise.reports.cells import at_least_one
from shardwise.reports.figure_style import BLACK, GREY, TP_COLOURS, data, titled
from shardwise.reports.numbers import scale_for

if TYPE_CHECKING:
    from shardwise.perfmodel.validation import Point

PANEL_SIZE = 230


def predicted_measured(points: Sequence[Point]) -> Any:
    """Draw a panel per metric: measured on x, predicted on y, with lines at equality and ±10 %."""
    import altair as alt

    points = at_least_one(points, "measured rows")
    groups = sorted({f"{p.row.gpu} {p.row.engine}" for p in points})
    panels = []
    for metric in dict.fromkeys(p.metric for p in points):
        some = [p for p in points if p.metric == metric]
        panels.append(_panel(metric, some, groups, alt))
    rows = [alt.hconcat(*panels[i : i + 2], spacing=28) for i in range(0, len(panels), 2)]
    return titled(
        alt.vconcat(*rows, spacing=24),
        "Predicted against measured",
        ("one point per row; solid line: equal; dashed: ±10 %",),
    )


def _panel(metric: str, points: Sequence[Point], groups: Sequence[str], alt: Any) -> Any:
    known = metrics.ALL[metric]
    shown = scale_for([p.measured for p in points], known.unit)  # s, ms or µs
    low = 0.8 * min(min(p.measured, p.predicted) for p in points) / shown.factor
    high = 1.25 * max(max(p.measured, p.predicted) for p in points) / shown.factor
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    rows = [
        {
            "measured": p.measured / shown.factor,
            "predicted": p.predicted / shown.factor,
            "group": f"{p.row.gpu} {p.row.engine}",
        }
        for p in points
    ]
    ends = [
        {"measured": x, "predicted": x * factor, "factor": factor}
        for factor in (1.0, 0.9, 1.1)
        for x in (low, high)
    ]
    colour = alt.Color(
        "group:N",
        title=None,
        scale=alt.Scale(domain=list(groups), range=list(TP_COLOURS[: len(groups)])),
    )
    axis = {"axis": alt.Axis(tickCount=5, format=",.4~r")}
    x = alt.X("measured:Q", title=f"measured {known.label}, {shown.unit}", scale=scale, **axis)
    y = alt.Y("predicted:Q", title=f"predicted, {shown.unit}", scale=scale, **axis)
    lines = (
        alt.Chart(data(ends))
        .mark_line(color=GREY, clip=True)
        .encode(
            x=x,
            y=y,
            detail="factor:N",
            strokeDash=alt.condition("datum.factor == 1", alt.value([1, 0]), alt.value([4, 3])),
        )
    )
    dots = alt.Chart(data(rows)).mark_point(
        filled=True, size=22, opacity=0.55, stroke=BLACK, strokeWidth=0.2, clip=True
    )
    chart = alt.layer(lines, dots.encode(x=x, y=y, color=colour))
    return chart.properties(
        width=PANEL_SIZE, height=PANEL_SIZE, title=f"{known.label}, n = {len(points)}"
    )
