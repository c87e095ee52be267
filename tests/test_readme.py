"""The README's figures are what the commands print today."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import readme  # noqa: E402

PAGE = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", readme.PARTS)
def test_each_part_is_what_is_printed_today(name: str) -> None:
    """`python benchmarks/readme.py --write` brings the page up to date."""
    assert readme.part_of(PAGE, name) == readme.PARTS[name]()


def test_the_points_off_are_those_that_were_written_down() -> None:
    found = json.loads((ROOT / "results" / "accuracy.json").read_text("utf-8"))
    assert f"off by {found['published_steps_mae_points']:.1f} points on average" in PAGE


def test_every_claim_of_accuracy_names_its_file() -> None:
    section = PAGE.split("## How accurate")[1].split("\n## ")[0]
    for name in re.findall(r"\]\(([^)h][^)]*)\)", section):
        assert (ROOT / name).exists(), name
    assert "(results/accuracy.json)" in section
    assert "(results/aiconfigurator.json)" in section


def test_pictures_survive_on_an_index_page() -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGE)
    assert pictures
    root = "https://raw.githubusercontent.com/shardwise/shardwise/main/"
    for address in pictures:
        assert address.startswith(root)
        assert (ROOT / address.removeprefix(root)).exists()


def test_the_errors_beside_the_peers_are_those_that_were_written_down() -> None:
    found = json.loads((ROOT / "results" / "accuracy.json").read_text("utf-8"))
    peer = json.loads((ROOT / "results" / "aiconfigurator.json").read_text("utf-8"))
    theirs = {
        cell["metric"]: cell["aiconfigurator_pct"]
        for cell in peer["cells"]
        if (cell["model"], cell["gpu"]) == ("llama-3.1-70b", "h200")
    }
    page = " ".join(PAGE.split())
    ours = {m: found[f"h200_vllm_70b_tp_left_out_{m}_pct"] for m in ("tpot", "ttft")}
    said = f"TPOT is {ours['tpot']:.1f} % off on H200 vLLM (aiconfigurator 0.12: "
    assert f"{said}{theirs['tpot_s']:.1f} %) and TTFT {ours['ttft']:.1f} % (" in page
    assert f"TTFT {ours['ttft']:.1f} % ({theirs['ttft_s']:.1f} %)" in page


def test_the_simulators_figures_are_those_of_its_benchmark() -> None:
    found = json.loads((ROOT / "results" / "traffic.json").read_text("utf-8"))["paired_with_vidur"]
    page = (ROOT / "docs" / "howto" / "simulate.md").read_text("utf-8")
    (a, b), (c, d) = ([1e3 * x for x in found["ttft_s"][k]] for k in ("shardwise", "vidur"))
    assert f"{a:.1f} and {b:.1f} ms in Shardwise, {c:.1f} and {d:.1f} ms in Vidur" in page
    (a, b), (c, d) = (found["e2e_latency_s"][k] for k in ("shardwise", "vidur"))
    assert f"{a:.3f} and {b:.3f} s in Shardwise, {c:.3f} and {d:.3f} s in Vidur" in page
    speed = {tool: x / 1e6 for tool, x in found["tok_per_s"].items()}
    assert f"{speed['shardwise']:.1f} million output tokens/s" in page
    assert f"Vidur {speed['vidur']:.2f} million" in page


def test_the_readme_names_the_two_commands_and_make_has_them() -> None:
    make = (ROOT / "Makefile").read_text("utf-8")
    for target in ("study", "test"):
        assert f"make {target} " in PAGE
        assert f"\n{target}: " in make
