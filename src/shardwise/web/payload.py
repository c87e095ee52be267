"""A study as the rows that the page draws and the words that it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import asdict

from shardwise import metrics
from shardwise.analysis.advice import Advice, NoAdvice, advise
from shardwise.analysis.beside import beside, mean_absolute_error_pct
from shardwise.analysis.breakeven import shares
from shardwise.analysis.frontier import Latency, points
from shardwise.analysis.rate import fits_for_rate
from shardwise.evidence.record import Evidence, Interval
from shardwise.reports.advice_words import advice_lines, copies_and_tp
from shardwise.reports.decision_tables import SCENARIO_LABELS
from shardwise.reports.figure_parts import PART_COLOURS, SPARE_COLOURS
from shardwise.reports.figure_style import colours_by_tp
from shardwise.reports.memory import fit_words
from shardwise.reports.numbers import number, percent, quantity, value_and_bounds
from shardwise.reports.study_output import StudyOutput
from shardwise.units import GB
from shardwise.web.asking import Explorer, compared, study_of
from shardwise.web.state import State, StateError

LATENCIES: Final[dict[str, Latency]] = {
    "e2e_latency_s": "e2e_latency_s",
    "tpot_s": "tpot_s",
    "ttft_s": "ttft_s",
}
SHOWN: Final = ("ttft_s", "tpot_s", "e2e_latency_s", "output_tok_s", "total_tok_s")


def payload(known: Explorer, state: State) -> dict[str, Any]:
    """Everything the page shows for a state, ready for JSON. Raises StateError."""
    output = study_of(known, state)
    other = compared(state)
    return {
        "state": asdict(state),
        **_one(output, state),
        "other": None if other is None else _other(known, other),
    }


def _other(known: Explorer, state: State) -> dict[str, Any]:
    """The study beside; its errors belong to the fields that chose it."""
    try:
        return {"state": asdict(state), **_one(study_of(known, state), state)}
    except StateError as error:
        field = {"model": "vs_model", "gpu": "vs_gpu"}
        raise StateError({field.get(k, "vs_gpu"): v for k, v in error.problems.items()}) from None


def _one(output: StudyOutput, state: State) -> dict[str, Any]:
    study = output.study
    tp_sizes = sorted({e.deployment.tp_size for e in study.evidence})
    colours = colours_by_tp(tp_sizes)
    cell = _chosen(output, state)
    at_batch = [e for e in study.evidence if e.workload.concurrency == state.batch]
    return {
        "advice": _answers(output, state),
        "skipped": [f"TP={s.tp_size} left out: {s.reason}" for s in study.skipped],
        "sources": list(dict.fromkeys(e.source.name for e in study.evidence)),
        "commands": [c for c in (output.about.command, output.about.plan) if c]
        if output.about
        else [],
        "tps": [{"tp": tp, "colour": colours[tp]} for tp in tp_sizes],
        "points": _points(output, state, colours, cell),
        "grid": _grid(study.evidence),
        "parts": _parts(at_batch),
        "steps": _steps(output, state),
        "cost": _cost(output, state),
        "memory": _memory(output),
        "memory_title": output.memory_title,
        "rates": _rates(output, state),
        "beside": _beside(output, state),
        "cell": _cell(cell, output),
    }


def _advised(advice: Advice | NoAdvice, line: str, use: str = "") -> dict[str, Any]:
    """A headline, and the rest of the sentence without it."""
    said = line.partition(": ")[2]
    if isinstance(advice, NoAdvice):
        head = {"headline": "nothing meets this", "tp": 0, "batch": 0}
        said = said.removeprefix("nothing meets this; ")
    else:
        headline = copies_and_tp(advice)
        head = {
            "headline": headline,
            "tp": advice.choice.tp_size,
            "batch": advice.choice.concurrency,
        }
        said = said.removeprefix(f"{headline}. ")
    return {"use": use or advice.use, "found": isinstance(advice, Advice), "line": said, **head}


def _answers(output: StudyOutput, state: State) -> list[dict[str, Any]]:
    """The planner's answers, and the best TP at the batch that the page is set to."""
    found = list(output.advice)
    uses = [
        f"{a.use} at {state.rate:g} requests/s" if state.rate and i == 0 else a.use
        for i, a in enumerate(found)
    ]
    here = [c for c in output.study.costs if c.concurrency == state.batch]
    if any(c.scenario == "full_node" for c in here):
        found.append(advise("online", found[0].slo, here, output.study.grid))
        uses.append(f"online at batch {state.batch} per copy")
    return [
        _advised(a, line, use)
        for a, line, use in zip(found, advice_lines(found), uses, strict=True)
    ]


def _chosen(output: StudyOutput, state: State) -> Evidence:
    """The cell to break down: the one asked, else the recommended TP's, at the state's batch."""
    advised = next((a.choice.tp_size for a in output.advice if isinstance(a, Advice)), 0)
    grid = output.study.grid
    for tp in (state.tp, advised):
        if (tp, state.batch) in grid:
            return grid[tp, state.batch]
    return next(e for e in output.study.evidence if e.workload.concurrency == state.batch)


def _points(
    output: StudyOutput, state: State, colours: dict[int, str], cell: Evidence
) -> list[dict[str, Any]]:
    axis = LATENCIES[state.axis]
    gpus = output.study.question.gpus
    found = (*points(output.study.evidence, gpus, axis), *points(output.measured, gpus, axis))
    return [
        {
            "tp": p.tp_size,
            "batch": p.concurrency,
            "copies": p.copies,
            "kind": p.evidence.source.kind,
            "colour": colours.get(p.tp_size, "#666666"),
            "line": f"{p.tp_size} {p.evidence.source.kind}",
            "efficient": p.is_efficient,
            "selected": p.evidence is cell,
            "named": p.evidence.source.kind == "predicted" and p.tp_size == cell.deployment.tp_size,
            **_spread("x", p.latency),
            **_spread("y", p.throughput),
        }
        for p in found
    ]


