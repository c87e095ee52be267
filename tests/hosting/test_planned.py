"""What was planned is what the file runs, flag for flag."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from shardwise.hosting.deployment_file import load
from shardwise.hosting.launching import launches

PLAN = "plan llama-3.1-70b --gpu mi300x --gpus 8 --isl 1024 --osl 512 --concurrency 64 --dtype fp8"


def test_the_saved_file_starts_the_command_that_the_plan_printed(tmp_path: Path) -> None:
    saved = tmp_path / "deployment.toml"
    done = subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", *PLAN.split(), "--json", "--save", str(saved)],
        capture_output=True,
        text=True,
        check=True,
    )
    printed = json.loads(done.stdout)["ranked"][0]
    runs = launches(load(saved), "rocm")
    best = printed["evidence"]["deployment"]
    assert len(runs) == best["replicas"]
    assert best["pp_size"] == 1
    argv = " ".join(runs[0].argv)
    for flag, value in (
        ("--tensor-parallel-size", best["tp_size"]),
        ("--max-num-seqs", best["max_num_seqs"]),
        ("--max-num-batched-tokens", best["max_num_batched_tokens"]),
        ("--gpu-memory-utilization", best["gpu_memory_utilization"]),
        ("--max-model-len", best["max_model_len"]),
        ("--quantization", "fp8"),
    ):
        assert f"{flag} {value}" in argv, argv
    devices = [device for run in runs for device in run.devices]
    assert devices == list(range(best["replicas"] * best["tp_size"] * best["pp_size"]))
