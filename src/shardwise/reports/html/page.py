"""The report: a study as one HTML file that opens from disk, prints, and needs no script."""

from __future__ import annotations

from typing import Any

from shardwise import metrics
from shardwise.analysis.advice import Advice, NoAdvice
from shardwise.evidence.portable import without_folders
from shardwise.reports.advice_words import advice_lines, copies_and_tp, how_sure, trust_lines
from shardwise.reports.html.drawing import draw
from shardwise.reports.html.sections import sections, sources
from shardwise.reports.html.templates import template
from shardwise.reports.numbers import number, quantity
from shardwise.reports.study_output import StudyOutput, study_figures


def report_html(output: StudyOutput, command: str = "") -> str:
    """`output` as one HTML document, the answer first. Names in it are escaped, never trusted.

    `command` is the one that makes the document, shown with the study's own.
    """
    charts = study_figures(output)
    found = sections(output)
    wanted = [name for section in found for name in section.figures if name in charts]
    first = output.study.evidence[0]
    question = output.study.question
    return template("report.html.j2").render(
        deployment=first.deployment,
        workload=first.workload,
        question=question,
        kinds=" and ".join(
            dict.fromkeys(e.source.kind for e in (*output.study.evidence, *output.measured))
        ),
        answers=[_answer(a, line) for a, line in _advised(output)],
        trust=trust_lines(output),
        skipped=output.study.skipped,
        sections=found,
        drawings={name: draw(name.replace("_", "-"), charts[name]) for name in wanted},
        sources=sources(output),
        about=output.about,
        commands=_commands(output, command),
    )


def _commands(output: StudyOutput, command: str) -> list[tuple[str, str]]:
    """What to type to study, to report and to deploy, each with its purpose."""
    about = output.about
    found = [
        ("The study again", about.command if about else ""),
        ("This report", without_folders(command)),
        ("The deployment for users who wait, as a file", about.plan if about else ""),
        ("Start it", "shardwise up deployment.toml" if about and about.plan else ""),
    ]
    return [(purpose, line) for purpose, line in found if line]


def _advised(output: StudyOutput) -> list[tuple[Advice | NoAdvice, str]]:
    return list(zip(output.advice, advice_lines(output.advice), strict=True))


def _answer(advice: Advice | NoAdvice, line: str) -> dict[str, Any]:
    """What the first page shows of one piece of advice: a headline, figures, how sure."""
    use = {"online": "Users who wait", "offline": "Work nobody waits for"}[advice.use]
    bounds = ", ".join(
        f"{metrics.ALL[name].label} at most {number(bound * 1e3)} ms"
        for name, bound in advice.slo.bounds().items()
    )
    shown: dict[str, Any] = {"use": use, "bounds": bounds or "cheapest tokens", "line": line}
    if isinstance(advice, NoAdvice):
        return {**shown, "found": False, "headline": "Nothing meets this", "figures": []}
    choice, cell = advice.choice, advice.evidence.metrics
    return {
        **shown,
        "found": True,
        "headline": copies_and_tp(advice),
        "figures": [
            ("Node", quantity(choice.output_tok_s, metrics.OUTPUT_THROUGHPUT.unit)),
            *(
                (metrics.ALL[name].label, quantity(cell[name], metrics.ALL[name].unit))
                for name in ("ttft_s", "tpot_s", "e2e_latency_s")
                if name in cell
            ),
            ("Output tokens", quantity(choice.cost, metrics.ALL[choice.cost_metric].unit)),
            ("One GPU lost leaves", f"{number(100 * advice.capacity_left, 0)} % of the node"),
        ],
        "sure": how_sure(advice) or "No latency target.",
        "note": advice.note,
    }
