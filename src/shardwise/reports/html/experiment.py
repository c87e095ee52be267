"""Write a measured study as one HTML file: claims, cells with predictions, effect of
calibration."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from shardwise import metrics
from shardwise.evidence.portable import without_folders
from shardwise.experiment.outcome import Outcome
from shardwise.reports import experiment_tables as tables
from shardwise.reports import figure_experiment as figures
from shardwise.reports.html.drawing import draw
from shardwise.reports.html.sections import Section
from shardwise.reports.html.templates import template


def experiment_html(found: Outcome, command: str) -> str:
    """Return `found` as one HTML document. `command` repeats it."""
    charts = experiment_figures(found)
    return template("experiment.html.j2").render(
        found=found,
        verdict=verdict(found),
        predictions=_prediction_words(found),
        left_out=_left_out(found),
        measured=sum(c.usable for c in found.corrected.compared),
        sections=_sections(found),
        drawings={name: draw(name.replace("_", "-"), chart) for name, chart in charts.items()},
        lines=[*_method(found), *tables.time_lines(found)],
        command=without_folders(command),
    )


def experiment_figures(found: Outcome) -> dict[str, Any]:
    """Return the figures that have data as Altair charts, by name."""
    about = f"{found.model} {found.weight_dtype} with {found.engine} on {found.hardware}"
    compared, curve = found.corrected.compared, found.corrected.curve
    charts = {}
    if any(c.usable and c.before and c.cell.workload.mode == "closed_loop" for c in compared):
        charts["measured_predicted"] = figures.measured_predicted(compared, [about])
    if curve:
        charts["learning_curve"] = figures.learning_curve(curve, [about])
    return charts


def verdict(found: Outcome) -> str:
    """Summarise the verdicts on the study's claims in one line."""
    if not found.claims:
        return "No claim of the study applies to these cells"
    holds, fails = (
        sum(c.verdict == what for c in found.claims) for what in ("holds", "does not hold")
    )
    open_ones = len(found.claims) - holds - fails
    parts = [f"{holds} of {len(found.claims)} claims hold", f"{fails} do not"]
    if open_ones:
        parts.append(f"{open_ones} {'are' if open_ones > 1 else 'is'} undecided")
    return ", ".join(parts)


def _prediction_words(found: Outcome) -> str:
    """Report the prediction errors before and after calibration."""
    scores = [s for s in found.corrected.scores if s.metric in ("e2e_latency_s", "tpot_s")]
    named = [
        f"{metrics.ALL[s.metric].label} {s.before_pct:.0f} % off before, {s.after_pct:.0f} % "
        f"calibrated on the other cells (n={s.n})"
        for s in scores
    ]
    return "; ".join(named) or "no cell was held out to evaluate the predictions"


def _left_out(found: Outcome) -> str:
    """Report unmeasured and client-bound cells in one line; "" if there are none."""
    compared = found.corrected.compared
    bound = sum(not c.usable for c in compared)
    parts = [f"{bound} of {len(compared)} cells were bound by the client"] if bound else []
    if found.dropped:
        parts.append(
            f"{len(found.dropped)} cells did not fit the time budget: "
            f"{', '.join(found.dropped[:6])}"
        )
    return "; ".join(parts)


def _settled(found: Outcome) -> list[Section]:
    if not found.claims:
        return []
    settled = tuple(c for c in found.claims if c.verdict in ("holds", "does not hold"))
    rest = tuple(c for c in found.claims if c not in settled)
    shown = (tables.claims_table(replace(found, claims=settled)),) if settled else ()
    open_ones = tables.claims_table(replace(found, claims=rest))
    title = f"{len(rest)} claims that these measurements do not decide"
    folded = (replace(open_ones, name="claims_open", title=title),) if rest else ()
    lead = "Each claim, tested on the cells measured here; on a CPU also at equal total threads."
    return [Section("claims", "Effect of TP on this machine", lead, (), shown, folded)]


def _sections(found: Outcome) -> list[Section]:
    sections = _settled(found)
    measured = tuple(c for c in found.corrected.compared if c.usable)
    if measured:
        corrected = replace(found.corrected, compared=measured)
        sections.append(
            Section(
                "comparison",
                "Measured and predicted",
                "Every prediction was saved before its cell ran.",
                ("measured_predicted",),
                (tables.comparison_table(replace(found, corrected=corrected)),),
                lines=tuple(filter(None, [_left_out(found)])),
            )
        )
    if found.corrected.scores:
        lead = (
            f"The model is calibrated on half of the cells and evaluated on the others. The "
            f"profile "
            f"{found.profile} is then fitted to all of them."
        )
        sections.append(
            Section(
                "calibration",
                "Correction from a few measurements",
                lead,
                ("learning_curve",),
                (tables.scores_table(found),),
            )
        )
    return sections


def _method(found: Outcome) -> list[str]:
    made = sorted({c.made for c in found.corrected.compared if c.made})
    lines = (
        [f"Predictions made {made[0]} to {made[-1]} (UTC), before their cells ran."] if made else []
    )
    return [
        *lines,
        "Measured values have 80 % intervals from repeated runs; raw requests are in the store.",
    ]
