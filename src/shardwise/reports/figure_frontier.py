"""Figure of the frontier of a study, or of the subjects compared in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardwise.analysis.layouts import cells_from
from shardwise.reports.answer import answers_of, ground_of
from shardwise.reports.figure_pareto import Series, pareto_figure, runner_up_of
from shardwise.reports.figure_style import caption

if TYPE_CHECKING:
    from shardwise.reports.study_output import StudyOutput


def frontier(output: StudyOutput, view: str) -> Any:
    """Draw every layout of a study in one of `figure_pareto.VIEWS`, or the frontier of each
    compared subject."""
    known = [side.series for side in output.compared if side.series]
    series = known if len(known) > 1 else [_alone(output)]
    if len(series) > 1:
        d, load = output.study.evidence[0].deployment, output.study.evidence[0].workload
        about = f"{d.model} {d.dtypes.weight}, {load.isl:g} in / {load.osl:g} out"
        return pareto_figure(series, view, "The frontier of each", [about])
    return pareto_figure(series, view, "Every layout", caption(output.study.evidence)[:1])


def _alone(output: StudyOutput) -> Series:
    question, layouts = output.study.question, output.layouts
    answers = answers_of(output.advice, layouts, ground_of(output))
    return Series(
        name=output.study.evidence[0].deployment.gpu,
        gpus=question.gpus,
        cells=layouts.cells if layouts else cells_from(output.study.evidence, question.gpus),
        answer=answers[0],
        slo=output.advice[0].slo,
        runner_up=runner_up_of(layouts),
        measured=output.measured,
        rate_tok_s=(layouts.request_rate or 0.0) * layouts.osl if layouts else 0.0,
    )
