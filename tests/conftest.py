"""What every test shares: a home of its own, hypothesis without a deadline, and one browser, since
two Playwright sessions cannot share a process. At the end of a run it says what was left out."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from tests.skipped import summary

# what the user keeps (GPUs that `make study` measured, profiles) is not what tests are about
HOME = tempfile.TemporaryDirectory(prefix="shardwise-tests-")
os.environ["SHARDWISE_HOME"] = HOME.name

# a shell's background jobs start with Ctrl-C ignored, and so would every command that a test runs
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("shared machine", deadline=None)  # time is benchmarks' business
settings.load_profile("shared machine")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was skipped, why, and how to get it."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = [str(r.longrepr[2] if isinstance(r.longrepr, tuple) else r.longrepr) for r in reports]
    lines = summary(reasons, terminalreporter.config.option.markexpr)
    if lines:
        terminalreporter.section("not run")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out a study's image files, which take seconds, where the claim is about its numbers."""
    monkeypatch.setattr("shardwise.reports.figures.save", lambda *_: [])


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield made
        made.close()
