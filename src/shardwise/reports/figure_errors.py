"""Figure of the prediction error of each cell of a study, in percent with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from shardwise import metrics
from shardwise.analysis.measured_comparison import CellPair
from shardwise.reports.cells import at_least_one
from shardwise.reports.figure_style import BLACK, PANEL, data, titled, tp_colour

SHOWN: Final = ("ttft_s", "tpot_s", "e2e_latency_s", "output_tok_s")


def cell_errors(pairs: Sequence[CellPair], subtitle: Sequence[str] = ()) -> Any:
    """Draw a panel per metric: prediction error by batch, one colour per TP.

    The line through a point is the predicted 80 % interval relative to the measured value; if it
    crosses 0, the interval contains the measurement.
    """
    import altair as alt

    known = at_least_one(
        [p for p in pairs if p.metric in SHOWN], "cells both predicted and measured"
    )
    panels = [
        _panel([p for p in known if p.metric == metric], known, alt)
        for metric in SHOWN
        if any(p.metric == metric for p in known)
    ]
    rows = [alt.hconcat(*panels[i : i + 2], spacing=28) for i in range(0, len(panels), 2)]
    note = "point: predicted / measured - 1; line: predicted 80 % interval, correct if it crosses 0"
    return titled(
        alt.vconcat(*rows, spacing=24), "Prediction error of each cell", (*subtitle, note)
    )


def _panel(pairs: Sequence[CellPair], every: Sequence[CellPair], alt: Any) -> Any:
    rows = [
        {
            "tp": f"TP={p.tp_size}",
            "batch": p.concurrency,
            "error": p.error_pct,
            "lo": metrics.percent_change(p.measured.value, p.predicted.lo),
            "hi": metrics.percent_change(p.measured.value, p.predicted.hi),
        }
        for p in sorted(pairs, key=lambda p: (p.concurrency, p.tp_size))
    ]
    tps = [f"TP={tp}" for tp in sorted({p.tp_size for p in every})]
    batches = sorted({p.concurrency for p in every})
    base = alt.Chart(data(rows)).encode(
        x=alt.X(
            "batch:O",
            title="batch per replica",
            scale=alt.Scale(domain=batches),
            axis=alt.Axis(labelAngle=0),
        ),
        xOffset=alt.XOffset("tp:N", scale=alt.Scale(domain=tps)),
        color=tp_colour([p.tp_size for p in every]),
    )
    zero = alt.Chart(data([{}])).mark_rule(color=BLACK, strokeDash=[4, 3]).encode(y=alt.datum(0))
    return alt.layer(
        zero,
        base.mark_rule(strokeWidth=2, opacity=0.6).encode(
            y=alt.Y("lo:Q", title="error, %"), y2="hi:Q"
        ),
        base.mark_point(filled=True, size=45, opacity=1).encode(y="error:Q"),
    ).properties(
        width=PANEL,
        height=190,
        title=alt.TitleParams(
            f"{metrics.ALL[pairs[0].metric].label}, n = {len(pairs)}", fontSize=12
        ),
    )
