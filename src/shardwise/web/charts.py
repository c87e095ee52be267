"""The explorer's charts as Vega-Lite, each with one named data set that the page replaces.

Colours, dashes and shapes are those of the report's figures; each row brings its own colour.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from shardwise.reports.figure_style import BLUE, DASHES, ORANGE, SHAPES, SKY

HEIGHT: Final = 300
#: words that the page replaces by what its state and colour scheme have
AXIS: Final = "$latency"
UNIT: Final = "$unit"
PAPER: Final = "$paper"


@cache
def charts() -> dict[str, dict[str, Any]]:
    """Vega-Lite specifications by the name of the chart, which is that of its data."""
    made = {
        "points": _frontier(),
        "parts": _parts(),
        "steps": _steps(),
        "cost": _cost(),
        "memory": _memory(),
    }
    return {name: _finished(name, chart) for name, chart in made.items()}


def _finished(name: str, chart: Any) -> dict[str, Any]:
    import altair as alt

    spec: dict[str, Any] = (
        chart.properties(
            width="container",
            height=HEIGHT,
            data=alt.NamedData(name=name),
            autosize=alt.AutoSizeParams(type="fit", contains="padding"),
        )
    ).to_dict(validate=False)
    return spec


def _chart() -> Any:
    import altair as alt

    return alt.Chart(alt.NamedData(name="unnamed"))


def _own_colour() -> Any:
    import altair as alt

    return alt.Color("colour:N", scale=None)


def _frontier() -> Any:
    import altair as alt

    def log(field: str, title: str) -> dict[str, Any]:
        scale = alt.Scale(type="log", nice=False, padding=16)
        return {"field": field, "type": "quantitative", "scale": scale, "title": title}

    x = alt.X(**log("x", f"{AXIS}, s"))
    y = alt.Y(**log("y", "output throughput of the node, tok/s"))
    kinds = list(DASHES)
    dash = alt.StrokeDash("kind:N", legend=None, scale=alt.Scale(domain=kinds, range=list(DASHES.values())))  # noqa: E501  # fmt: skip
    shape = alt.Shape("kind:N", legend=None, scale=alt.Scale(domain=kinds, range=list(SHAPES.values())))  # noqa: E501  # fmt: skip
    plain = _chart()
    base = plain.encode(color=_own_colour())
    tooltip = [
        alt.Tooltip("tp:Q", title="TP"),
        alt.Tooltip("batch:Q", title="batch per copy"),
        alt.Tooltip("copies:Q", title="copies"),
        alt.Tooltip("kind:N", title="kind"),
        alt.Tooltip("x:Q", title=f"{AXIS}, s", format=".3g"),
        alt.Tooltip("y:Q", title="tok/s of the node", format=".4~r"),
    ]
    rule = base.mark_rule(opacity=0.35)
    return alt.layer(
        rule.encode(x=alt.X(**log("x_lo", f"{AXIS}, s")), x2="x_hi:Q", y=y),
        rule.encode(x=x, y=alt.Y(**log("y_lo", "output throughput of the node, tok/s")), y2="y_hi:Q"),  # noqa: E501
        base.mark_line(strokeWidth=2).encode(x=x, y=y, detail="line:N", order="batch:Q", strokeDash=dash),  # noqa: E501
        base.mark_point(size=70, strokeWidth=2, opacity=1).encode(
            x=x,
            y=y,
            shape=shape,
            fill=alt.condition("datum.efficient", alt.Fill("colour:N", scale=None), alt.value("transparent")),  # noqa: E501
            tooltip=tooltip,
        ),
        base.transform_filter("datum.selected")
        .mark_point(size=320, strokeWidth=2.5, shape="circle", fillOpacity=0)
        .encode(x=x, y=y),
        # the number once as broad as to clear the curves under it, once to be read
        *(
            plain.transform_filter("datum.named")
            .mark_text(dx=7, dy=9, align="left", fontSize=11, **halo)
            .encode(x=x, y=y, text="batch:Q")
            for halo in ({"stroke": PAPER, "strokeWidth": 3, "strokeJoin": "round"}, {})
        ),
    )  # fmt: skip


def _parts() -> Any:
    import altair as alt

    return (
        _chart()
        .mark_bar()
        .encode(
            x=alt.X("tp:O", title="TP", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("seconds:Q", title="time of a request, s"),
            color=_own_colour(),
            order="order:Q",
            tooltip=["tp:O", "cause:N", alt.Tooltip("seconds:Q", format=".3~s")],
        )
    )


def _steps() -> Any:
    import altair as alt

    base = _chart().encode(
        x=alt.X("step:N", title=None, sort=None, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("metric:N", sort=None),
    )
    colour = alt.Color(
        "metric:N",
        title=None,
        scale=alt.Scale(domain=["E2E latency", "total throughput"], range=[ORANGE, BLUE]),
        legend=None,
    )
    room = alt.Scale(padding=16)  # for the figures beyond the longest lines
    return alt.layer(
        base.mark_bar().encode(y=alt.Y("change:Q", title="change, %", scale=room), color=colour),
        base.mark_rule(strokeWidth=1.5).encode(y="lo:Q", y2="hi:Q"),
        base.transform_filter("datum.change >= 0")
        .mark_text(dy=-7, fontSize=10)
        .encode(y="hi:Q", text="label:N"),
        base.transform_filter("datum.change < 0")
        .mark_text(dy=9, fontSize=10)
        .encode(y="lo:Q", text="label:N"),
    )


def _cost() -> Any:
    import altair as alt

    uses = ["one copy", "full node"]
    base = _chart().encode(
        x=alt.X("tp:O", title="TP", sort=None, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("use:N", sort=None),
    )
    colour = alt.Color("use:N", legend=None, scale=alt.Scale(domain=uses, range=[SKY, BLUE]))
    return alt.layer(
        base.mark_bar().encode(
            y=alt.Y("cost:Q", title=f"{UNIT} per million output tokens"), color=colour
        ),
        base.mark_rule(strokeWidth=1.5).encode(y="lo:Q", y2="hi:Q"),
        base.mark_point(opacity=0).encode(y="room:Q"),  # for the figure above the longest line
        base.mark_text(dy=-7, fontSize=10).encode(y="hi:Q", text="label:N"),
    )


def _memory() -> Any:
    import altair as alt

    y = alt.Y("gpu:N", title=None, sort=None)
    x = alt.X("gb:Q", title="memory of one GPU, GB")
    base = _chart().encode(y=y)
    once = base.transform_filter("datum.order == 0")
    return alt.layer(
        base.mark_bar(size=14).encode(x=x, color=_own_colour(), order="order:Q"),
        once.mark_point(opacity=0).encode(x="room:Q"),  # for the words beside the longest bar
        once.mark_tick(thickness=3, size=22).encode(x="capacity:Q"),
        once.mark_text(align="left", dx=6, fontSize=10).encode(x="end:Q", text="fit:N"),
    )
