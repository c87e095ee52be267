"""The explorer's whole path in a real browser; the page fixture fails on any console message."""

from __future__ import annotations

import tomllib
from typing import Any
from urllib.parse import quote

import pytest

from shardwise.hosting.deployment_file import parse

HOSTILE = "<script>alert(1)</script>\u202eevil" + "x" * 10_000
WIDTHS = (1400, 390)
FOUR = "vs_gpu=h200,b200,mi355x"


def opened(page: Any, address: str, width: int = 1400) -> Any:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    return page


def redrawn(page: Any, act: Any) -> None:
    """`act`, then wait until the page has been drawn anew."""
    count = "performance.getEntriesByName('redraw').length"
    before = page.evaluate(count)
    act()
    for _ in range(1000):
        if page.evaluate(count) > before:
            return
        page.wait_for_timeout(10)
    raise AssertionError("the page was not drawn anew within 10 s")


#: The text is read in the same turn as the element is laid out: the parts below the answer arrive
#: later, and what they push off the screen has no text again.
READ = """async element => {
  const frame = () => new Promise(done => requestAnimationFrame(done));
  const laidOut = () => element.checkVisibility({contentVisibilityAuto: true});
  for (let i = 0; i < 50 && !laidOut(); i++) {
    element.scrollIntoView();
    await frame().then(frame);
  }
  return element.innerText;
}"""


def text(page: Any, selector: str) -> str:
    """What is read there; sections far below have no text until they are scrolled to."""
    return str(page.locator(selector).evaluate(READ))


@pytest.mark.parametrize("width", WIDTHS)
def test_choose_change_click_share_and_download(page: Any, server: str, width: int) -> None:
    opened(page, server, width)
    first = text(page, "#answer")
    redrawn(page, lambda: page.select_option("#gpu", "h200"))
    redrawn(page, lambda: page.fill("#isl", "512"))
    assert text(page, "#answer") != first
    redrawn(page, lambda: page.click('[data-cell="64 TP2"]'))
    assert "4 × TP2 at 64 in flight" in text(page, "#cell-title")
    assert "gpu=h200" in page.url
    assert "layout=TP2" in page.url

    shared = page.context.browser.new_page(viewport={"width": width, "height": 900})
    opened(shared, page.url, width)
    for part in ("#answer", "#cell-title"):
        assert text(shared, part) == text(page, part)
    shared.close()

    for name in ("deployment", "csv"):
        with page.expect_download() as download:
            page.click(f"#download-{name}")
        assert download.value.path().stat().st_size > 100


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(page: Any, server: str, width: int) -> None:
    opened(page, f"{server}/?{FOUR}&rate=2&study=night-run", width)
    page.wait_for_selector("html[data-detailed]")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_four_gpus_share_one_chart_and_one_table(page: Any, server: str) -> None:
    opened(page, f"{server}/?{FOUR}")
    assert page.locator("#points svg").count() == 1
    rows = page.locator("#compare-table tbody tr")
    first = [rows.nth(i).inner_text().split("\t")[0].strip() for i in range(rows.count())]
    gpus = ("mi300x", "h200", "b200", "mi355x")
    assert [text.splitlines()[0] for text in first] == [f"8 × {gpu}" for gpu in gpus]
    assert all(text.endswith(" USD per GPU-hour") for text in first)
    assert page.locator("#points .frontier").count() == 4
    assert text(page, "#compare-lead").startswith("Cheapest tokens: ")
    assert page.locator("#vs-add").is_disabled()


def test_a_gpu_is_added_to_the_comparison_and_taken_away(page: Any, server: str) -> None:
    opened(page, server)
    assert not page.locator("#compare").is_visible()
    redrawn(page, lambda: page.select_option("#vs-add", "gpu h200"))
    redrawn(page, lambda: page.select_option("#vs-add", "model qwen3-32b"))
    assert page.locator("#compare-table tbody tr").count() == 3
    assert "vs_gpu=h200" in page.url
    assert "vs_model=qwen3-32b" in page.url
    redrawn(page, lambda: page.click('[data-vs="gpu h200"]'))
    assert page.locator("#compare-table tbody tr").count() == 2


