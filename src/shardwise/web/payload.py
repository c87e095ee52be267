"""Turn a state into the rows and texts that the page shows."""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import asdict, replace

from shardwise import metrics
from shardwise.analysis.intervals import scaled
from shardwise.analysis.layouts import LayoutCell
from shardwise.analysis.measured_comparison import beside, mean_absolute_error_pct
from shardwise.architecture.models import load
from shardwise.engines.registry import managed
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence, Interval
from shardwise.hosting.planned import Chosen, planned
from shardwise.perfmodel.node_gpu import device_order_of
from shardwise.reports.answer import Answer, Shown, in_flight, layout_words, title_of
from shardwise.reports.comparing import Compared, Side, compared_rows, compared_words
from shardwise.reports.engine_commands import engine_commands
from shardwise.reports.figure_pareto import VIEWS, Series, pareto_rows, runner_up_of
from shardwise.reports.html.ranking import ranking_table
from shardwise.reports.numbers import number, scale_for, value_and_bounds
from shardwise.reports.plan_tables import rejected_lines
from shardwise.web.asking import Explorer, Found, cells_of, compared, found_of
from shardwise.web.state import State, StateError, written

#: Requests in flight per replica shown in the grid, a subset of the chart's.
GRID_BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SHOWN: Final = ("ttft_s", "tpot_s", "e2e_latency_s", "output_tok_s", "total_tok_s")


def payload(known: Explorer, state: State) -> dict[str, Any]:
    """Return the page's main content for a state, for JSON. Raises StateError."""
    found = found_of(known, state)
    cell = picked_cell(found)
    view = VIEWS[state.axis]
    sides = sides_of(known, found)
    drawn = [side.series for side in sides if side.series]
    return {
        "state": written(state),
        "name": f"{state.model} on {state.gpus} × {state.gpu}",
        "answers": [_answer(a) for a in found.answers],
        "commands": _commands(found),
        "terminal": list(found.commands),
        "deploy_problem": deploy_problem(found),
        "chart": {
            "rows": pareto_rows(
                drawn, view, cell if _apart(found, cell) and len(sides) == 1 else None
            ),
            "x": view.x_title,
            "y": view.y_title,
        },
        "compare": {
            "lead": compared_words(sides),
            "rows": [_compared(row) for row in compared_rows(sides)] if len(sides) > 1 else [],
        },
        "ranking": _ranking(found),
        "grid": _grid(found, cell),
        "cell": _cell(cell, found),
        "beside": _beside(found),
        "source": cell.source.name,
    }


def _apart(found: Found, cell: Evidence) -> bool:
    """Return whether the selected cell differs from the answer."""
    return found.answer.shown is None or cell is not found.answer.shown.evidence


def sides_of(known: Explorer, found: Found) -> list[Side]:
    """Return the state's own subject, then those compared with it."""
    models = bool(found.state.vs_model)
    return [
        _side(found, models=models),
        *(_other(known, state, models=models) for state in compared(found.state)),
    ]


def _other(known: Explorer, state: State, *, models: bool) -> Side:
    """Return a compared subject, or why it cannot answer the same question."""
    try:
        return _side(found_of(known, state, ("online",)), models=models)
    except StateError as error:
        problem = "; ".join(error.problems.values())
        arch, gpu = load(state.model), known.catalogue.gpu(state.gpu)
        return Side(_name(state, models=models), arch, gpu, 0, problem=problem)


def _side(found: Found, *, models: bool) -> Side:
    """Return a subject for a comparison; with `models`, subjects are named with their model."""
    return Side(
        _name(found.state, models=models),
        found.question.arch,
        found.subject.gpu,
        found.question.context,
        found.answer,
        found.ground,
        _series(found, models=models),
    )


def _name(state: State, *, models: bool) -> str:
    gpus = f"{state.gpus} × {state.gpu}"
    return f"{state.model} on {gpus}" if models else gpus


def _compared(row: Compared) -> dict[str, Any]:
    return {**asdict(row), "numbers": [asdict(n) for n in row.numbers]}


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "use": answer.use,
        "asked": answer.asked,
        "found": answer.found,
        "title": answer.title,
        "line": answer.line,
        "in_flight": in_flight(answer.shown.evidence) if answer.shown else "",
        "numbers": [asdict(n) for n in answer.numbers],
        "chips": [asdict(c) for c in answer.chips],
        "why": answer.why,
        "ground": answer.ground,
        "note": answer.note,
    }


def _series(found: Found, *, models: bool) -> Series:
    demand, state = found.question.demand, found.state
    return Series(
        name=f"{state.model}, {state.gpu}" if models else state.gpu,
        gpus=found.question.node.gpus,
        cells=found.cells,
        answer=found.answer,
        slo=found.question.slo,
        runner_up=runner_up_of(found.layouts),
        measured=found.measured,
        rate_tok_s=(demand.request_rate or 0.0) * demand.osl,
    )


def _commands(found: Found) -> dict[str, Any]:
    """Return the commands of the answer's replicas; empty if nothing meets the bounds."""
    shown = found.answer.shown
    if shown is None or not found.answer.found:
        return {"lines": [], "files": [], "note": "", "problem": "nothing meets the bounds"}
    d, arch = shown.evidence.deployment, found.question.arch
    order = device_order_of(found.files, d.gpu, d.tp_size)
    return asdict(engine_commands(found.state.model, arch, found.subject.gpu, d, order))


def deploy_problem(found: Found) -> str:
    """Return why there is no deployment file for the state; "" if there is one."""
    shown = found.answer.shown
    if shown is None or not found.answer.found:
        return "nothing meets the bounds, so there is nothing to deploy"
    d = shown.evidence.deployment
    if d.engine not in managed():
        return f"a deployment file cannot start {d.engine}"
    try:
        planned([chosen_of(found, shown)], found.question.node.gpus)
    except InputError as error:
        return str(error)
    return ""


