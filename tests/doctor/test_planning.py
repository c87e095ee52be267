"""A node file for the planner: all-reduces by its links, and devices by its groups."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from shardwise.doctor.planning import device_order, gpu_on
from shardwise.errors import InputError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.node.files import write
from shardwise.node.links import Link
from shardwise.node.node import Device, Node
from shardwise.perfmodel.profiles import bundled_profile, collectives_for


def cliques(name: str = "NVIDIA H200 NVL", cut: tuple[int, ...] = (0, 2, 4, 6)) -> Node:
    """Eight GPUs: four-way bridges over `cut` and over the others, sockets between."""
    links = {
        (a, b): Link("NVLINK", 6) if (a in cut) == (b in cut) else Link("SYS")
        for a, b in combinations(range(8), 2)
    }
    return Node(tuple(Device(i, name=name) for i in range(8)), links)


def test_devices_are_dealt_in_groups() -> None:
    assert device_order(cliques(), 4) == (0, 2, 4, 6, 1, 3, 5, 7)
    assert sorted(device_order(cliques(), 3)) == list(range(8))


def test_a_node_of_direct_links_is_what_the_catalogue_says() -> None:
    links = dict.fromkeys(combinations(range(8), 2), Link("XGMI"))
    node = Node(tuple(Device(i, name="AMD Instinct MI300X") for i in range(8)), links)
    assert gpu_on(node) == default_catalogue().gpu("mi300x")


def test_tp_across_the_sockets_costs_what_pcie_costs() -> None:
    gpu = gpu_on(cliques())
    assert gpu.id == "h200-nvl"
    found = collectives_for(bundled_profile(), gpu, "vllm", {})
    four, eight = (float(found.time(np.array([tp]), np.array([2**19]))[0]) for tp in (4, 8))
    assert eight > 5 * four
    assert found.measured.startswith("node file: ")
    assert "RTX PRO 6000" in found.measured


def test_gpus_without_a_name_need_one() -> None:
    with pytest.raises(InputError, match="pass --gpu"):
        gpu_on(cliques(name=""))
    known = default_catalogue().gpu("l40s")
    assert gpu_on(cliques(name=""), known).id == "l40s"


def test_a_node_of_two_kinds_is_refused() -> None:
    node = Node((Device(0, name="NVIDIA L40S"), Device(1, name="NVIDIA L4")), {(0, 1): Link("SYS")})
    with pytest.raises(InputError, match="allowed: GPUs of one kind"):
        gpu_on(node)


@pytest.fixture
def node_file(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    write(path, cliques())
    return path


def plan(*words: str) -> subprocess.CompletedProcess[str]:
    asked = ["plan", "llama-3.1-70b", "--isl", "1024", "--osl", "512", "--concurrency", "64"]
    return subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", *asked, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ,
    )


def test_plan_takes_each_bridge_for_a_copy_and_saves_it(node_file: Path, tmp_path: Path) -> None:
    saved = tmp_path / "up.toml"
    done = plan("--node", str(node_file), "--save", str(saved))
    assert done.returncode == 0, done.stderr
    assert "CUDA_VISIBLE_DEVICES=0,2,4,6 vllm serve" in done.stdout
    (model,) = tomllib.loads(saved.read_text("utf-8"))["model"]
    assert model["tp_size"] == 4
    assert model["devices"] == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_plan_without_a_gpu_or_a_node_is_refused() -> None:
    done = plan()
    assert done.returncode == 2
    assert "no --gpu is given" in done.stderr
    assert "--node" in done.stderr
