"""A measured study as one HTML file: claims, cells beside predictions, what calibration did."""

from __future__ import annotations

from typing import Any

from shardwise.evidence.portable import without_folders
from shardwise.experiment.outcome import Outcome
from shardwise.reports import experiment_tables as tables
from shardwise.reports import figure_experiment as figures
from shardwise.reports.html.drawing import draw
from shardwise.reports.html.sections import Section
from shardwise.reports.html.templates import template


def experiment_html(found: Outcome, command: str) -> str:
    """`found` as one HTML document. `command` makes it again."""
    charts = experiment_figures(found)
    return template("experiment.html.j2").render(
        found=found,
        sections=_sections(found),
        drawings={name: draw(name.replace("_", "-"), chart) for name, chart in charts.items()},
        lines=[*_method(found), *tables.time_lines(found)],
        command=without_folders(command),
    )


def experiment_figures(found: Outcome) -> dict[str, Any]:
    """The figures as Altair charts, by name; those without data are absent."""
    about = f"{found.model} {found.weight_dtype} with {found.engine} on {found.hardware}"
    compared, curve = found.corrected.compared, found.corrected.curve
    charts = {}
    if any(c.usable and c.before and c.cell.workload.mode == "closed_loop" for c in compared):
        charts["measured_predicted"] = figures.measured_predicted(compared, [about])
    if curve:
        charts["learning_curve"] = figures.learning_curve(curve, [about])
    return charts


def _sections(found: Outcome) -> list[Section]:
    sections = []
    if found.claims:
        lead = "Each claim asked of the cells measured here; on a CPU at equal total threads too."
        title = "What TP does on this machine"
        sections.append(Section("claims", title, lead, (), (tables.claims_table(found),)))
    if found.corrected.compared:
        lead = "Every prediction was made and kept before its cell ran."
        sections.append(
            Section(
                "comparison",
                "Measured beside predicted",
                lead,
                ("measured_predicted",),
                (tables.comparison_table(found),),
            )
        )
    if found.corrected.scores:
        lead = (
            "The model calibrated on half of the cells and judged on the others; the profile "
            f"{found.profile} then learns from all of them."
        )
        sections.append(
            Section(
                "calibration",
                "What a few measurements correct",
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
        "Intervals of measured values are 80 %, over repeated runs; raw requests are in the store.",
    ]