def _spread(name: str, value: Interval) -> dict[str, float]:
    return {name: value.value, f"{name}_lo": value.lo, f"{name}_hi": value.hi}


def _grid(evidence: Sequence[Evidence]) -> list[dict[str, Any]]:
    return [
        {
            "tp": e.deployment.tp_size,
            "batch": e.workload.concurrency,
            "tpot": f"{number(e.metrics['tpot_s'].value * 1e3)} ms",
            "out": f"{number(e.metrics['output_tok_s'].value)} tok/s",
        }
        for e in evidence
    ]


def _parts(evidence: Sequence[Evidence]) -> list[dict[str, Any]]:
    colours = _part_colours([cause for e in evidence for cause in e.breakdown])
    return [
        {
            "tp": e.deployment.tp_size,
            "cause": _words(cause),
            "order": list(colours).index(cause),
            "colour": colours[cause],
            "seconds": seconds,
        }
        for e in evidence
        for cause, seconds in e.breakdown.items()
    ]


def _part_colours(names: Sequence[str]) -> dict[str, str]:
    spare = iter(SPARE_COLOURS)
    return {n: PART_COLOURS.get(n) or next(spare, "#666666") for n in dict.fromkeys(names)}


def _steps(output: StudyOutput, state: State) -> list[dict[str, Any]]:
    return [
        {
            "step": f"TP{s.from_tp}→{s.to_tp}",
            "order": s.from_tp,
            "metric": metrics.ALL[s.metric].label,
            "change": s.change_pct.value,
            "lo": s.change_pct.lo,
            "hi": s.change_pct.hi,
            "label": percent(s.change_pct.value, 0),
        }
        for s in output.study.steps
        if s.is_up and s.concurrency == state.batch
    ]


def _cost(output: StudyOutput, state: State) -> list[dict[str, Any]]:
    return [
        {
            "tp": c.tp_size,
            "use": SCENARIO_LABELS[c.scenario],
            "cost": c.cost.value,
            "lo": c.cost.lo,
            "hi": c.cost.hi,
            "room": c.cost.hi * 1.08,
            "label": number(c.cost.value),
            "unit": metrics.ALL[c.cost_metric].unit,
            "copies": c.copies,
            "node": number(c.output_tok_s.value),
        }
        for c in output.study.costs
        if c.scenario != "same_load" and c.concurrency == state.batch
    ]


def _memory(output: StudyOutput) -> list[dict[str, Any]]:
    colours = _part_colours([part for use in output.memory for part in use.parts])
    longest = max((max(u.capacity_bytes, sum(u.parts.values())) for u in output.memory), default=0)
    return [
        {
            "gpu": use.gpu,
            "part": _words(part),
            "order": list(colours).index(part),
            "colour": colours[part],
            "gb": size / GB,
            "capacity": use.capacity_bytes / GB,
            "end": max(use.capacity_bytes, sum(use.parts.values())) / GB,
            "room": longest / GB * 1.3,
            "fit": fit_words(use),
        }
        for use in output.memory
        for part, size in use.parts.items()
    ]


def _rates(output: StudyOutput, state: State) -> list[dict[str, Any]]:
    if not state.rate:
        return []
    return [
        {
            "tp": fit.tp_size,
            "copies": fit.copies,
            "batch": fit.at.concurrency if fit.at else None,
            "e2e": quantity(fit.at.e2e_latency_s, "s") if fit.at else "",
            "most": f"{number(fit.most_requests_per_s)} requests/s",
        }
        for fit in fits_for_rate(output.study.costs, state.rate, state.osl)
    ]


def _beside(output: StudyOutput, state: State) -> list[str]:
    """How far the predictions are from the study laid over them, a line a metric."""
    if not state.study:
        return []
    pairs = beside(output.study.evidence, output.measured)
    if not pairs:
        return ["The study in the store has no cell with this model, GPU, lengths and batches."]
    lines = []
    for name in dict.fromkeys(p.metric for p in pairs):
        some = [p for p in pairs if p.metric == name]
        inside = sum(p.is_covered for p in some)
        lines.append(
            f"{metrics.ALL[name].label}: mean error {mean_absolute_error_pct(some):.1f} % "
            f"(n={len(some)}), {inside} of {len(some)} in the predicted interval"
        )
    return lines


def _cell(cell: Evidence, output: StudyOutput) -> dict[str, Any]:
    """One cell, taken apart."""
    part, colours = shares(cell), _part_colours(list(cell.breakdown))
    copies = output.study.question.gpus // cell.deployment.gpus
    measured = {p.metric: p.measured for p in beside([cell], output.measured)}
    return {
        "tp": cell.deployment.tp_size,
        "batch": cell.workload.concurrency,
        "copies": copies,
        "kind": cell.source.kind,
        "metrics": [
            {
                "name": metrics.ALL[m].label,
                "text": quantity(cell.metrics[m], metrics.ALL[m].unit),
                "measured": quantity(measured[m], metrics.ALL[m].unit) if m in measured else "",
            }
            for m in SHOWN
            if m in cell.metrics
        ],
        "parts": [
            {
                "cause": _words(cause),
                "seconds": value_and_bounds(Interval(seconds, seconds, seconds))[0],
                "share": percent(100 * part.get(cause, 0.0), 1, signed=False),
                "colour": colours[cause],
            }
            for cause, seconds in cell.breakdown.items()
        ],
    }


def _words(name: str) -> str:
    return name.replace("_", " ").replace("kv", "KV")
