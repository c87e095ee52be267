"""Figure of throughput against user-visible speed, with the Pareto frontier of all layouts.

The chart's rows say what each is (`role`) and where names stand: one place decides what is shown.
The report draws them with Vega-Lite, the explorer in the browser (`web/static/chart.js`), where a
move of a slider has no time for more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec

from shardwise import metrics
from shardwise.analysis.frontier import pareto
from shardwise.analysis.intervals import reciprocal, scaled
from shardwise.analysis.layouts import LayoutCell, LayoutStudy
from shardwise.evidence.record import Evidence, Interval
from shardwise.reports.answer import Answer, Shown, layout_words, title_of
from shardwise.reports.figure_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    data,
    titled,
)
from shardwise.reports.label_places import Label, Paper
from shardwise.reports.numbers import number
from shardwise.workload.workload import Slo

#: Colours of subjects compared, in order; one subject alone has the first.
SERIES: Final = (BLUE, VERMILION, GREEN, ORANGE)
WIDTH: Final = 760
HEIGHT: Final = 360
#: Latencies beyond this many times the answer's are left out: a linear axis would show only them.
MOST_LATENCY: Final = 4.0
MEASURED: Final = BLACK
#: A layout's name is repeated only so far along the frontier, as a share of the axis.
AGAIN: Final = 0.35
_NAME: Final = Label(11, 8, 8)
_ANSWER_NAME: Final = Label(13, 11, 9)


class View(msgspec.Struct, frozen=True):
    """What the two axes are: a latency or its inverse across, throughput per GPU or node up."""

    metric: str
    x_title: str
    y_title: str
    per_gpu: bool
    rate: bool  #: across is tokens/s of one user, the inverse of the metric

    @property
    def side(self) -> str:
        """Of a frontier's point on which better values lie, and so no other of its points does."""
        return "right" if self.rate else "left"


VIEWS: Final[dict[str, View]] = {
    "tok_s_per_user": View(
        "tpot_s", "tokens/s per user (1 / TPOT)", "output tokens/s per GPU", True, True
    ),
    **{
        name: View(
            name, f"{metrics.ALL[name].label}, s", "output tokens/s of the node", False, False
        )
        for name in ("tpot_s", "ttft_s", "e2e_latency_s")
    },
}


class Series(msgspec.Struct, frozen=True):
    """One subject: its layouts' cells, its answer, and what was measured of it.

    Attributes:
        name: Short, at its answer: "h200".
        gpus: Of the node.
        measured: Laid over the predictions, one replica each.
        rate_tok_s: Output tokens/s that the rate asks of the node; 0: no rate.
    """

    name: str
    gpus: int
    cells: Sequence[LayoutCell]
    answer: Answer | None
    slo: Slo = msgspec.field(default_factory=Slo)
    runner_up: Shown | None = None
    measured: Sequence[Evidence] = ()
    rate_tok_s: float = 0.0


def runner_up_of(layouts: LayoutStudy | None) -> Shown | None:
    """The second of the ranking."""
    return Shown.of(layouts.ranked[1]) if layouts and len(layouts.ranked) > 1 else None


def pareto_rows(
    series: Sequence[Series], view: View, picked: Evidence | None = None
) -> list[dict[str, Any]]:
    """Every mark of the chart. `picked`, of the first series, has a ring: it is taken apart."""
    rows: list[dict[str, Any]] = []
    limit = _limit(series, view)
    alone = len(series) == 1
    for place, one in enumerate(series):
        colour = SERIES[place % len(SERIES)]
        found = _cells(one, view, colour)
        kept = [r for r in found if r["x"] <= limit]
        if alone:
            rows += kept
        marks = _answers(one, view, colour, limit)
        # the answer's own point too, which lies between the batches of the cells
        own = [m for m in marks if m["role"] != "runner-up"] if kept else []
        line = _frontier([*kept, *({k: m[k] for k in kept[0]} for m in own)], view)
        rows += [{**r, "role": "frontier", "order": i} for i, r in enumerate(line)]
        rows += marks if alone else [r for r in marks if r["role"] != "runner-up"]
        rows += [r for r in _measured(one, view, colour) if r["x"] <= limit]
    if picked and view.metric in picked.metrics:
        rows += [_picked(picked, series[0], view)]
    rows += _bounds(series, view, rows)
    return rows + _names(rows, view.side, alone=alone)