def test_what_does_not_fit_is_a_row_that_says_why(page: Any, server: str) -> None:
    opened(page, f"{server}/?model=llama-3.1-405b&dtype=bf16&vs_gpu=l40s")
    row = page.locator("#compare-table tbody tr").nth(1)
    assert "does not fit" in row.inner_text()
    assert page.locator("#points svg").is_visible()


def test_a_measured_study_lies_over_the_predictions(page: Any, server: str) -> None:
    opened(page, f"{server}/?study=night-run&layout=TP8&batch=16")
    assert "□ measured" in text(page, "#legend")
    assert "mean error 9.1 %" in text(page, "#beside")
    assert "measured" in text(page, "#cell-metrics")
    redrawn(page, lambda: page.select_option("#gpu", "h200"))  # nothing was measured there
    assert "no cells with this model" in text(page, "#beside")
    assert "□ measured" not in text(page, "#legend")


def test_at_a_rate_answer_ranking_chart_and_cells_agree(page: Any, server: str) -> None:
    opened(page, f"{server}/?rate=2")
    assert "2 requests/s ✓ met" in text(page, "#answer-chips")
    title = text(page, "#answer-title")
    assert text(page, "#ranking-table tbody tr:first-child td:nth-child(2)") == title
    assert "requested bounds" in text(page, "#legend")
    # one request at a time on each of 8 GPUs: 42 tok/s each, so 8 x 42 / 2048 = 0.165 requests/s
    assert "requests/s" in text(page, '[data-cell="1 TP1"] .short')
    assert "--request-rate 2" in text(page, "#terminal")
    redrawn(page, lambda: page.fill("#rate", "20"))
    assert text(page, "#answer-title") == "Not enough for 20 requests/s"
    assert "20 requests/s ✗ missed" in text(page, "#answer-chips")
    assert "20 requests/s need" in text(page, "#answer-why")


def test_buttons_work_for_a_valid_state_alone(page: Any, server: str) -> None:
    buttons = ("#copy-command", "#share")
    links = ("#download-deployment", "#download-csv", "#download-report")
    opened(page, server)
    assert all(page.locator(name).is_enabled() for name in buttons)
    assert all(page.get_attribute(name, "href") for name in links)

    page.select_option("#dtype", "bf16")
    page.select_option("#gpu", "l40s")
    page.fill("#gpus", "1")  # 141 GB of weights on 48
    page.wait_for_selector("#gpus-problem:not(:empty)")
    assert all(page.locator(name).is_disabled() for name in buttons)
    assert [page.get_attribute(name, "href") for name in links] == [None] * 3
    assert [page.get_attribute(name, "aria-disabled") for name in links] == ["true"] * 3

    redrawn(page, lambda: page.select_option("#gpu", "mi300x"))
    assert all(page.get_attribute(name, "href") for name in links)
    redrawn(page, lambda: page.fill("#tpot", "0.01"))  # valid, and met by nothing
    assert page.locator("#copy-command").is_disabled()
    assert page.get_attribute("#download-deployment", "href") is None
    assert page.get_attribute("#download-csv", "href")


