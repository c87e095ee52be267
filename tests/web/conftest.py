"""A real explorer on a free port with a store, and a real browser where one is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shardwise.analysis.run import Question, predict_grid
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.reports.files import write_json

HOSTILE = "<script>alert(1)</script>\u202eevil" + "x" * 10_000


def measured_cells() -> list[Evidence]:
    """The default state's cells at TP=8, as if a run had found them 10 % slower."""
    subject, _ = subject_of(Asked("llama-3.1-70b", "mi300x", weight_dtype="fp8"))
    cells, _ = predict_grid(subject, Question(8, (8,), (1, 16, 64), 2048, 2048))
    return [
        replace(
            cell,
            metrics={
                name: Interval(m.value * 1.1, m.value * 1.08, m.value * 1.12, 40)
                for name, m in cell.metrics.items()
            },
            source=Source("measured", "a run", "2026-11-01"),
            breakdown={},
        )
        for cell in cells
    ]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write_json(folder / "night-run.json", measured_cells())
    cells = measured_cells()
    hostile = [replace(c, deployment=replace(c.deployment, model=HOSTILE)) for c in cells]
    write_json(folder / "hostile.json", hostile)
    (folder / "broken.json").write_text("{")
    secret = tmp_path_factory.mktemp("outside") / "secret.json"
    write_json(secret, cells)
    (folder / "link.json").symlink_to(secret)
    return folder


@pytest.fixture(scope="session")
def server(store: Path) -> Iterator[str]:
    pytest.importorskip("uvicorn", reason="the extra `web` is not installed")
    pytest.importorskip("starlette", reason="the extra `web` is not installed")
    command = [sys.executable, "-m", "shardwise.cli.main", "web", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--store", str(store)], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stderr
    found = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
    assert found, "the explorer says where it listens"
    yield found[0]
    process.terminate()
    process.wait(10)


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page whose console must stay silent."""
    made = browser.new_page(viewport={"width": 1400, "height": 1000})
    said: list[str] = []
    made.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    made.on("pageerror", lambda error: said.append(str(error)))
    yield made
    made.close()
    wrong = [line for line in said if "422 (Unprocessable" not in line]  # told beside the field
    assert not wrong
