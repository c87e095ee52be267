"""Replicas of the built-in engine on the GPUs of this machine. Skipped without a CUDA GPU."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.hosting.conftest import free_port, require_balancer, toy
from tests.hosting.load import closed_loop

from shardwise.errors import InputError
from shardwise.hosting import operating
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable, NodeTable, save
from shardwise.replica import processes
from shardwise.replica.devices import present

if not present("cuda") or not shutil.which("nvidia-smi"):
    pytest.skip("needs a CUDA GPU and nvidia-smi", allow_module_level=True)

pytestmark = pytest.mark.live
NODE = NodeTable(gpu="h100-sxm")  # any NVIDIA GPU: it decides the kind of device


def users() -> dict[int, int]:
    """GPU memory in MiB by process."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.split(",") for line in lines if "," in line]
    return {int(pid): int(used) if used.strip().isdigit() else 0 for pid, used in found}


def on_gpu(folder: Path, replicas: int, first_port: int) -> ModelTable:
    model = toy(folder, replicas, first_port)
    return replace(model, flags=["--random-weights"])


def environment(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def test_a_replica_sees_its_own_gpu_alone_comes_back_to_it_and_frees_it(
    deploy: Callable[[DeploymentFile], Path], tmp_path: Path
) -> None:
    require_balancer("caddy")
    first, before = free_port(3), users()
    model = on_gpu(tmp_path, 1, first + 1)
    path = deploy(DeploymentFile(port=first, balancer="caddy", node=NODE, models=[model]))
    process = operating.look(path)[1][0].state.process
    assert process
    seen = environment(process.pid)
    assert seen["CUDA_VISIBLE_DEVICES"] == "0"
    assert seen["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"  # as nvidia-smi counts them
    ended = asyncio.run(closed_loop(first, 8, 64, 20))
    assert {e.outcome for e in ended} == {"whole"}
    ours = set(users()) - set(before)
    assert ours <= {p.pid for p in processes.session(process)}

    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        now = operating.look(path)[1][0]
        if (now.status, now.state.restarts) == ("ready", 1):
            break
        time.sleep(0.3)
    assert (now.status, now.state.restarts) == ("ready", 1)
    again = now.state.process
    assert again
    assert environment(again.pid)["CUDA_VISIBLE_DEVICES"] == "0"
    assert operating.down(path) >= 2
    assert users() == before


def test_more_replicas_than_gpus_are_refused_before_anything_starts(tmp_path: Path) -> None:
    model = on_gpu(tmp_path, len(present("cuda")) + 1, free_port(4))
    path = tmp_path / "deployment.toml"
    save(DeploymentFile(port=free_port(), balancer="caddy", node=NODE, models=[model]), path)
    with pytest.raises(InputError, match=r"cuda device \d+ does not exist"):
        operating.up(path, lambda _: None)
