"""The explorer's chart as Vega-Lite, with one named data set that the page replaces.

It is the report's figure (`reports.figure_pareto`): the page puts its own titles, colours of text
and paper in place of the words below.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from shardwise.reports.figure_pareto import VIEWS, pareto_layers

X_TITLE: Final = "$x"
Y_TITLE: Final = "$y"
HEIGHT: Final = 330


@cache
def charts() -> dict[str, Any]:
    """Specifications by the side that names stand on, "left" and "right"."""
    return {side: _chart(side) for side in sorted({view.side for view in VIEWS.values()})}


def _chart(side: str) -> dict[str, Any]:
    import altair as alt

    layers = pareto_layers(alt.NamedData(name="points"), X_TITLE, Y_TITLE, side)
    spec: dict[str, Any] = layers.properties(
        width="container",
        height=HEIGHT,
        padding={"left": 5, "right": 5, "top": 18, "bottom": 5},
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
    ).to_dict(validate=False)
    return spec
