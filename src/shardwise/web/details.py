"""Details below the answer: a step by operator, changes of the question, memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from msgspec.structs import replace

from shardwise.analysis.run import Question
from shardwise.errors import DoesNotFitError, InputError
from shardwise.kernels.provenance import Provenance
from shardwise.perfmodel.step_operators import OperatorTime, step_operators
from shardwise.perfmodel.subject import Asked
from shardwise.planner import question as planning
from shardwise.planner.plan import Plan, explore
from shardwise.reports.answer import Shown, three_numbers
from shardwise.reports.answering import memory_of_each_gpu
from shardwise.reports.memory import MemoryUse, fit_words
from shardwise.reports.numbers import number, percent, scale_for
from shardwise.units import GB
from shardwise.web.asking import Explorer, Found, asked_of, found_of, subject_at
from shardwise.web.payload import picked_cell
from shardwise.web.state import State

#: Short name of the source of a kernel's time.
KNOWN: Final[Mapping[Provenance, str]] = {
    Provenance.MEASURED: "measured",
    Provenance.INTERPOLATED: "interpolated",
    Provenance.EXTRAPOLATED: "extrapolated",
    Provenance.OTHER_ENGINE: "another engine's",
    Provenance.OTHER_DTYPE: "another dtype's",
    Provenance.OTHER_GPU: "another GPU's",
    Provenance.ROOFLINE: "datasheet",
}


def details(known: Explorer, state: State) -> dict[str, Any]:
    """Return the parts below the answer for JSON. Raises StateError."""
    found = found_of(known, state)
    return {
        "step": _step(found),
        "changes": _changes(found),
        "memory": _memory(known, found),
    }


def _step(found: Found) -> dict[str, Any]:
    """Return the decode step of the selected cell by operator, and the additional waits of a
    token."""
    cell = picked_cell(found)
    step = step_operators(found.subject, cell)
    tpot = cell.metrics["tpot_s"].value
    waiting = max(tpot - step.step_s, 0.0)
    whole = max(tpot, step.step_s)
    scale = scale_for([whole], "s")
    parts = [
        *step.operators,
        OperatorTime("waiting for the prefill of other requests", waiting, None),
    ]
    return {
        "title": f"One output token: {number(tpot / scale.factor)} {scale.unit}",
        "lead": f"A decode step of {number(step.sequences)} sequences at {step.context:,.0f} "
        f"tokens of context takes {number(step.step_s / scale.factor)} {scale.unit}.",
        "unit": scale.unit,
        "rows": [
            {
                "name": part.name,
                "time": number(part.seconds / scale.factor),
                "share": percent(100 * part.seconds / whole, 1, signed=False),
                "width": part.seconds / whole,
                "known": "fitted to rows" if part.provenance is None else KNOWN[part.provenance],
                "direct": part.provenance in (Provenance.MEASURED, Provenance.INTERPOLATED),
            }
            for part in sorted(parts, key=lambda p: -p.seconds)
            if part.seconds > 0
        ],
    }


def _changes(found: Found) -> list[dict[str, Any]]:
    """Return the answers to changed questions (longer prompts and answers, a tighter bound, more
    requests), each with its state fields."""
    if found.layouts is None:
        return []
    q, d = found.question, found.question.demand
    state = found.state
    asked: list[tuple[str, dict[str, Any], planning.Question]] = []

    def add(label: str, fields: dict[str, Any], **changes: Any) -> None:
        try:
            asked.append((label, fields, replace(q, **changes)))
        except InputError:
            asked.append((label, {}, q))  # beyond the model's context

    add("Prompts twice as long", {"isl": 2 * state.isl}, demand=replace(d, isl=2 * d.isl))
    add("Answers twice as long", {"osl": 2 * state.osl}, demand=replace(d, osl=2 * d.osl))
    if state.tpot:
        bound = {"tpot": state.tpot / 2}
        add("TPOT bound halved", bound, slo=replace(q.slo, tpot_s=state.tpot / 2e3))
    if d.request_rate:
        rate = 2 * d.request_rate
        add("Twice the requests/s", {"rate": rate}, demand=replace(d, request_rate=rate))
    return [_changed(found, *one) for one in asked]


def _changed(
    found: Found, label: str, fields: dict[str, Any], question: planning.Question
) -> dict[str, Any]:
    if not fields:
        return {"label": label, "fields": {}, "title": "beyond the model's context", "line": ""}
    try:
        made = explore(question)
    except DoesNotFitError:
        return {"label": label, "fields": fields, "title": "does not fit", "line": ""}
    if not made.ranked:
        return {"label": label, "fields": fields, **_unmet(question, made)}
    shown, before = Shown.of(made.ranked[0]), found.answer.shown
    per_gpu, tpot, cost = three_numbers(shown)
    change = ""
    if before is not None and found.answer.found:
        now, then = shown.tok_s_per_gpu.value, before.tok_s_per_gpu.value
        moved = percent(100 * (now / then - 1), 0)
        change = f" ({moved} %)" if moved not in ("+0", "-0") else ""
    return {
        "label": label,
        "fields": fields,
        "title": shown.title,
        "line": f"{per_gpu.text} {per_gpu.unit}{change}, TPOT {tpot.text} {tpot.unit}, "
        f"{cost.text} {cost.unit}",
    }


def _unmet(question: planning.Question, made: Plan) -> dict[str, str]:
    """What a question that nothing meets falls short of, as title and line."""
    demand = question.demand
    if demand.request_rate:
        free = explore(replace(question, demand=replace(demand, request_rate=None))).ranked
        most = max((c.node_output_tok_s.value / demand.osl for c in free), default=0.0)
        if 0 < most < demand.request_rate:
            nodes = math.ceil(demand.request_rate / most)
            line = f"One node carries {number(most)} requests/s, so {nodes} nodes"
            return {"title": "not enough", "line": line}
    near = made.missing[0] if made.missing else None
    line = f"nearest {Shown.of(near).title} {near.behind}" if near else ""
    return {"title": "nothing meets it", "line": line}


def _memory(known: Explorer, found: Found) -> dict[str, Any]:
    """Return the memory of one rank on each kind of GPU, largest memory last, as rows of bars."""
    shown = found.answer.shown
    tp_size = shown.evidence.deployment.tp_size if shown else 1
    asked, wanted = asked_of(known, found.state)
    uses = _uses(asked, wanted.question, tp_size)
    longest = max(max(u.capacity_bytes, sum(u.parts.values())) for u in uses)
    tokens = found.state.isl + found.state.osl
    return {
        "title": f"Memory of one GPU at TP={tp_size}",
        "lead": f"Weights, one sequence of {tokens:,} tokens and engine memory, as parts of the "
        f"memory "
        "that the engine may use.",
        "parts": list(uses[0].parts),
        "rows": [
            {
                "gpu": use.gpu,
                "nameplate": f"{use.nameplate_gb:g} GB",
                "own": use.gpu == found.state.gpu,
                "fits": use.short_bytes <= 0,
                "fit": fit_words(use),
                "capacity": use.capacity_bytes / longest,
                "used": [size / longest for size in use.parts.values()],
                "gb": [number(size / GB) for size in use.parts.values()],
            }
            for use in uses
        ],
    }


@lru_cache(maxsize=64)
def _uses(asked: Asked, question: Question, tp_size: int) -> list[MemoryUse]:
    return memory_of_each_gpu(*subject_at(asked), question, tp_size)
