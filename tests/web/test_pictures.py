"""Five people's questions, each answered on the first screen, and the pictures of the docs.

    SHARDWISE_PICTURES=docs/images python -m pytest -n 0 tests/web/test_pictures.py

writes the screenshots and figures that the documentation shows; without it they go to a temporary
folder, and what they show is checked all the same.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from shardwise.cli.report import report as report_command
from shardwise.cli.study import study as study_command

WIDE, NARROW = (1400, 900), (390, 844)
#: question -> (query, what answers it)
QUESTIONS = {
    "which-layout": ("", ("#answer-title", "#answer-numbers", "#answer-why")),
    "longer-prompts": ("", ("#changes-list li:first-child",)),
    "h200-or-mi355x": (
        "gpu=h200&vs_gpu=mi355x",
        ("#compare-lead", "#compare-table tbody tr:nth-child(2)"),
    ),
    "20-requests": (
        "model=gpt-oss-120b&gpu=h200&dtype=auto&rate=20",
        ("#answer-title", "#answer-chips li:nth-child(3)"),
    ),
    "how-sure": ("", ("#answer-chips", "#answer-ground", ".spread")),
}
#: name -> (query, size, scheme, element to begin at)
PICTURES: dict[str, tuple[str, tuple[int, int], str, str]] = {
    "explorer-1400": ("", WIDE, "light", ""),
    "explorer-390": ("", NARROW, "light", ""),
    "explorer-dark": ("rate=2", WIDE, "dark", ""),
    "explorer-dark-390": ("", NARROW, "dark", ""),
    "explorer-compare": ("vs_gpu=h200,b200,mi355x", WIDE, "light", ""),
    "explorer-compare-390": ("gpu=h200&vs_gpu=mi355x", NARROW, "light", "#compare"),
    "explorer-rate": ("model=gpt-oss-120b&gpu=h200&dtype=auto&rate=20", WIDE, "light", ""),
    "explorer-cell": (
        "model=gpt-oss-120b&gpu=h200&dtype=auto&isl=1024&osl=1024",
        WIDE,
        "light",
        "section:has(#cell-title)",
    ),
    "explorer-measured": ("study=night-run", WIDE, "light", "section:has(#chart-title)"),
    "explorer-bad-input": ("isl=900000", WIDE, "light", ""),
}
FIGURES = ("frontier", "throughput_latency", "tp_steps", "time_breakdown", "cost", "memory")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    asked = os.environ.get("SHARDWISE_PICTURES")
    return Path(asked) if asked else tmp_path_factory.mktemp("pictures")


def opened(page: Any, address: str, size: tuple[int, int], scheme: str) -> Any:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    if "isl=900000" not in address:
        page.wait_for_selector("html[data-detailed]")
    page.wait_for_timeout(200)
    return page


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_question_is_answered_on_the_first_screen_or_after_one_scroll(
    page: Any, server: str, question: str
) -> None:
    query, answers = QUESTIONS[question]
    for size, bottom in ((WIDE, 900), (NARROW, 2 * 844)):
        opened(page, f"{server}/?{query}", size, "light")
        for answer in answers:
            box = page.locator(answer).first.bounding_box()
            assert box, answer
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= bottom, f"{answer} at {size}"


@pytest.mark.parametrize("name", PICTURES)
def test_the_explorers_pictures_are_taken(page: Any, server: str, folder: Path, name: str) -> None:
    query, size, scheme, start = PICTURES[name]
    opened(page, f"{server}/?{query}", size, scheme)
    if start:
        page.locator(start).scroll_into_view_if_needed()
        page.evaluate(f"document.querySelector('{start}').scrollIntoView()")
        page.wait_for_timeout(100)
    page.screenshot(path=folder / f"{name}.png")
    assert (folder / f"{name}.png").stat().st_size > 20_000


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of the gallery."""
    made = tmp_path_factory.mktemp("study")
    words = ["llama-3.1-70b", "--gpu", "mi300x", "--dtype", "fp8", "--ttft", "2s", "--tpot", "50ms"]
    result = CliRunner().invoke(study_command, [*words, "-o", str(made)], catch_exceptions=False)
    assert result.exit_code == 0
    return made


def test_the_gallerys_figures_are_those_of_its_command(study: Path, folder: Path) -> None:
    for name in FIGURES:
        drawn = (study / f"{name}.png").read_bytes()
        (folder / f"figure-{name.replace('_', '-')}.png").write_bytes(drawn)


@pytest.mark.parametrize(
    ("name", "size", "scheme", "more"),
    [
        ("report-1400", WIDE, "light", []),
        ("report-390", NARROW, "light", []),
        ("report-dark", WIDE, "dark", []),
        ("report-vs", WIDE, "light", ["--vs", "h200,b200,mi355x"]),
    ],
)
def test_the_reports_pictures_are_taken(
    browser: Any, study: Path, folder: Path, tmp_path: Path, name: str, size: Any, scheme: str,
    more: list[str],
) -> None:  # fmt: skip
    out = tmp_path / "report.html"
    given = [str(study), *more, "-o", str(out)]
    assert CliRunner().invoke(report_command, given, catch_exceptions=False).exit_code == 0
    opened = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    opened.goto(out.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= size[0]
    box = opened.locator(".numbers").bounding_box()
    assert box["y"] + box["height"] <= size[1]
    opened.screenshot(path=folder / f"{name}.png")
    printed = opened.pdf(format="A4", prefer_css_page_size=True)
    assert printed.count(b"/Type /Page\n") <= 6
    opened.emulate_media(media="print")
    opened.set_viewport_size({"width": 700, "height": 990})  # A4 less its margins, at 96 dpi
    if name == "report-vs":
        opened.screenshot(path=folder / "report-print.png")
    opened.close()