def _limit(series: Sequence[Series], view: View) -> float:
    """The largest value across that is drawn."""
    if view.rate:
        return float("inf")
    values = [
        s.answer.shown.evidence.metrics[view.metric].value
        for s in series
        if s.answer and s.answer.shown and view.metric in s.answer.shown.evidence.metrics
    ]
    bounds = [b for s in series for name, b in s.slo.bounds().items() if name == view.metric]
    return max(
        [MOST_LATENCY * v for v in values] + [1.25 * b for b in bounds], default=float("inf")
    )


def _cells(one: Series, view: View, colour: str) -> list[dict[str, Any]]:
    return [
        {
            "role": "cell",
            "series": one.name,
            "colour": colour,
            "layout": c.layout.name,
            "name": title_of(c.layout),
            "batch": c.concurrency,
            "x": _across(c.metrics[view.metric], view).value,
            "y": _up(scaled(c.metrics["output_tok_s"], c.layout.replicas), one, view).value,
        }
        for c in one.cells
        if not c.kv_limited
    ]


def _across(value: Interval, view: View) -> Interval:
    return reciprocal(value) if view.rate else value


def _up(node_tok_s: Interval, one: Series, view: View) -> Interval:
    return scaled(node_tok_s, 1.0 / one.gpus) if view.per_gpu else node_tok_s


def _frontier(rows: Sequence[dict[str, Any]], view: View) -> list[dict[str, Any]]:
    """Rows that no other beats on both axes."""
    sign = -1.0 if view.rate else 1.0
    return [rows[i] for i in pareto([(sign * r["x"], r["y"]) for r in rows])]


def _answers(one: Series, view: View, colour: str, limit: float) -> list[dict[str, Any]]:
    """The recommended point and the runner-up, with their intervals."""
    marked = [
        ("chosen", one.answer.shown if one.answer and one.answer.found else None),
        ("nearest", one.answer.shown if one.answer and not one.answer.found else None),
        ("runner-up", one.runner_up),
    ]
    rows = []
    for role, shown in marked:
        if shown is None or view.metric not in shown.evidence.metrics:
            continue
        x = _across(shown.evidence.metrics[view.metric], view)
        y = _up(shown.node_output_tok_s, one, view)
        if x.value > limit:
            continue
        rows.append(
            {
                "role": role,
                "series": one.name,
                "colour": colour,
                "layout": shown.layout,
                "name": shown.title,
                "batch": shown.evidence.workload.concurrency,
                **_spread("x", x),
                **_spread("y", y),
            }
        )
    return rows


