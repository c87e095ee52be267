"""The README's figures are what the commands print today."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUDY = "study llama-3.1-70b --gpu mi300x --dtype fp8 --kv-dtype fp8 --requests 256 --batch 16,128"


def test_the_first_screen_shows_what_the_study_predicts() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", *STUDY.split(), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    readme = (ROOT / "README.md").read_text("utf-8")
    steps = [
        step["change_pct"]
        for step in json.loads(done.stdout)["study"]["steps"]
        if step["metric"] == "e2e_latency_s" and step["to_tp"] > step["from_tp"]
    ]
    assert len(steps) == 6
    for change in steps:
        assert f"{change['value']:+.1f} % ({change['lo']:+.1f}…{change['hi']:+.1f})" in readme


def test_the_mean_error_is_the_one_that_was_written_down() -> None:
    found = json.loads((ROOT / "results" / "accuracy.json").read_text("utf-8"))
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"**{found['published_steps_mae_points']:.1f} points**" in readme


def test_the_readme_names_the_two_commands_and_make_has_them() -> None:
    readme, make = (ROOT / "README.md").read_text("utf-8"), (ROOT / "Makefile").read_text("utf-8")
    for target in ("study", "test"):
        assert f"make {target} " in readme
        assert f"\n{target}: " in make
