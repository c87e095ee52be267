"""The README's figures are what the commands print today."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUDY = (
    "study llama-3.1-70b --gpu mi300x --dtype fp8 --kv-dtype fp8 --requests 256 --batch 16,128"
    " --length-cv 0"
)


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


def test_the_errors_beside_the_peers_are_those_that_were_written_down() -> None:
    found = json.loads((ROOT / "results" / "accuracy.json").read_text("utf-8"))
    peer = json.loads((ROOT / "results" / "aiconfigurator.json").read_text("utf-8"))
    theirs = {
        cell["metric"]: cell["aiconfigurator_pct"]
        for cell in peer["cells"]
        if (cell["model"], cell["gpu"]) == ("llama-3.1-70b", "h200")
    }
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    ours = {m: found[f"h200_vllm_70b_tp_left_out_{m}_pct"] for m in ("tpot", "ttft")}
    said = f"TPOT is {ours['tpot']:.1f} % off on H200 vLLM (aiconfigurator 0.12: "
    assert f"{said}{theirs['tpot_s']:.1f} %) and TTFT {ours['ttft']:.1f} % (" in readme
    assert f"TTFT {ours['ttft']:.1f} % ({theirs['ttft_s']:.1f} %)" in readme


def test_the_simulators_figures_are_those_of_its_benchmark() -> None:
    found = json.loads((ROOT / "results" / "traffic.json").read_text("utf-8"))["paired_with_vidur"]
    page = (ROOT / "docs" / "howto" / "simulate.md").read_text("utf-8")
    (a, b), (c, d) = ([1e3 * x for x in found["ttft_s"][k]] for k in ("shardwise", "vidur"))
    assert f"{a:.1f} and {b:.1f} ms here, {c:.1f} and {d:.1f} there" in page
    (a, b), (c, d) = (found["e2e_latency_s"][k] for k in ("shardwise", "vidur"))
    assert f"{a:.3f} and {b:.3f} s, {c:.3f} and {d:.3f} there" in page
    speed = {tool: x / 1e6 for tool, x in found["tok_per_s"].items()}
    assert f"{speed['shardwise']:.1f} million output tokens a second" in page
    assert f"Vidur {speed['vidur']:.2f} million" in page


def test_the_readme_names_the_two_commands_and_make_has_them() -> None:
    readme, make = (ROOT / "README.md").read_text("utf-8"), (ROOT / "Makefile").read_text("utf-8")
    for target in ("study", "test"):
        assert f"make {target} " in readme
        assert f"\n{target}: " in make
