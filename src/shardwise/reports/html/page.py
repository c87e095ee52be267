"""The report: a study as one HTML file that opens from disk, prints, and needs no scripts."""

from __future__ import annotations

from collections.abc import Sequence

from shardwise.evidence.portable import without_folders
from shardwise.reports.advice_words import trust_lines
from shardwise.reports.answer import answers_of, ground_of, in_flight
from shardwise.reports.comparing import compared_rows, compared_words
from shardwise.reports.html.drawing import draw
from shardwise.reports.html.ranking import compared_table
from shardwise.reports.html.sections import sections, sources
from shardwise.reports.html.templates import template
from shardwise.reports.study_output import StudyOutput, study_figures


def report_html(output: StudyOutput, command: str = "") -> str:
    """Return `output` as one HTML document, the answer first. Names are escaped.

    `command` writes this document; it is shown with the study's command.
    """
    charts = study_figures(output)
    found = sections(output)
    wanted = ["frontier", *(n for s in found for n in s.figures if n in charts)]
    answers = answers_of(output.advice, output.layouts, ground_of(output))
    sides = output.compared
    return template("report.html.j2").render(
        deployment=output.study.evidence[0].deployment,
        question=output.study.question,
        kinds=" and ".join(
            dict.fromkeys(e.source.kind for e in (*output.study.evidence, *output.measured))
        ),
        online=answers[0],
        others=[(a, in_flight(a.shown.evidence) if a.shown else "") for a in answers[1:]],
        met_words={"met": "✓ met", "within": "≈ met by the value only", "missed": "✗ missed"},
        lead=compared_words(sides),
        compared=compared_table(compared_rows(sides)) if sides else None,
        trust=trust_lines(output)[:1] if output.measured else [],
        skipped=output.study.skipped,
        sections=found,
        longest=_longest(output),
        drawings={name: draw(name.replace("_", "-"), charts[name]) for name in wanted},
        sources=sources(output),
        about=output.about,
        commands=_commands(output, command),
    )


def _longest(output: StudyOutput) -> float:
    """Return the bytes of the longest memory bar or line."""
    return max((max(u.capacity_bytes, sum(u.parts.values())) for u in output.memory), default=1.0)


def _commands(output: StudyOutput, command: str) -> list[tuple[str, Sequence[str]]]:
    """What to type to study, to report and to deploy: the lines, each with their purpose."""
    about = output.about
    found = [
        ("Start the replicas", about.start.lines if about else ()),
        ("Repeat the study", (about.command if about else "",)),
        ("This report", (without_folders(command),)),
        ("Write the online deployment to a file", (about.plan if about else "",)),
        ("Start it", ("shardwise up deployment.toml" if about and about.plan else "",)),
    ]
    return [(purpose, lines) for purpose, lines in found if any(lines)]
