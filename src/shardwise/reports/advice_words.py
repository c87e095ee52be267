"""Write a study's advice as sentences: what to deploy, its performance, cost and uncertainty."""

from __future__ import annotations

from collections.abc import Iterable

from shardwise import metrics
from shardwise.analysis.advice import Advice, NoAdvice
from shardwise.analysis.measured_comparison import beside, mean_absolute_error_pct
from shardwise.reports.numbers import brief, number
from shardwise.reports.study_output import StudyOutput


def advice_lines(advice: Iterable[Advice | NoAdvice]) -> list[str]:
    """Return a sentence or two for each use."""
    return [_found(a) if isinstance(a, Advice) else _nothing(a) for a in advice]


def _bounds(names: dict[str, float]) -> str:
    parts = [f"{metrics.ALL[name].label} <= {bound * 1e3:g} ms" for name, bound in names.items()]
    return " and ".join(parts)


def copies_and_tp(advice: Advice) -> str:
    """`2 replicas at TP4, batch 64 each`: a short description of the deployment."""
    choice = advice.choice
    copies = f"{choice.copies} {'replica' if choice.copies == 1 else 'replicas'}"
    layout = advice.evidence.deployment.layout.name
    return f"{copies} at {layout}, batch {choice.concurrency}{' each' if choice.copies > 1 else ''}"


def how_sure(advice: Advice) -> str:
    """Say whether the whole interval meets the SLO; "" without an SLO."""
    if not advice.slo.bounds():
        return ""
    if advice.certain:
        return "The whole 80 % interval meets the target."
    return "Part of the 80 % interval misses the target: measure before you decide."


def _found(advice: Advice) -> str:
    cost, cell = advice.choice, advice.evidence.metrics
    asked = f" ({_bounds(advice.slo.bounds())})" if advice.slo.bounds() else ""
    unit = metrics.ALL[cost.cost_metric].unit
    more = " ".join(part for part in (how_sure(advice), advice.note) if part)
    return (
        f"{advice.use}{asked}: {copies_and_tp(advice)}. "
        f"{brief(cost.output_tok_s, 'tok/s')} for the node, "
        f"TTFT {brief(cell['ttft_s'], 's')}, "
        f"TPOT {brief(cell['tpot_s'], 's')}, "
        f"{brief(cost.cost, unit)}; if one GPU fails, "
        f"{number(100 * advice.capacity_left, 0)} "
        f"% of the capacity remains. {more}"
    ).rstrip()


def _nothing(missed: NoAdvice) -> str:
    bounds = _bounds(missed.slo.bounds())
    asked = f" ({bounds})" if bounds else ""
    return f"{missed.use}{asked}: nothing meets this; nearest: {missed.nearest}."


def trust_lines(output: StudyOutput) -> list[str]:
    """Report prediction errors on measurements: of this study, then of the profile."""
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
            f"Mean errors on measured cells of this study: {', '.join(named)}; "
            f"{inside} of "
            f"{len(pairs)} are inside the predicted 80 % interval."
        )
    errors = output.about.errors if output.about else ()
    if errors:
        named = [
            f"{metrics.ALL[e.metric].label} {e.fitted_pct:.1f} % (n={e.rows}"
            f"{'' if e.held_out_pct is None else f'; {e.held_out_pct:.1f} % at a TP left out'})"
            for e in errors
        ]
        lines.append(f"Mean errors of the profile on measured rows of {where}: {', '.join(named)}.")
    return lines or [f"There are no measured rows of {where}: measure before you decide."]