def test_the_command_is_copied_and_the_file_is_of_the_answer(page: Any, server: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened(page, f"{server}/?gpu=h200&tpot=30")
    page.wait_for_selector("html[data-detailed]")
    page.bring_to_front()  # a page without the focus may not write to the clipboard
    page.click("#copy-command")
    # not wait_for_function: it evaluates a string, which the page's content policy forbids
    page.locator("#shared", has_text="Copied.").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == text(page, "#command")
    replicas, _, layout = text(page, "#answer-title").partition(" × TP")
    assert len(copied.splitlines()) == int(replicas)
    assert f"--tensor-parallel-size {layout} " in copied
    with page.expect_download() as download:
        page.click("#download-deployment")
    (model,) = parse(tomllib.loads(download.value.path().read_text()), "it").models
    assert (model.replicas, model.tp_size) == (int(replicas), int(layout))


def test_the_report_keeps_what_is_compared_and_the_link_is_the_address(
    page: Any, server: str
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened(page, f"{server}/?vs_gpu=h200")
    page.click("#share")
    page.locator("#shared", has_text="Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    with page.expect_download() as download:
        page.click("#download-report")
    report = download.value.path().read_text()
    compared = report[report.index('id="table-compared"') :]
    first = page.locator("#compare-table tbody tr").nth(1).locator("td").nth(2).inner_text()
    assert "8 × h200" in compared
    assert first.split()[0] in compared


def test_other_questions_are_answered_beside_and_asked_by_a_click(page: Any, server: str) -> None:
    opened(page, server)
    page.wait_for_selector("html[data-detailed]")
    longer = page.locator("#changes-list button").first
    assert longer.inner_text().startswith("Prompts twice as long")
    promised = longer.locator("strong").inner_text()
    redrawn(page, longer.click)
    assert page.input_value("#isl") == "4096"
    assert text(page, "#answer-title") == promised


def test_a_question_that_nothing_meets_says_what_is_short(page: Any, server: str) -> None:
    opened(page, f"{server}/?rate=20")
    page.wait_for_selector("html[data-detailed]")
    assert "not enough" in text(page, "#changes-list li:last-child")
    assert "requests/s, so" in text(page, "#changes-list li:last-child")
    opened(page, f"{server}/?tpot=5")
    page.wait_for_selector("html[data-detailed]")
    assert "misses TPOT by" in text(page, "#changes-list li:first-child")


def test_an_address_that_cannot_be_answered_shows_its_message_alone(page: Any, server: str) -> None:
    opened(page, f"{server}/?model=llama-3.1-405b&gpu=l40s&gpus=1&dtype=bf16")
    assert "does not fit" in text(page, "#banner")
    assert "last state" not in text(page, "#banner")
    assert not page.locator("#answer").is_visible()
    assert not page.locator("#points").is_visible()
    redrawn(page, lambda: page.select_option("#gpu", "mi300x"))
    assert page.locator("#answer").is_visible()
    assert page.locator("#points svg").bounding_box()["width"] > 500


def test_the_axes_are_drawn_anew(page: Any, server: str) -> None:
    opened(page, server)
    before = page.locator("#points svg").screenshot()
    for axis in ("e2e_latency_s", "tpot_s", "ttft_s"):
        redrawn(page, lambda axis=axis: page.select_option("#axis", axis))
        assert page.locator("#points svg").count() == 1
        assert page.locator("#points svg").screenshot() != before


def test_a_model_that_fits_one_layout_only_has_a_page(page: Any, server: str) -> None:
    opened(page, f"{server}/?model=llama-3.1-405b&dtype=bf16")
    assert "GB per GPU short" in text(page, "#rejected")
    assert page.locator("#ranking-table tbody tr").count() >= 1
    redrawn(page, lambda: page.select_option("#model", "llama-3.1-70b"))
    assert page.locator("#ranking-table tbody tr").count() >= 4


def test_a_click_on_a_point_takes_that_cell_apart(page: Any, server: str) -> None:
    opened(page, server)
    page.wait_for_selector("html[data-detailed]")  # the parts that come later move the chart down
    before = text(page, "#cell-title")
    box = page.locator("#points svg").bounding_box()
    # a point is found as a person finds it: along the chart until one is hit
    for x in range(60, int(box["width"]) - 10, 6):
        page.mouse.click(box["x"] + x, box["y"] + box["height"] * 0.62)
    page.locator("#cell-title", has_not_text=before).wait_for()


def test_a_token_is_taken_apart_by_operator(page: Any, server: str) -> None:
    opened(page, f"{server}/?model=gpt-oss-120b&gpu=h200&dtype=auto")
    page.wait_for_selector("html[data-detailed]")
    rows = page.locator("#step-table tbody tr")
    names = [rows.nth(i).inner_text().split("\t")[0] for i in range(rows.count())]
    assert "experts, grouped" in names
    shares = [float(rows.nth(i).locator("td").nth(3).inner_text()) for i in range(rows.count())]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert "interpolated" in text(page, "#step-table")


def test_the_layout_switch_offers_what_runs(page: Any, server: str) -> None:
    opened(page, f"{server}/?model=gpt-oss-120b&gpu=h200&dtype=auto")
    offered = page.locator("#layout option").all_inner_texts()
    assert {"recommended", "TP1", "TP8 × EP8", "TP4 × PP2"} <= set(offered)
    redrawn(page, lambda: page.select_option("#layout", "TP8 x EP8"))
    assert text(page, "#cell-title").startswith("1 × (TP8 × EP8)")


def test_the_keyboard_alone_changes_a_slider_and_chooses_a_cell(page: Any, server: str) -> None:
    opened(page, server)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus('input[data-for="isl"]')
    redrawn(page, lambda: page.keyboard.press("ArrowRight"))
    assert page.input_value("#isl") == "2896"  # half an octave above 2048
    page.focus('[data-cell="8 TP4"]')
    redrawn(page, lambda: page.keyboard.press("Enter"))
    assert "2 × TP4 at 8 in flight" in text(page, "#cell-title")
    assert page.evaluate("document.activeElement.dataset.cell") == "8 TP4"


def test_bad_input_is_said_beside_the_field_and_the_answer_stays(page: Any, server: str) -> None:
    opened(page, server)
    page.fill("#isl", "900000")
    page.wait_for_selector("#isl-problem:not(:empty)")
    assert "allowed: at most the 131072 tokens" in text(page, "#banner")
    line = page.evaluate(
        "parseFloat(getComputedStyle(document.getElementById('isl-problem')).lineHeight)"
    )
    assert page.locator("#isl-problem").bounding_box()["height"] <= 2 * line + 1
    assert page.get_attribute("#isl", "aria-invalid") == "true"
    assert page.locator("#points svg").is_visible()
    redrawn(page, lambda: page.fill("#isl", "1024"))
    assert text(page, "#isl-problem") == ""
    assert not page.locator("#banner").is_visible()


@pytest.mark.parametrize("field", ["model", "gpu", "isl", "study", "engine", "layout"])
def test_a_bad_address_shows_a_message_and_a_page(page: Any, server: str, field: str) -> None:
    opened(page, f"{server}/?{field}={quote('<script>alert(1)</script>')}&osl=8")
    assert "<script>" in page.locator(f"#{field}-problem").text_content()
    assert page.locator("#points svg").is_visible()
    assert page.evaluate("document.querySelectorAll('main script').length") == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_a_hostile_name_is_text_and_breaks_no_layout(page: Any, server: str, width: int) -> None:
    opened(page, f"{server}/?model={quote(HOSTILE[:3000])}", width)
    assert page.locator("#model-problem").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (390, "light")])
def test_axe_finds_nothing_serious(page: Any, server: str, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe").Axe()
    page.emulate_media(color_scheme=scheme)
    for query in ("isl=900000", f"{FOUR}&rate=2&study=night-run", "rate=20"):
        opened(page, f"{server}/?{query}", width)
        if "isl" not in query:
            page.wait_for_selector("html[data-detailed]")
        found = axe.run(page).response["violations"]
        assert [v["id"] for v in found if v["impact"] in {"serious", "critical"}] == []


def test_a_study_with_a_hostile_model_name_is_listed_and_refused_as_text(
    page: Any, server: str
) -> None:
    opened(page, server, 390)
    page.select_option("#study", "hostile")
    page.wait_for_selector("#model-problem:not(:empty)")
    assert "<script>" in page.locator("#model-problem").text_content()
    assert page.evaluate("document.querySelectorAll('main script, form script').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
