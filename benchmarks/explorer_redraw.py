"""How long a new explorer's first page takes, and how long after a slider's move the charts are
drawn anew, in a real browser.

    PYTHONPATH=src python benchmarks/explorer_redraw.py [--moves 100] [--query vs_gpu=h200]

A first view runs from the navigation, made as soon as a new server has printed its address, to the
frame after the answer and the chart are drawn. Each of `--views` has a server and a browser of its
own; the last one's moves are measured.

Each move is one key press on a slider. The time runs from the browser's input event, over the
request, the answer, the chart and the tables, to the next frame (`performance.measure` in
explorer.js). The parts below the answer (a token by operator, other questions, memory) follow in a
request of their own and are not in it. Needs the extra `web`, playwright and chromium. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SLIDERS = ("isl", "osl", "tpot", "ttft")
LIMIT_MS = 100.0
LIMIT_FIRST_MS = 1000.0


def redraws_ms(page: Any, moves: int) -> list[float]:
    """Milliseconds of each of `moves` slider moves, one after another."""
    count = "performance.getEntriesByName('redraw').length"
    page.wait_for_timeout(500)
    page.evaluate("performance.clearMeasures()")
    for move in range(moves):
        turn, which = divmod(move, len(SLIDERS))
        slider = page.locator(f'input[data-for="{SLIDERS[which]}"]')
        slider.focus()
        # each to and fro at its own pace: no state comes twice, none was worked out before
        slider.press("ArrowLeft" if turn // (3 + which) % 2 == 0 else "ArrowRight")
        while page.evaluate(count) <= move:
            page.wait_for_timeout(5)
    found: list[float] = page.evaluate(
        "performance.getEntriesByName('redraw').map((entry) => entry.duration)"
    )
    return found


def measure(moves: int, width: int, query: str) -> tuple[float, list[float]]:
    """Start an explorer and a browser, see the first page, move the sliders, stop both.

    Returns milliseconds of the first view and of each move.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": 1000})
        command = [sys.executable, "-m", "shardwise.cli.main", "web", "--port", "0"]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr
            address = re.search(r"http://\S+", server.stderr.readline())
            assert address, "the explorer says where it listens"
            page.goto(f"{address[0]}?{query}")
            page.wait_for_selector("html[data-ready]")
            first = None
            while first is None:  # drawn by the next frame
                first = page.evaluate("performance.getEntriesByName('first view')[0]?.startTime")
            return first, redraws_ms(page, moves) if moves else []
        finally:
            browser.close()
            server.terminate()
            server.wait(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--query", default="", help="Of the address: vs_gpu=h200 compares two.")
    parser.add_argument("--views", type=int, default=5, help="New servers, each seen once.")
    given = parser.parse_args()
    views = [measure(0, given.width, given.query)[0] for _ in range(given.views - 1)]
    last, moves = measure(given.moves, given.width, given.query)
    views, found = sorted([*views, last]), sorted(moves)
    percentiles = statistics.quantiles(found, n=20)
    result = {
        "benchmark": "explorer_redraw",
        "n": len(found),
        "width_px": given.width,
        "query": given.query,
        "median_ms": round(statistics.median(found), 1),
        "p95_ms": round(percentiles[18], 1),
        "max_ms": round(found[-1], 1),
        "limit_p95_ms": LIMIT_MS,
        "first_views": len(views),
        "first_view_median_ms": round(statistics.median(views), 1),
        "first_view_max_ms": round(views[-1], 1),
        "limit_first_view_ms": LIMIT_FIRST_MS,
        "cpus": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
    }
    print(f"first view of a new server: median {result['first_view_median_ms']} ms")
    print(f"slider to redrawn charts: median {result['median_ms']} ms, p95 {result['p95_ms']} ms")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
