"""Compare up to four GPUs or models for one question: one row each, and one chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise import metrics
from shardwise.analysis.advice import planned_advice
from shardwise.analysis.layouts import LayoutStudy
from shardwise.architecture.model import Model
from shardwise.errors import DoesNotFitError, InputError, UnknownNameError
from shardwise.hardware.gpu import Gpu
from shardwise.layout.rules import allowed_tp
from shardwise.perfmodel.knowledge import UNCALIBRATED, WORDS
from shardwise.perfmodel.memory import plan as memory_plan
from shardwise.perfmodel.subject import Asked, catalogue_for, subject_of
from shardwise.reports.about import known_errors
from shardwise.reports.answer import (
    Answer,
    Ground,
    Headline,
    Shown,
    answers_of,
    ground_of,
    price_words,
)
from shardwise.reports.answering import Wanted, plan_of, planned
from shardwise.reports.figure_pareto import SERIES, Series, runner_up_of
from shardwise.reports.numbers import number
from shardwise.reports.study_output import StudyOutput
from shardwise.workload.workload import Slo

MOST: Final = len(SERIES)  #: subjects, the first among them


class Compared(msgspec.Struct, frozen=True):
    """One GPU or model among those compared.

    Attributes:
        name: "8 × h200".
        colour: In the chart; "" if not drawn.
        layout: The answer's; "none; " and the nearest if nothing meets the bounds.
        numbers: Throughput per GPU, TPOT and cost; empty if it does not fit.
        context: Tokens of the longest sequence that the layout can hold; 0 if none.
        fits: "yes", or "no" with the reason.
        calibrated: "yes" or "no", and what of it no row has.
        meets: Whether a layout meets the bounds.
        price: "1.95 USD per GPU-hour"; "" where none is known.
    """

    name: str
    colour: str = ""
    layout: str = ""
    numbers: tuple[Headline, ...] = ()
    context: int = 0
    fits: str = "yes"
    calibrated: str = ""
    meets: bool = False
    price: str = ""


class Side(msgspec.Struct, frozen=True):
    """One subject of a comparison; `answer` is None if it does not fit, and `problem` says why."""

    name: str
    arch: Model
    gpu: Gpu
    context: int
    answer: Answer | None = None
    ground: Ground | None = None
    series: Series | None = None
    problem: str = ""


def compared_rows(sides: Sequence[Side]) -> list[Compared]:
    """Return a row for each, with colours in the order of the chart."""
    colours = iter(SERIES)
    return [
        _row(side, next(colours))
        if side.answer
        else Compared(side.name, fits=f"no: {side.problem}")
        for side in sides
    ]


def _row(side: Side, colour: str) -> Compared:
    answer, shown = side.answer, side.answer.shown if side.answer else None
    assert answer
    row = Compared(
        name=side.name,
        colour=colour,
        layout=answer.title if answer.found else "none",
        numbers=answer.numbers,
        calibrated=_calibrated(side.ground, shown),
        meets=answer.found,
    )
    if shown is None:
        return row
    held = memory_plan(side.arch, side.gpu, shown.evidence.deployment, side.context)
    layout = row.layout if answer.found else f"none; {shown.title}"
    return replace(row, layout=layout, context=held.largest_context, price=price_words(shown))


def _calibrated(ground: Ground | None, shown: Shown | None) -> str:
    if ground is None or not ground.calibrated:
        return "no"
    unseen = (ground.unseen or {}).get(shown.layout, ()) if shown else ()
    calibrated = "no" if {WORDS[u] for u in UNCALIBRATED} & {*unseen} else "yes"
    return f"{calibrated}; {', '.join(unseen)}" if unseen else calibrated


def compared_words(sides: Sequence[Side]) -> str:
    """Say which has the cheapest tokens, and whether the intervals of the two cheapest overlap."""
    known = [
        (s.answer.shown, s.name)
        for s in sides
        if s.answer and s.answer.found and s.answer.shown is not None
    ]
    if len(known) < 2 or len({shown.cost_metric for shown, _ in known}) > 1:
        return ""
    (best, name), (second, other), *_ = sorted(known, key=lambda each: each[0].cost.value)
    more = 100 * (second.cost.value / best.cost.value - 1)
    sure = (
        "the intervals overlap: measure before you decide"
        if best.cost.hi >= second.cost.lo
        else "the intervals do not overlap"
    )
    unit = metrics.ALL[best.cost_metric].unit
    return (
        f"Cheapest tokens: {name}, {number(best.cost.value)} {unit}; next {other}, "
        f"{number(more, 0)} % more. Of these two, {sure}."
    )


def side_of(asked: Asked, wanted: Wanted, name: str) -> Side:
    """Ask the same question for another GPU or model.

    Raises InputError for an unknown name or an unsupported question. If the subject does not fit,
    the result says so.
    """
    subject, catalogue = subject_of(asked)
    question = wanted.question
    context = question.isl + question.osl
    side = Side(name, subject.arch, subject.gpu, context)
    used = catalogue.price_used(subject.gpu.id, None)
    sizes = allowed_tp(subject.arch, question.gpus)
    moved = replace(wanted, question=replace(question, tp_sizes=sizes))
    try:
        made = plan_of(subject, moved, used.usd_per_hour if used else None, ("online",))
        plan, layouts = made.by_use["online"], made.layouts
        assert plan, "a comparison is of a closed loop"
        assert layouts
        advice = planned_advice("online", plan, sizes)
    except DoesNotFitError as error:
        return replace(side, problem=str(error))
    ground = Ground(subject.gpu.id, subject.engine, known_errors(subject), layouts.unseen)
    (answer,) = answers_of([advice], layouts, ground)
    series = series_of(asked.gpu, question.gpus, answer, layouts, wanted.slo)
    return replace(side, answer=answer, ground=ground, series=series)


def series_of(name: str, gpus: int, answer: Answer, layouts: LayoutStudy, slo: Slo) -> Series:
    """Return the chart series of a subject that the planner has explored."""
    rate = (layouts.request_rate or 0.0) * layouts.osl
    return Series(
        name=name,
        gpus=gpus,
        cells=layouts.cells,
        answer=answer,
        slo=slo,
        runner_up=runner_up_of(layouts),
        rate_tok_s=rate,
    )


def compared_with(
    output: StudyOutput, gpus: Sequence[str], files: Sequence[Path] = ()
) -> list[Side]:
    """Compare the study's subject with the same question on each of `gpus`.

    `files` are of GPUs and prices, a node file among them.

    Raises InputError if a name is unknown, there are too many, or the study is not a closed loop.
    """
    question, layouts, slo = output.study.question, output.layouts, output.advice[0].slo
    if layouts is None or not planned(question):
        raise InputError("a comparison of this study", "allowed: a study of a closed loop")
    d = output.study.evidence[0].deployment
    profile = output.about.profile if output.about else "reference"
    own = Asked(d.model, d.gpu, d.engine, d.dtypes.weight, d.dtypes.kv, profile, tuple(files))
    subject, _ = subject_of(own)
    ground = ground_of(output)
    answer = answers_of(output.advice, layouts, ground)[0]
    first = Side(
        f"{question.gpus} × {d.gpu}",
        subject.arch,
        subject.gpu,
        question.isl + question.osl,
        answer,
        ground,
        series_of(d.gpu, question.gpus, answer, layouts, slo),
    )
    wanted = Wanted(question, slo, request_rate=layouts.request_rate)
    return [
        first,
        *(
            side_of(replace(own, gpu=gpu), wanted, f"{question.gpus} × {gpu}")
            for gpu in checked(gpus, files)
        ),
    ]


def checked(names: Sequence[str], files: Sequence[Path] = ()) -> list[str]:
    """Check GPU ids for a comparison. Raises InputError if one is unknown or there are too many."""
    if len(names) > MOST - 1:
        raise InputError(f"{len(names)} GPUs to compare with", f"allowed: up to {MOST - 1}")
    catalogue = catalogue_for(files)
    unknown = [name for name in names if name not in catalogue.by_id]
    if unknown:
        raise UnknownNameError("GPU", unknown[0], catalogue.by_id)
    return list(dict.fromkeys(names))