def chosen_of(found: Found, shown: Shown) -> Chosen:
    """Return the answer in the form of a deployment file."""
    d = shown.evidence.deployment
    order = device_order_of(found.files, d.gpu, d.tp_size)
    return Chosen(found.state.model, found.question.arch, found.subject.gpu, d, order=order)


def _ranking(found: Found) -> dict[str, Any]:
    """Return the planner's ranking: layouts that meet the bounds, miss them, or cannot run."""
    layouts = found.layouts
    if layouts is None:
        return {"columns": [], "rows": [], "rejected": [], "note": ""}
    table = ranking_table(layouts)
    return {
        "columns": [{"title": c.title, "unit": c.unit, "align": c.align} for c in table.columns],
        "rows": [
            {"meets": i < len(layouts.ranked), "cells": [[c.text, c.detail] for c in row]}
            for i, row in enumerate(table.rows)
        ],
        "rejected": rejected_lines(layouts.rejected),
        "note": " ".join(table.notes),
    }


def _grid(found: Found, cell: Evidence) -> dict[str, Any]:
    """Return every layout at the batches of a table, each with its first shortcoming."""
    picked = (cell.deployment.layout.name, cell.workload.concurrency)
    rows = []
    for c in found.cells:
        if c.concurrency not in GRID_BATCHES:
            continue
        per_gpu = c.metrics["output_tok_s"].value / c.layout.replica_gpus
        rows.append(
            {
                "layout": c.layout.name,
                "batch": c.concurrency,
                "tpot": f"{number(c.metrics['tpot_s'].value * 1e3)} ms",
                "per_gpu": f"{number(per_gpu)} tok/s",
                "short": _short_of(c, found),
                "picked": picked == (c.layout.name, c.concurrency),
            }
        )
    return {
        "layouts": [{"id": n, "name": layout_words(n)} for n in found.layout_names],
        "rows": rows,
    }


def _short_of(cell: LayoutCell, found: Found) -> str:
    """Return the first shortcoming of a cell; "" for none."""
    demand = found.question.demand
    if cell.kv_limited:
        return "KV cache full"
    for name, bound in found.question.slo.bounds().items():
        if name in cell.metrics and cell.metrics[name].value > bound:
            return f"misses {metrics.ALL[name].label}"
    carried = cell.layout.replicas * cell.metrics["output_tok_s"].value / demand.osl
    if demand.request_rate and carried < demand.request_rate:
        return f"{number(carried)} requests/s"
    return ""


def picked_cell(found: Found) -> Evidence:
    """Return the selected cell: the state's if it names one, else the answer's."""
    state, shown = found.state, found.answer.shown
    name = state.layout or (shown.layout if shown else found.cells[0].layout.name)
    if name not in found.layout_names:
        allowed = ", ".join(found.layout_names)
        raise StateError({"layout": f"no layout {name[:40]!r} here; allowed: {allowed}"})
    if shown is not None and name == shown.layout and state.batch in (0, _batch(shown)):
        return shown.evidence
    layout = next(c.layout for c in found.cells if c.layout.name == name)
    batch = state.batch or (_batch(shown) if shown else found.cells[0].concurrency)
    return cells_of(found, [(layout, batch)])[0]


def _batch(shown: Shown) -> int:
    return shown.evidence.workload.concurrency


def _cell(cell: Evidence, found: Found) -> dict[str, Any]:
    """Return one cell: its metrics, and the rate that its node sustains."""
    d, gpus = cell.deployment, found.question.node.gpus
    copies = gpus // d.layout.replica_gpus
    measured = {m.metric: m.measured for m in beside([_one(cell)], map(_one, found.measured))}
    rows = [
        {
            "name": metrics.ALL[name].label,
            "text": _written(cell.metrics[name], metrics.ALL[name].unit),
            "measured": _written(measured[name], metrics.ALL[name].unit)
            if name in measured
            else "",
        }
        for name in SHOWN
        if name in cell.metrics
    ]
    carried = scaled(cell.metrics["output_tok_s"], copies / found.question.demand.osl)
    name = "Requests/s of the node"
    rows.append({"name": name, "text": _written(carried, ""), "measured": ""})
    layout = d.layout if d.replicas == copies else d.with_layout(replicas=copies).layout
    return {
        "layout": layout.name,
        "title": title_of(layout),
        "batch": cell.workload.concurrency,
        "kind": cell.source.kind,
        "metrics": rows,
    }


def _one(item: Evidence) -> Evidence:
    """Return the evidence of one replica."""
    return replace(item, deployment=item.deployment.with_layout(replicas=1))


def _written(value: Interval, unit: str) -> str:
    """`48.5 ms (44.5–52.9)`."""
    scale = scale_for([value], unit)
    text, bounds = value_and_bounds(value, scale)
    return " ".join(part for part in (text, scale.unit, bounds) if part)


def _beside(found: Found) -> list[str]:
    """Return the prediction errors against the overlaid study, one line per metric."""
    if not found.state.study:
        return []
    if not found.measured:
        return ["The study in the store has no cells with this model, GPU, lengths and batches."]
    asked = [(e.deployment.layout, e.workload.concurrency) for e in found.measured]
    pairs = beside(map(_one, cells_of(found, asked)), map(_one, found.measured))
    lines = []
    for name in dict.fromkeys(p.metric for p in pairs):
        some = [p for p in pairs if p.metric == name]
        inside = sum(p.is_covered for p in some)
        lines.append(
            f"{metrics.ALL[name].label}: mean error {mean_absolute_error_pct(some):.1f} % "
            f"(n={len(some)}), {inside} of {len(some)} in the predicted interval"
        )
    return lines
