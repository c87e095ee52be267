"""Figure of the cost of a million output tokens at each TP: one replica and a full node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardwise import metrics
from shardwise.analysis.cost import NodeCost
from shardwise.reports.cells import at_least_one
from shardwise.reports.decision_tables import SCENARIO_LABELS
from shardwise.reports.figure_style import (
    BLACK,
    BLUE,
    PANEL,
    SKY,
    by_batch,
    data,
    titled,
)
from shardwise.reports.numbers import number


def token_cost(costs: Sequence[NodeCost], subtitle: Sequence[str] = ()) -> Any:
    """Draw the cost per million output tokens of one replica and a full node: bars per TP, panels
    per batch.

    In USD, or in GPU-hours if no price is known.
    """
    import altair as alt

    known = at_least_one([c for c in costs if c.scenario != "same_load"], "costs")
    unit = metrics.ALL[known[0].cost_metric].unit.partition("/")[0]
    rows = [
        {
            "tp": f"TP={c.tp_size}",
            "batch": f"batch {c.concurrency} per replica",
            "use": SCENARIO_LABELS[c.scenario],
            "cost": c.cost.value,
            "lo": c.cost.lo,
            "hi": c.cost.hi,
            "label": number(c.cost.value),
        }
        for c in sorted(known, key=lambda c: (c.concurrency, c.tp_size))
    ]
    uses = list(dict.fromkeys(SCENARIO_LABELS[c.scenario] for c in known))
    base = alt.Chart(data(rows)).encode(
        x=alt.X("tp:N", title=None, sort=None, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("use:N", sort=uses),
    )
    room = alt.Scale(domain=[0, max(c.cost.hi for c in known) * 1.1], nice=False)
    y = alt.Y("cost:Q", title=f"{unit} per million output tokens", scale=room)
    colour = alt.Color(
        "use:N",
        title=None,
        sort=uses,
        scale=alt.Scale(domain=uses, range=[SKY, BLUE]),
        legend=alt.Legend(orient="top"),
    )
    layers = alt.layer(
        base.mark_bar().encode(y=y, color=colour),
        base.mark_rule(color=BLACK, strokeWidth=1.5).encode(y="lo:Q", y2="hi:Q"),
        base.mark_text(dy=-7, fontSize=10).encode(y="hi:Q", text="label:N"),
    ).properties(width=PANEL, height=260)
    note = (
        f"{known[0].gpus} GPUs paid for; one replica: the others are idle; full node: as many "
        f"replicas as "
        "fit; lines: 80 % intervals"
    )
    return titled(
        by_batch(layers, rows), "Cost of a million output tokens by TP", (*subtitle, note)
    )
