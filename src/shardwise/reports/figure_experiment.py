"""Figures of a measured study: cells with predictions, and the learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from shardwise import metrics
from shardwise.experiment.correct import Compared, CurvePoint
from shardwise.reports.cells import at_least_one
from shardwise.reports.figure_style import BLACK, BLUE, GREY, PANEL, VERMILION, data, titled
from shardwise.reports.numbers import scale_for

PANELS: Final = (metrics.E2E, metrics.TPOT)
CURVES: Final = {metrics.E2E.name: BLUE, metrics.TPOT.name: VERMILION}
#: kind -> (colour, shape, filled): measured and predicted look different
DRAWN: Final = {
    "measured": (BLACK, "square", True),
    "predicted before": (GREY, "circle", False),
    "predicted, calibrated": (BLUE, "circle", True),
}


def measured_predicted(compared: Sequence[Compared], subtitle: Sequence[str]) -> Any:
    """Draw a row per metric and a panel per split: the closed loop, measured and predicted, by
    batch."""
    import altair as alt

    usable = at_least_one(
        [c for c in compared if c.usable and c.before and c.cell.workload.mode == "closed_loop"],
        "cells both predicted and measured",
    )
    panels = [_panel(usable, metric, alt) for metric in PANELS]
    n = sum(c.measured.metrics[metrics.E2E.name].n for c in usable)
    note = f"lines: 80 % intervals; closed loop, n = {n} requests measured"
    return titled(alt.vconcat(*panels, spacing=24), "Measured and predicted", (*subtitle, note))


def _panel(usable: Sequence[Compared], metric: metrics.Metric, alt: Any) -> Any:
    measured = [
        c.measured.metrics[metric.name] for c in usable if metric.name in c.measured.metrics
    ]
    scale = scale_for(measured, metric.unit)
    rows = [
        {
            "split": c.cell.split.label,
            "batch": c.cell.workload.concurrency,
            "kind": kind,
            "value": made.metrics[metric.name].value / scale.factor,
            "lo": made.metrics[metric.name].lo / scale.factor,
            "hi": made.metrics[metric.name].hi / scale.factor,
        }
        for c in usable
        for kind, made in zip(DRAWN, (c.measured, c.before, c.after), strict=True)
        if made and metric.name in made.metrics
    ]
    drawn = {row["kind"] for row in rows}
    kinds = [kind for kind in DRAWN if kind in drawn]  # no legend entry without a mark
    colour = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=kinds, range=[DRAWN[k][0] for k in kinds]),
    )
    base = alt.Chart().encode(
        x=alt.X("batch:O", title="batch", axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("kind:N", scale=alt.Scale(domain=kinds)),
        color=colour,
    )
    y = alt.Y("lo:Q", title=f"{metric.label}, {scale.unit}", scale=alt.Scale(type="log"))
    points = base.mark_point(size=45, opacity=1).encode(
        y="value:Q",
        shape=alt.Shape(
            "kind:N",
            title=None,
            scale=alt.Scale(domain=kinds, range=[DRAWN[k][1] for k in kinds]),
        ),
        fill=alt.condition(alt.datum.kind == "predicted before", alt.value("white"), colour),
    )
    layers = alt.layer(base.mark_rule(strokeWidth=1.5).encode(y=y, y2="hi:Q"), points)
    order = list(dict.fromkeys(row["split"] for row in rows))
    return (
        layers.properties(width=PANEL - 40, height=170, data=data(rows))
        .facet(facet=alt.Facet("split:N", title=None, sort=order), columns=2)
        .properties(title=alt.TitleParams(metric.label, fontSize=12))
    )


def learning_curve(points: Sequence[CurvePoint], subtitle: Sequence[str]) -> Any:
    """Draw the error on held-out cells by the number of measured cells: median and range of
    draws."""
    import altair as alt

    shown = at_least_one([p for p in points if p.metric in CURVES], "points of a learning curve")
    rows = [
        {
            "metric": metrics.ALL[p.metric].label,
            "cells": p.cells,
            "error": p.median_pct,
            "lo": p.lo_pct,
            "hi": p.hi_pct,
        }
        for p in shown
    ]
    known = {p.metric for p in shown}
    names = [name for name in CURVES if name in known]
    labels = [metrics.ALL[name].label for name in names]
    base = alt.Chart(data(rows)).encode(
        x=alt.X("cells:Q", title="cells used for calibration", axis=alt.Axis(tickMinStep=1)),
        color=alt.Color(
            "metric:N", title=None, scale=alt.Scale(domain=labels, range=[CURVES[n] for n in names])
        ),
    )
    y = alt.Y("error:Q", title="mean error on held-out cells, %", scale=alt.Scale(zero=True))
    chart = alt.layer(
        base.mark_area(opacity=0.15).encode(y="lo:Q", y2="hi:Q"),
        base.mark_line(point=True).encode(y=y),
    ).properties(width=2 * PANEL, height=230)
    draws = max(p.draws for p in shown)
    note = f"line: median of {draws} random choices of cells; band: their range"
    return titled(chart, "How few measurements suffice", (*subtitle, note))
