"""What a token costs at each TP, against the largest: one copy beside a full node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardwise.reports.cells import at_least_one
from shardwise.reports.decision_tables import SCENARIO_LABELS
from shardwise.reports.figure_style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PANEL,
    by_batch,
    data,
    titled,
)
from shardwise.reports.numbers import number
from shardwise.study.cost import NodeCost


def relative_cost(costs: Sequence[NodeCost], subtitle: Sequence[str] = ()) -> Any:
    """Cost per output token against the largest TP: one copy beside a full node, per batch."""
    import altair as alt

    known = at_least_one(
        [c for c in costs if c.relative is not None and c.scenario != "same_load"],
        "costs relative to the largest TP",
    )
    rows = [
        {
            "tp": f"TP={c.tp_size}",
            "batch": f"batch {c.concurrency} per copy",
            "use": SCENARIO_LABELS[c.scenario],
            "cost": c.relative.cost.value,
            "lo": c.relative.cost.lo,
            "hi": c.relative.cost.hi,
            "label": number(c.relative.cost.value, 2),
        }
        for c in known
        if c.relative is not None
    ]
    uses = list(dict.fromkeys(SCENARIO_LABELS[c.scenario] for c in known))
    shared = data(rows)
    base = alt.Chart(shared).encode(
        x=alt.X("tp:N", title=None, sort=None, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("use:N", sort=uses),
    )
    largest = max(c.tp_size for c in known)
    room = alt.Scale(domain=[0, max(c.relative.cost.hi for c in known if c.relative) * 1.1])
    y = alt.Y("cost:Q", title=f"cost per output token, times TP={largest}", scale=room)
    colour = alt.Color(
        "use:N",
        title=None,
        sort=uses,
        scale=alt.Scale(domain=uses, range=[ORANGE, BLUE]),
        legend=alt.Legend(orient="top"),
    )
    layers = alt.layer(
        base.mark_bar().encode(y=y, color=colour),
        base.mark_rule(color=BLACK, strokeWidth=1.5).encode(y="lo:Q", y2="hi:Q"),
        base.mark_text(dy=-7, fontSize=10).encode(y="hi:Q", text="label:N"),
        alt.Chart(shared).mark_rule(color=GREY, strokeDash=[4, 3]).encode(y=alt.datum(1)),
    ).properties(width=PANEL, height=260)
    note = (
        f"{known[0].gpus} GPUs paid for; one copy: the others idle; full node: as many copies as "
        "fit; bars with 80 % intervals"
    )
    return titled(by_batch(layers, rows), "Cost of an output token by TP", (*subtitle, note))
