"""docs/metrics.md is the definition in words, so it says what the code says."""

from __future__ import annotations

from pathlib import Path

from shardwise import metrics

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"


def test_the_page_shows_every_metric_with_its_unit_and_formula() -> None:
    rows = {line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")}
    for metric in metrics.ALL.values():
        assert f"| `{metric.name}` | {metric.unit} | {metric.formula} |" in rows
