"""Layouts on the command line: a study over them, rows with them, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tests.cli.test_plan import run

STUDY = ["study", "deepseek-r1", "--gpu", "h200", "--isl", "1000", "--osl", "200"]
HEADER = "model_id,gpu_id,engine_id,weight_dtype,tp,pp,ep,dp,gpus,mode,concurrency,isl,osl"


def test_a_study_over_layouts_is_two_tables() -> None:
    done = run(*STUDY, "--layouts", "TP8,DP8xEP8", "--batch", "8,64", "--wide")
    assert done.returncode == 0, done.stderr
    assert "Layouts at each batch of one replica" in done.stdout
    assert "TP8 → DP8 x EP8" in done.stdout


def test_usual_batches_are_those_that_all_copies_share_and_files_are_written(
    tmp_path: Path,
) -> None:
    done = run(*STUDY, "--layouts", "TP8,DP8xEP8", "--json", "-o", str(tmp_path))
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)["layouts"]["evidence"]
    batches = {c["workload"]["concurrency"] for c in cells}
    assert batches == {8, 16, 32, 64, 128, 256}
    assert {p.name for p in tmp_path.iterdir()} == {
        "layouts.json",
        "layouts.csv",
        "layout_steps.csv",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layouts", "TP8xTP2"], "has TP twice"),
        (["--layouts", "TP8xEP4"], "EP=4 with vLLM"),
        (["--layouts", "DP8xEP8", "--batch", "12"], "batch 12 over the 8 copies of attention"),
        (["--layouts", "TP8", "--measure"], "--layouts with --measure"),
    ],
)
def test_a_contradiction_is_one_line_and_exit_2(arguments: list[str], words: str) -> None:
    done = run(*STUDY, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("llama-3.1-70b,h100,vllm,fp8,4,1,4,1,4,closed_loop,8", "needs experts"),
        ("llama-3.1-70b,h100,vllm,fp8,1,1,1,8,8,closed_loop,8", "use 8 replicas"),
        ("llama-3.1-70b,h100,vllm,fp8,3,1,1,1,3,closed_loop,8", "64 attention heads"),
        ("deepseek-r1,h200,vllm,fp8,8,1,4,1,8,closed_loop,8", "EP=4 with vLLM"),
        ("deepseek-r1,h200,vllm,fp8,8,1,8,1,4,closed_loop,8", "gpus is 4 with tp 8"),
        ("deepseek-r1,h200,vllm,fp8,1,1,8,8,8,static_batch,12", "allowed: multiples of 8"),
    ],
)
def test_a_row_whose_layout_contradicts_itself_is_told_with_its_reason(
    tmp_path: Path, row: str, words: str
) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text(f"{HEADER}\n{row},1000,100\n")
    done = run("predict", str(rows), "-o", str(out))
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_rows_are_predicted_in_the_layout_that_their_columns_say(tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    layouts = ("8,1,1,1", "8,1,8,1", "1,1,8,8", "2,1,8,4", "4,2,1,1")
    lines = [f"deepseek-r1,h200,vllm,fp8,{x},8,closed_loop,64,1000,100" for x in layouts]
    rows.write_text("\n".join([HEADER, *lines]) + "\n")
    assert run("predict", str(rows), "-o", str(out)).returncode == 0
    with out.open() as file:
        found = list(csv.DictReader(file))
    assert len({row["pred_tpot_ms"] for row in found}) == len(layouts)
    held = [float(row["pred_kv_cache_tokens"]) for row in found]
    # TP8 and TP8 x EP8 keep the latent cache on every GPU; eight copies hold most, four fewer
    assert held[0] == pytest.approx(held[1], rel=0.1)
    assert held[2] > held[3] > 2 * held[0]


def test_several_kinds_of_gpu_are_compared_without_a_percentile() -> None:
    base = ["plan", "gpt-oss-120b", "--gpus", "2", "--isl", "1000", "--osl", "200"]
    kinds = ["--gpu", "h100", "--gpu", "mi300x", "--gpu", "rtx-4090"]
    done = run(*base, *kinds, "--concurrency", "16", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {d["gpu"] for d in found["kinds"]} == {"h100", "mi300x"}
    assert [x["gpu"] for x in found["without"]] == ["rtx-4090"]
    assert all(d["commands"] for d in found["kinds"])
    refused = run(*base, *kinds, "--price", "2")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--price with 3 kinds of GPU" in refused.stderr
