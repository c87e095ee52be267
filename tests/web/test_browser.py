"""The explorer's whole path in a real browser; the page fixture fails on any console message."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

HOSTILE = "<script>alert(1)</script>\u202eevil" + "x" * 10_000


WIDTHS = (1400, 390)


def opened(page: Any, address: str, width: int = 1400) -> Any:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    return page


def redrawn(page: Any, act: Any) -> None:
    """`act`, then wait until the charts have been drawn anew."""
    count = "performance.getEntriesByName('redraw').length"
    before = page.evaluate(count)
    act()
    for _ in range(500):
        if page.evaluate(count) > before:
            return
        page.wait_for_timeout(10)
    raise AssertionError("the charts were not drawn anew within 5 s")


@pytest.mark.parametrize("width", WIDTHS)
def test_choose_change_click_share_and_download(page: Any, server: str, width: int) -> None:
    opened(page, server, width)
    first = page.locator("#advice").inner_text()
    redrawn(page, lambda: page.select_option("#gpu", "h200"))
    redrawn(page, lambda: page.fill("#isl", "512"))
    assert page.locator("#advice").inner_text() != first
    redrawn(page, lambda: page.click('[data-cell="2 64"]'))
    assert "TP=2, batch 64" in page.locator("#cell-title").inner_text()
    assert "gpu=h200" in page.url
    assert "tp=2" in page.url

    shared = page.context.browser.new_page(viewport={"width": width, "height": 900})
    opened(shared, page.url, width)
    assert shared.locator("#advice").inner_text() == page.locator("#advice").inner_text()
    assert shared.locator("#cell-title").inner_text() == page.locator("#cell-title").inner_text()
    shared.close()

    for name in ("deployment", "csv"):
        with page.expect_download() as download:
            page.click(f"#download-{name}")
        assert download.value.path().stat().st_size > 100


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(page: Any, server: str, width: int) -> None:
    opened(page, f"{server}/?vs_gpu=b200&rate=2&study=night-run", width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_two_gpus_side_by_side_and_a_measured_study_over_the_first(page: Any, server: str) -> None:
    opened(page, f"{server}/?vs_gpu=b200&study=night-run")
    assert page.locator("#other-points canvas").is_visible()
    assert "measured: dashed, squares" in page.locator("#legend").inner_text()
    assert "mean error 9.1 %" in page.locator("#beside").inner_text()
    assert "b200" in page.locator("#compare-table").inner_text()


def test_the_recommendation_follows_batch_rate_and_bound(page: Any, server: str) -> None:
    opened(page, server)
    cards = page.locator("#advice article")
    assert "batch 16 per copy" in cards.nth(2).inner_text()
    redrawn(page, lambda: page.fill("#batch", "64"))
    assert "batch 64 per copy" in cards.nth(2).inner_text()
    free = cards.nth(0).inner_text()
    redrawn(page, lambda: page.fill("#rate", "1.5"))
    assert "at 1.5 requests/s" in cards.nth(0).inner_text()
    assert cards.nth(0).inner_text() != free
    assert "--request-rate 1.5" in page.locator("#command").inner_text()
    redrawn(page, lambda: page.fill("#tpot", "0.01"))
    assert "nothing meets this" in cards.nth(0).inner_text()


def test_the_latency_axis_is_drawn_anew_and_measured_values_stand_in_the_cell(
    page: Any, server: str
) -> None:
    opened(page, f"{server}/?study=night-run&tp=8")
    assert "measured" in page.locator("#cell-metrics").inner_text()
    before = page.locator("#points canvas").screenshot()
    redrawn(page, lambda: page.select_option("#axis", "tpot_s"))
    assert page.locator("#points canvas").count() == 1
    assert page.locator("#points canvas").screenshot() != before
    redrawn(page, lambda: page.select_option("#gpu", "h200"))  # nothing was measured there
    assert "no cell with this model" in page.locator("#beside").inner_text()
    assert "measured: dashed" not in page.locator("#legend").inner_text()


def test_a_model_that_fits_one_tp_only_has_words_where_the_steps_were(
    page: Any, server: str
) -> None:
    opened(page, server)
    redrawn(page, lambda: page.select_option("#dtype", "bf16"))
    redrawn(page, lambda: page.select_option("#model", "llama-3.1-405b"))
    assert "Only one TP size fits" in page.locator("#steps").inner_text()
    assert page.locator("#skipped li").count() == 3
    redrawn(page, lambda: page.select_option("#model", "llama-3.1-70b"))
    assert page.locator("#steps canvas").is_visible()


def test_a_click_on_a_point_takes_that_cell_apart(page: Any, server: str) -> None:
    opened(page, server)
    before = page.locator("#cell-title").inner_text()
    box = page.locator("#points canvas").bounding_box()
    # a point is found as a person finds it: look over the chart until the hand shows a tooltip
    for y in range(10, int(box["height"]) - 40, 6):
        page.mouse.click(box["x"] + box["width"] * 0.16, box["y"] + y)
    for x in range(60, int(box["width"]) - 10, 12):
        page.mouse.click(box["x"] + x, box["y"] + 30)
    page.wait_for_timeout(300)
    assert page.locator("#cell-title").inner_text() != before


def test_the_keyboard_alone_changes_a_slider_and_chooses_a_cell(page: Any, server: str) -> None:
    opened(page, server)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus('input[data-for="batch"]')
    redrawn(page, lambda: page.keyboard.press("ArrowRight"))
    assert page.input_value("#batch") == "32"
    page.focus('[data-cell="4 8"]')
    redrawn(page, lambda: page.keyboard.press("Enter"))
    assert "TP=4, batch 8" in page.locator("#cell-title").inner_text()
    assert page.evaluate("document.activeElement.dataset.cell") == "4 8"


def test_bad_input_is_said_beside_the_field_and_the_charts_stay(page: Any, server: str) -> None:
    opened(page, server)
    page.fill("#isl", "900000")
    page.wait_for_selector("#isl-problem:not(:empty)")
    assert "allowed: at most the 131072 tokens" in page.locator("#isl-problem").inner_text()
    assert page.get_attribute("#isl", "aria-invalid") == "true"
    assert page.locator("#points canvas").is_visible()
    redrawn(page, lambda: page.fill("#isl", "1024"))
    assert page.locator("#isl-problem").inner_text() == ""


@pytest.mark.parametrize("field", ["model", "gpu", "isl", "study", "engine"])
def test_a_bad_address_shows_a_message_and_a_page(page: Any, server: str, field: str) -> None:
    opened(page, f"{server}/?{field}={quote('<script>alert(1)</script>')}&batch=8")
    message = page.locator(f"#{field}-problem").inner_text()
    assert "<script>" in message
    assert page.locator("#points canvas").is_visible()
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
    for query in ("isl=900000", "vs_gpu=b200&rate=2&study=night-run"):
        opened(page, f"{server}/?{query}", width)
        found = axe.run(page).response["violations"]
        assert [v["id"] for v in found if v["impact"] in {"serious", "critical"}] == []


def test_a_study_with_a_hostile_model_name_is_listed_and_refused_as_text(
    page: Any, server: str
) -> None:
    opened(page, server, 390)
    page.select_option("#study", "hostile")
    page.wait_for_selector("#model-problem:not(:empty)")
    assert "<script>" in page.locator("#model-problem").inner_text()
    assert page.evaluate("document.querySelectorAll('main script, form script').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
