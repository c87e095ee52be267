"""What was planned is what the file runs, flag for flag."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from shardwise.hosting.deployment_file import load
from shardwise.hosting.launching import launches

PLAN = "plan {model} --gpu mi300x --gpus 8 --isl 1024 --osl 512 --concurrency 64 --dtype fp8"


def flags(argv: Sequence[str]) -> dict[str, str]:
    """Options with their values; where it listens and how it is named is hosting's business."""
    own = {"--host", "--port", "--served-model-name", "--model", "--model-path", "-m"}
    pairs = zip(argv, [*argv[1:], "--"], strict=True)
    found = {a: "" if b.startswith("--") else b for a, b in pairs if a.startswith("-")}
    return {name: value for name, value in found.items() if name not in own}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("model", ["llama-3.1-70b", "qwen3-30b-a3b"])
def test_the_saved_file_starts_the_command_that_the_plan_printed(
    tmp_path: Path, engine: str, model: str
) -> None:
    saved = tmp_path / "deployment.toml"
    asked = [*PLAN.format(model=model).split(), "--engine", engine, "--save", str(saved)]
    done = subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", *asked],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("HIP_VISIBLE_DEVICES=")]
    printed = [shlex.split(line) for line in lines]
    runs = launches(load(saved), "rocm")
    assert len(runs) == len(printed)
    for run, line in zip(runs, printed, strict=True):
        assert flags(run.argv) == flags(line)
        assert line[0] == f"HIP_VISIBLE_DEVICES={run.env['HIP_VISIBLE_DEVICES']}"
    # a published fp8 checkpoint is what was priced
    assert "--quantization" not in flags(printed[0])
    assert "FP8" in printed[0][-1] or any("FP8" in word for word in printed[0])
    assert "--data-parallel-size" not in flags(printed[0])
    share = flags(printed[0]).get("--mem-fraction-static")
    assert (share is not None) == (engine == "sglang")
    if share:  # SGLang's own default: its share is of weights and cache alone
        assert 0.5 < float(share) < 0.95


@pytest.mark.parametrize(
    ("engine", "gpu", "key", "flag"),
    [
        ("vllm", "h200", "attention_dp", "--data-parallel-size"),
        ("sglang", "mi355x", "attention_dp", "--dp-size"),
        ("sglang", "h200", "attention_dp", "--dp-size"),
    ],
)
def test_layouts_beside_tp_are_saved_and_started_as_planned(
    tmp_path: Path, engine: str, gpu: str, key: str, flag: str
) -> None:
    saved = tmp_path / "deployment.toml"
    question = f"plan deepseek-r1 --gpu {gpu} --gpus 8 --isl 1000 --osl 1000 --concurrency 1024"
    asked = [*question.split(), "--engine", engine, "--save", str(saved)]
    done = subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", *asked],
        capture_output=True,
        text=True,
        check=True,
    )
    line, *_ = [x for x in done.stdout.splitlines() if "VISIBLE_DEVICES=" in x]
    file = load(saved)
    run, *_ = launches(file, "cuda" if gpu == "h200" else "rocm")
    size = getattr(file.models[0], key)
    assert size > 1
    assert f"{flag} {size}" in line
    assert len(run.devices) == file.models[0].layout.replica_gpus
    assert flags(run.argv) == flags(shlex.split(line))