def _picked(cell: Evidence, one: Series, view: View) -> dict[str, Any]:
    layout = cell.deployment.layout
    node = scaled(cell.metrics["output_tok_s"], one.gpus // layout.replica_gpus)
    return {
        "role": "picked",
        "series": one.name,
        "colour": SERIES[0],
        "layout": layout.name,
        "name": layout_words(layout.name),
        "batch": cell.workload.concurrency,
        "x": _across(cell.metrics[view.metric], view).value,
        "y": _up(node, one, view).value,
    }


def _spread(name: str, value: Interval) -> dict[str, float]:
    return {name: value.value, f"{name}_lo": value.lo, f"{name}_hi": value.hi}


def _measured(one: Series, view: View, colour: str) -> list[dict[str, Any]]:
    rows = []
    for e in one.measured:
        copies = one.gpus // e.deployment.layout.replica_gpus
        if view.metric not in e.metrics or "output_tok_s" not in e.metrics or not copies:
            continue
        rows.append(
            {
                "role": "measured",
                "series": one.name,
                "colour": colour,
                "layout": e.deployment.layout.name,
                "name": f"{title_of(e.deployment.with_layout(replicas=copies).layout)}, measured",
                "batch": e.workload.concurrency,
                "x": _across(e.metrics[view.metric], view).value,
                "y": _up(scaled(e.metrics["output_tok_s"], copies), one, view).value,
            }
        )
    return rows


def _names(rows: Sequence[dict[str, Any]], side: str, *, alone: bool) -> list[dict[str, Any]]:
    """The answers' names, then a name at the middle of each run of one layout along a frontier,
    where there is room."""
    points = [r for r in rows if r["role"] == "frontier"]
    answers = [r for r in rows if r["role"] in ("chosen", "nearest")]
    if not points:
        return []
    wide, high = (max(r.get(f"{v}_hi", r[v]) for r in (*points, *answers)) for v in ("x", "y"))
    paper = Paper(WIDTH, HEIGHT, wide or 1.0, high or 1.0)
    for _, line in groupby(points, key=lambda r: r["series"]):
        paper.line([(r["x"], r["y"]) for r in line])
    paper.line([(r["x"], r["y"]) for r in rows if r["role"] == "runner-up"])
    named: list[dict[str, Any]] = []
    for row in answers:
        text = row["name"] if alone else f"{row['series']}: {row['name']}"
        place = paper.best((row["x"], row["y"]), text, _ANSWER_NAME, side)
        named.append({**row, "role": "answer-name", "text": text, **paper.take(place)})
    runs = [list(run) for _, run in groupby(points, key=lambda r: (r["series"], r["layout"]))]
    for run in sorted(runs, key=len, reverse=True):
        middle, text = run[len(run) // 2], layout_words(run[0]["layout"])
        again = any(
            (n["layout"], n["series"]) == (middle["layout"], middle["series"])
            and abs(middle["x"] - n["x"]) < AGAIN * paper.wide
            for n in named
        )
        place = paper.best((middle["x"], middle["y"]), text, _NAME, side)
        if not place.hides and not again:
            named.append({**middle, "role": "name", "text": text, **paper.take(place)})
    return named


def _bounds(
    series: Sequence[Series], view: View, rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The bound on the metric across, and the rate asked, as lines; no line outside the chart."""
    drawn = [r for r in rows if "x" in r]
    if not drawn:
        return []
    found = []
    bound = series[0].slo.bounds().get(view.metric)
    if bound:
        x = 1.0 / bound if view.rate else bound
        text = f"{metrics.ALL[view.metric].label} ≤ {number(bound * 1e3, 0)} ms"
        if x <= 1.3 * max(r["x"] for r in drawn):
            found.append({"role": "bound-x", "x": x, "text": text, "colour": GREY})
    if series[0].rate_tok_s:
        y = series[0].rate_tok_s / (series[0].gpus if view.per_gpu else 1)
        text = "requested rate: layouts below it cannot sustain it"
        found.append({"role": "bound-y", "y": y, "text": text, "colour": GREY})
    return found


class _Axes(msgspec.Struct, frozen=True):
    """Encodings that the layers share."""

    x_title: str
    y_title: str

    def x(self, field: str = "x:Q") -> Any:
        import altair as alt

        return alt.X(field, title=self.x_title, scale=alt.Scale(zero=True, nice=True))

    def y(self, field: str = "y:Q") -> Any:
        import altair as alt

        return alt.Y(field, title=self.y_title, scale=alt.Scale(zero=True, nice=True))

    @property
    def at(self) -> dict[str, Any]:
        return {"x": self.x(), "y": self.y()}

    @property
    def tooltip(self) -> list[Any]:
        import altair as alt

        return [
            alt.Tooltip("series:N", title="on"),
            alt.Tooltip("name:N", title="layout"),
            alt.Tooltip("batch:Q", title="in flight per replica"),
            alt.Tooltip("x:Q", title=self.x_title, format=".3~r"),
            alt.Tooltip("y:Q", title=self.y_title, format=",.4~r"),
        ]


def pareto_layers(source: Any, x_title: str, y_title: str) -> Any:
    """The chart over rows of `pareto_rows`, which `source` holds as Altair data."""
    import altair as alt

    base, axes = alt.Chart(source), _Axes(x_title, y_title)
    return alt.layer(
        *_bound_layers(base, axes),
        *_point_layers(base, axes),
        *_answer_layers(base, axes),
        *_name_layers(base, axes),
    )


def _of(base: Any, *roles: str) -> Any:
    import altair as alt

    return base.transform_filter(alt.FieldOneOfPredicate(field="role", oneOf=list(roles)))


def _own_colour() -> Any:
    import altair as alt

    return alt.Color("colour:N", scale=None)


def _bound_layers(base: Any, axes: _Axes) -> list[Any]:
    import altair as alt

    upright, level = _of(base, "bound-x"), _of(base, "bound-y")
    rule = {"strokeDash": [6, 4], "color": GREY, "strokeWidth": 1.5}
    return [
        upright.mark_rule(**rule).encode(x=axes.x()),
        level.mark_rule(**rule).encode(y=axes.y()),
        # above the frame, where no point is
        upright.mark_text(align="center", baseline="bottom", fontSize=11).encode(
            x=axes.x(), y=alt.value(-4), text="text:N"
        ),
        level.mark_text(align="right", dx=-6, dy=-7, fontSize=11).encode(
            x=alt.value("width"), y=axes.y(), text="text:N"
        ),
    ]


def _point_layers(base: Any, axes: _Axes) -> list[Any]:
    import altair as alt

    own = {**axes.at, "color": _own_colour()}
    shown = {**own, "tooltip": axes.tooltip}
    line = _of(base, "frontier")
    return [
        _of(base, "cell").mark_point(size=16, filled=True, opacity=0.35).encode(**shown),
        line.mark_line(strokeWidth=2.5).encode(**own, detail="series:N", order="order:Q"),
        line.mark_point(size=36, filled=True, opacity=1).encode(**shown),
        _of(base, "measured")
        .mark_point(size=80, shape="square", strokeWidth=2, opacity=1)
        .encode(**axes.at, color=alt.value(MEASURED), tooltip=axes.tooltip),
        _of(base, "picked").mark_point(size=260, strokeWidth=2, opacity=1).encode(**own),
    ]


def _answer_layers(base: Any, axes: _Axes) -> list[Any]:
    import altair as alt

    own = {**axes.at, "color": _own_colour(), "tooltip": axes.tooltip}
    rule = _of(base, "chosen", "nearest", "runner-up").mark_rule(strokeWidth=1.5)
    colour = _own_colour()
    return [
        rule.encode(x=axes.x("x_lo:Q"), x2="x_hi:Q", y=axes.y(), color=colour),
        rule.encode(x=axes.x(), y=axes.y("y_lo:Q"), y2="y_hi:Q", color=colour),
        _of(base, "runner-up")
        .mark_point(size=150, shape="circle", strokeWidth=2.5, opacity=1)
        .encode(**own, fill=alt.value("white")),
        _of(base, "nearest")
        .mark_point(size=170, shape="cross", filled=True, opacity=1, angle=45)
        .encode(**own),
        _of(base, "chosen")
        .mark_point(size=260, shape="diamond", filled=True, opacity=1)
        .encode(**own),
    ]


def _name_layers(base: Any, axes: _Axes) -> list[Any]:
    """Names, each once as broad as to clear what is under it, once to be read. Their rows say
    where they stand."""
    import altair as alt

    halo = {"stroke": "white", "strokeWidth": 3, "strokeJoin": "round"}
    placed = {name: alt.ExprRef(f"datum.{name}") for name in ("align", "dx", "dy")}
    small = {"fontSize": _NAME.size, **placed}
    large = {"fontSize": _ANSWER_NAME.size, "fontWeight": "bold", **placed}
    return [
        _of(base, role).mark_text(**look, **under).encode(**axes.at, text="text:N")
        for role, look in (("name", small), ("answer-name", large))
        for under in (halo, {})
    ]


def pareto_figure(
    series: Sequence[Series], view: str, title: str, subtitle: Iterable[str] = ()
) -> Any:
    """The frontier as a figure of its own."""
    known = VIEWS[view]
    layers = pareto_layers(data(pareto_rows(series, known)), known.x_title, known.y_title)
    second = ", circle: runner-up" if len(series) == 1 else ""
    note = (
        f"line: no layout is better in both; diamond: recommended{second}, "
        "with 80 % intervals; "
        "dashed: requested bounds"
    )
    return titled(layers.properties(width=WIDTH, height=HEIGHT), title, [*subtitle, note])
