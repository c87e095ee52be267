"""The answer of a study in words: what to deploy, what it gives and costs, how sure that is."""

from __future__ import annotations

from collections.abc import Iterable

from shardwise import metrics
from shardwise.analysis.advice import Advice, NoAdvice
from shardwise.analysis.measured_comparison import beside, mean_absolute_error_pct
from shardwise.reports.numbers import brief, number
from shardwise.reports.study_output import StudyOutput


def advice_lines(advice: Iterable[Advice | NoAdvice]) -> list[str]:
    """A sentence or two for each use."""
    return [_found(a) if isinstance(a, Advice) else _nothing(a) for a in advice]


def _bounds(names: dict[str, float]) -> str:
    parts = [f"{metrics.ALL[name].label} <= {bound * 1e3:g} ms" for name, bound in names.items()]
    return " and ".join(parts)


def copies_and_tp(advice: Advice) -> str:
    """`2 copies at TP4, batch 64 each`: the deployment in a few words."""
    choice = advice.choice
    copies = f"{choice.copies} {'copy' if choice.copies == 1 else 'copies'}"
    layout = advice.evidence.deployment.layout.name
    return f"{copies} at {layout}, batch {choice.concurrency}{' each' if choice.copies > 1 else ''}"


def how_sure(advice: Advice) -> str:
    """Whether the SLO is met by the whole interval; "" where there is none."""
    if not advice.slo.bounds():
        return ""
    if advice.certain:
        return "The whole 80 % interval meets the target."
    return "The 80 % interval reaches past the target: measure before you decide."


def _found(advice: Advice) -> str:
    cost, cell = advice.choice, advice.evidence.metrics
    asked = f" ({_bounds(advice.slo.bounds())})" if advice.slo.bounds() else ""
    unit = metrics.ALL[cost.cost_metric].unit
    more = " ".join(part for part in (how_sure(advice), advice.note) if part)
    return (
        f"{advice.use}{asked}: {copies_and_tp(advice)}. "
        f"{brief(cost.output_tok_s, 'tok/s')} from the node, "
        f"TTFT {brief(cell['ttft_s'], 's')}, TPOT {brief(cell['tpot_s'], 's')}, "
        f"{brief(cost.cost, unit)}; one GPU lost leaves "
        f"{number(100 * advice.capacity_left, 0)} % of the capacity. {more}"
    ).rstrip()


def _nothing(missed: NoAdvice) -> str:
    bounds = _bounds(missed.slo.bounds())
    asked = f" ({bounds})" if bounds else ""
    return f"{missed.use}{asked}: nothing meets this; nearest: {missed.nearest}."


def trust_lines(output: StudyOutput) -> list[str]:
    """How far predictions like these were from measurements: of this study, then of the profile."""
    subject = output.study.evidence[0].deployment
    where = f"{subject.gpu} with {subject.engine}"
    pairs = beside(output.study.evidence, output.measured)
    lines = []
    if pairs:
        named = [
            f"{metrics.ALL[name].label} {mean_absolute_error_pct(some):.1f} % (n={len(some)})"
            for name in dict.fromkeys(p.metric for p in pairs)
            for some in [[p for p in pairs if p.metric == name]]
        ]
        inside = sum(p.is_covered for p in pairs)
        lines.append(
            f"Measured cells of this study, predictions off in the mean by: {', '.join(named)}; "
            f"{inside} of {len(pairs)} inside the predicted 80 % interval."
        )
    errors = output.about.errors if output.about else ()
    if errors:
        named = [
            f"{metrics.ALL[e.metric].label} {e.fitted_pct:.1f} % (n={e.rows}"
            f"{'' if e.held_out_pct is None else f'; {e.held_out_pct:.1f} % at a TP left out'})"
            for e in errors
        ]
        lines.append(
            f"The profile on measured rows of {where}, off in the mean by: {', '.join(named)}."
        )
    return lines or [f"Nothing measured on {where} stands behind this: measure before you decide."]
