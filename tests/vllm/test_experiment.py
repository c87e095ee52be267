"""The measured study on an engine that nobody here wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.vllm.test_sweep import ENVIRONMENT, FLAGS

pytestmark = pytest.mark.vllm


def test_the_loop_predicts_measures_and_corrects_vllm(
    vllm_python: str, random_llama: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="hardware detect needs: pip install 'shardwise[engine]'")
    folder = tmp_path / "measured"
    command = [sys.executable, "-m", "shardwise.cli.main", "study", str(random_llama), "--measure"]
    command += ["--engine", "vllm", "--python", vllm_python, "--dtype", "fp32"]
    command += ["--tp", "1,2", "--batch", "1,4", "--isl", "32", "--osl", "16", "-o", str(folder)]
    command += [f"--env={name}={value}" for name, value in ENVIRONMENT.items()]
    command += [f"--flag={flag}" for flag in FLAGS]
    done = subprocess.run(
        command,
        env={**os.environ, "SHARDWISE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    found = json.loads((folder / "experiment.json").read_text())
    compared = found["corrected"]["compared"]
    # two batches in both modes on TP=1, TP=2 and TP=1 over both cores; two copies in closed loops
    assert len(compared) == (14 if len(os.sched_getaffinity(0)) > 1 else 8)
    for cell in compared:
        for interval in cell["measured"]["metrics"].values():
            assert 0 < interval["lo"] <= interval["value"] <= interval["hi"]
    assert {score["metric"] for score in found["corrected"]["scores"]} >= {"tpot_s"}
    assert found["claims"]
