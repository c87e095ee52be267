"""A node file for the planner: all-reduces by its links, and devices by its groups."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from shardwise.errors import InputError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.gpu import Gpu
from shardwise.layout.deployment import Layout
from shardwise.node.files import write
from shardwise.node.links import Link
from shardwise.node.node import Device, Node
from shardwise.perfmodel.estimate import note_on, widths_in
from shardwise.perfmodel.node_gpu import device_order, gpu_on, node_file
from shardwise.perfmodel.profiles import bundled_profile, collectives_for
from shardwise.perfmodel.subject import Asked, catalogue_for, subject_of


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


def known(name: str) -> Gpu:
    return default_catalogue().gpu(name)


def test_a_node_of_direct_links_is_what_the_catalogue_says() -> None:
    links = dict.fromkeys(combinations(range(8), 2), Link("XGMI"))
    node = Node(tuple(Device(i, name="AMD Instinct MI300X") for i in range(8)), links)
    assert gpu_on(node, known("mi300x")) == known("mi300x")


def test_two_pcie_cards_with_a_bridge_are_not_what_the_catalogue_takes_for_granted() -> None:
    """The catalogue's H200 NVL is a card on PCIe; four of them on one bridge have no PCIe link."""
    names = tuple(Device(i, name="NVIDIA H200 NVL") for i in range(4))
    bridged = Node(names, dict.fromkeys(combinations(range(4), 2), Link("NVLINK", 6)))
    on_pcie = Node(names, dict.fromkeys(combinations(range(4), 2), Link("SYS")))
    fast, slow = (gpu_on(node, known("h200-nvl")) for node in (bridged, on_pcie))
    assert fast.all_reduce[4].latency_s < slow.all_reduce[4].latency_s / 2


def test_a_size_that_nothing_was_measured_of_is_no_faster_than_a_smaller_one() -> None:
    """XGMI in pairs and PCIe between: of TP=4 nothing is known, and TP=2 is not taken for it."""
    pairs = dict.fromkeys(combinations(range(4), 2), Link("PCIE"))
    links = pairs | {(0, 1): Link("XGMI"), (2, 3): Link("XGMI")}
    node = Node(tuple(Device(i, name="AMD Instinct MI300X") for i in range(4)), links)
    gpu = gpu_on(node, known("mi300x"))
    two, four = (gpu.all_reduce.get(size) for size in (2, 4))
    assert four
    assert two is None or four.latency_s >= two.latency_s
    assert four.bytes_per_s < 32e9, "PCIe 4.0 x16"
    assert "a guess for TP=4" in gpu.all_reduce_source


def test_another_board_of_the_same_name_has_its_own_memory() -> None:
    """RTX 4090 boards with 48 GiB exist: nvidia-smi says 49140 MiB."""
    names = tuple(Device(i, "NVIDIA GeForce RTX 4090", memory_bytes=49140 * 2**20) for i in (0, 1))
    usual = known("rtx-4090")
    gpu = gpu_on(Node(names, {(0, 1): Link("PHB")}), usual)
    assert gpu.memory_bytes == 49140 * 2**20
    lost = usual.memory_bytes - usual.visible_memory_bytes
    assert gpu.visible_memory_bytes == pytest.approx(49140 * 2**20 - lost)


def test_tp_across_the_sockets_costs_what_pcie_costs() -> None:
    gpu = gpu_on(cliques(), known("h200-nvl"))
    assert gpu.id == "h200-nvl"
    found = collectives_for(bundled_profile(), gpu, "vllm", {})
    four, eight = (float(found.time(np.array([tp]), np.array([2**19]))[0]) for tp in (4, 8))
    assert eight > 5 * four
    assert found.measured.startswith("node file: ")
    assert "RTX PRO 6000" in found.measured


def test_gpus_without_a_name_need_one(tmp_path: Path) -> None:
    path = saved(tmp_path, cliques(name=""))
    with pytest.raises(InputError, match="have no name; pass --gpu"):
        node_file(path, default_catalogue())
    found = node_file(path, default_catalogue(), "l40s")
    assert (found.gpu, found.gpus) == ("l40s", 8)


def test_a_gpu_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, cliques())
    with pytest.raises(InputError, match=r"is a node of h200-nvl, and --gpu says l40s; leave"):
        node_file(path, default_catalogue(), "l40s")
    assert node_file(path, default_catalogue(), "NVIDIA H200 NVL", 4).gpus == 4
    with pytest.raises(InputError, match=r"--gpus 9 on .*; allowed: 1 to 8"):
        node_file(path, default_catalogue(), gpus=9)


def test_a_node_of_two_kinds_is_refused(tmp_path: Path) -> None:
    node = Node((Device(0, name="NVIDIA L40S"), Device(1, name="NVIDIA L4")), {(0, 1): Link("SYS")})
    with pytest.raises(InputError, match="allowed: GPUs of one kind"):
        node_file(saved(tmp_path, node), default_catalogue())


def test_a_node_file_is_one_of_the_catalogue_s(tmp_path: Path) -> None:
    """Whatever looks its GPU up finds the node's links, and other GPUs are as they were."""
    path = saved(tmp_path, cliques())
    found = catalogue_for([path])
    assert found.gpu("h200-nvl").all_reduce_source.startswith("node file: ")
    assert found.gpu("h100") == known("h100")
    assert catalogue_for([path]) is found, "read once while it stays as it is"
    with pytest.raises(InputError, match="2 node files; allowed: one"):
        catalogue_for([path, saved(tmp_path / "other", cliques())])


def test_links_of_a_node_whose_gpus_have_no_name_are_the_asked_one_s(tmp_path: Path) -> None:
    found = catalogue_for([saved(tmp_path, cliques(name=""))], "l40s", "sglang")
    assert found.gpu("l40s").all_reduce
    assert not found.gpu("h100").all_reduce


def test_links_that_no_row_has_widen_the_interval_and_are_named(tmp_path: Path) -> None:
    """Eight H100 SXM whose fabric is down: rows of H100 were measured on NVLink."""
    links = dict.fromkeys(combinations(range(8), 2), Link("SYS"))
    node = Node(tuple(Device(i, name="NVIDIA H100 80GB HBM3") for i in range(8)), links)
    path = saved(tmp_path, node)
    usual, _ = subject_of(Asked("llama-3.1-70b", "h100", weight_dtype="fp8"))
    here, _ = subject_of(
        Asked("llama-3.1-70b", "h100", weight_dtype="fp8", catalogue_files=(path,))
    )
    for layout, wider in ((Layout(1), False), (Layout(8), True)):
        (known,) = widths_in(usual, [layout], ["tpot_s"]).values()
        (width,) = widths_in(here, [layout], ["tpot_s"]).values()
        assert (width > known) is wider
    assert "no row has this node's links" in note_on(here, [Layout(8)])
    assert "links" not in note_on(here, [Layout(1)])


def saved(folder: Path, node: Node) -> Path:
    folder.mkdir(exist_ok=True)
    write(folder / "node.toml", node)
    return folder / "node.toml"
