"""What would stop a replica is said before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardwise.doctor.preflight import require_ready
from shardwise.errors import InputError
from shardwise.hosting.deployment_file import ModelTable
from shardwise.hosting.launching import Launch
from shardwise.hosting.node_check import check_node
from shardwise.node.reading.read import Reading, read

HEAD = "index, name, memory.total [MiB], memory.used [MiB], mig.mode.current\n"


def gpus(*rows: str) -> Reading:
    return read(HEAD + "\n".join(rows) + "\n")


def test_idle_gpus_are_ready() -> None:
    idle = gpus("0, NVIDIA L40S, 46068 MiB, 4 MiB, Disabled")
    require_ready(idle, "m/0", [0], 0.9, "vllm")


def test_memory_in_use_that_vllm_would_refuse() -> None:
    """10,000 of 46,068 MiB in use leave 78.3 %."""
    busy = gpus("0, NVIDIA L40S, 46068 MiB, 10000 MiB, Disabled")
    with pytest.raises(InputError, match=r"m/0: 9\.8 GiB of GPU 0 are in use.* at most 0\.78"):
        require_ready(busy, "m/0", [0], 0.9, "vllm")
    require_ready(busy, "m/0", [0], 0.78, "vllm")
    require_ready(busy, "m/0", [0], 0.9, "sglang")  # its share is of what is free
    require_ready(busy, "m/0", [1], 0.9, "vllm")  # another GPU


def test_mig_stops_tp_and_not_one_gpu() -> None:
    split = gpus(*(f"{i}, NVIDIA H100 80GB HBM3, 81559 MiB, 0 MiB, Enabled" for i in range(2)))
    require_ready(split, "m/0", [0], 0.9, "vllm")
    with pytest.raises(InputError, match="GPU 0 has MIG on"):
        require_ready(split, "m/0", [0, 1], 0.9, "vllm")


def test_a_gpu_that_is_lost_stops_everything() -> None:
    lost = read("Unable to determine the device handle for GPU0000:20:00.0: Unknown Error\n")
    with pytest.raises(InputError, match=r"GPU 0000:20:00\.0 does not answer"):
        require_ready(lost, "m/0", [0], 0.9, "vllm")


def test_up_asks_the_machine_s_own_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        f'#!/bin/sh\nprintf "{HEAD}0, NVIDIA L40S, 46068 MiB, 46000 MiB, Disabled\\n"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    launch = Launch("m/0", ModelTable(model="m"), "127.0.0.1", 8000, (0,), "cuda")
    with pytest.raises(InputError, match="are in use"):
        check_node([launch])
    check_node([])
