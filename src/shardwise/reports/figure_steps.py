"""Figures of the change per TP step, from one or two sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardwise import metrics
from shardwise.analysis.transitions import Step, StepPair
from shardwise.reports.cells import at_least_one, step_label
from shardwise.reports.figure_style import BLACK, BLUE, PANEL, SKY, by_batch, data, sources, titled
from shardwise.reports.numbers import percent


def tp_steps(pairs: Sequence[StepPair], remark: str = "") -> Any:
    """Draw steps up of one source as filled bars with intervals, of the other as dashed outlines.

    A row per metric, a column per batch. `remark` is a last line on what else differs between them.
    """
    import altair as alt

    up = at_least_one(
        [pair for pair in pairs if pair.ours.is_up], "steps up that both sources have"
    )
    ours, reference = up[0].ours.source, up[0].reference.source
    by_metric = {
        metric: [pair for pair in up if pair.ours.metric == metric]
        for metric in dict.fromkeys(pair.ours.metric for pair in up)
    }
    return titled(
        alt.vconcat(
            *(
                _step_panels(metric, [row for pair in some for row in _step_rows(pair)])
                for metric, some in by_metric.items()
            ),
            spacing=24,
        ),
        f"Change per TP step: {ours.kind} and {reference.kind}",
        (
            f"filled, with 80 % interval: {sources([ours])[0]}",
            f"dashed outline: {sources([reference])[0]}",
            *([remark] if remark else []),
        ),
    )


def tp_changes(steps: Sequence[Step]) -> Any:
    """Draw steps up of one source as filled bars with intervals."""
    import altair as alt

    up = at_least_one([step for step in steps if step.is_up], "steps up")
    panels = [
        _step_panels(metric, [_row("ours", step) for step in up if step.metric == metric])
        for metric in dict.fromkeys(step.metric for step in up)
    ]
    return titled(
        alt.vconcat(*panels, spacing=24),
        f"Change per TP step, {up[0].source.kind}",
        (f"with 80 % interval: {sources([up[0].source])[0]}",),
    )


def _step_panels(metric: str, rows: Sequence[dict[str, Any]]) -> Any:
    import altair as alt

    edges = [row["edge"] for row in rows]
    room = alt.Scale(domain=[min([0, *edges]) * 1.15, max([0, *edges]) * 1.15], nice=False)
    y = alt.Y("change:Q", title=f"{metrics.ALL[metric].label}, change in %", scale=room)
    base = alt.Chart(data(rows)).encode(
        x=alt.X("step:N", title=None, sort=None, axis=alt.Axis(labelAngle=0, orient="bottom")),
        xOffset=alt.XOffset("side:N", sort=["ours", "reference"]),
    )
    ours = "datum.side == 'ours'"
    label = {"y": alt.Y("edge:Q"), "text": alt.Text("label:N")}
    panel = alt.layer(
        base.transform_filter(ours).mark_bar(color=SKY).encode(y=y),
        base.transform_filter(f"!({ours})")
        .mark_bar(color="white", stroke=BLACK, strokeDash=[4, 3], strokeWidth=1.4)
        .encode(y=y),
        base.mark_rule(color=BLUE, strokeWidth=2).encode(y="lo:Q", y2="hi:Q"),
        base.transform_filter("datum.change < 0").mark_text(fontSize=11, dy=9).encode(**label),
        base.transform_filter("datum.change >= 0").mark_text(fontSize=11, dy=-8).encode(**label),
    )
    return by_batch(panel.properties(width=PANEL, height=190), rows)


def _step_rows(pair: StepPair) -> list[dict[str, Any]]:
    return [_row("ours", pair.ours), _row("reference", pair.reference)]


def _row(side: str, step: Step) -> dict[str, Any]:
    change, published = step.change_pct, step.source.kind == "published"
    lo, hi = (change.value, change.value) if published else (change.lo, change.hi)
    return {
        "metric": metrics.ALL[step.metric].label,
        "batch": f"batch {step.concurrency}",
        "step": step_label(step.from_tp, step.to_tp),
        "side": side,
        "change": change.value,
        "lo": lo,
        "hi": hi,
        "edge": lo if change.value < 0 else hi,
        "label": percent(change.value),
    }
