"""Every topology sample is read to the facts that its index states."""

from __future__ import annotations

import csv
from collections.abc import Callable
from itertools import combinations

import pytest
from tests.node.samples import FOLDER, needs_samples, reading

from shardwise.node.node import Node
from shardwise.node.reading.environment import says_nothing
from shardwise.node.reading.read import Reading

GIB = 2.0**30
pytestmark = needs_samples


def node_of(found: Reading) -> Node:
    assert found.node is not None
    return found.node


def links(node: Node) -> dict[str, str]:
    return {f"{a}-{b}": link.code for (a, b), link in node.links.items()}


def numa(node: Node) -> list[int | None]:
    return [device.numa for device in node.devices]


def cpus(node: Node) -> list[str]:
    return [device.cpus for device in node.devices]


def all_pairs(count: int, code: str) -> dict[str, str]:
    return {f"{a}-{b}": code for a, b in combinations(range(count), 2)}


def islands(*groups: tuple[range, str]) -> dict[str, str]:
    """Links inside each group, SYS between them."""
    found = {}
    every = [i for group, _ in groups for i in group]
    for a, b in combinations(every, 2):
        inside = [code for group, code in groups if a in group and b in group]
        found[f"{a}-{b}"] = inside[0] if inside else "SYS"
    return found


def h100_8x(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == all_pairs(8, "NV18")
    assert numa(node) == [0] * 4 + [1] * 4
    assert cpus(node) == ["0-51"] * 4 + ["52-103"] * 4
    assert not found.problems


def nvswitch_with_nics(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == all_pairs(8, "NV18")
    assert numa(node) == [0] * 4 + [1] * 4
    assert cpus(node) == ["0-55,112-167"] * 4 + ["56-111,168-223"] * 4
    assert all(device.gpu_numa_id is None for device in node.devices)
    assert says_nothing(found.versions["vllm"])  # 0.1.dev1: any build
    # the NIC rows were cut after NIC1, which says nothing of the GPUs
    assert not found.problems
    assert node.nic_links[0, "NIC0"].code == "PIX"


def gb200(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == all_pairs(4, "NV18")
    assert numa(node) == [None] * 4
    affinity = [device.numa_affinity for device in node.devices]
    assert affinity == ["0,3-9,11-17", "0,3-9,11-17", "1,19-25,27-33", ""]
    assert [device.gpu_numa_id for device in node.devices] == [2, 10, 18, None]
    assert cpus(node) == ["0-71", "0-71", "72-143", ""]
    assert {device.name for device in node.devices} == {"NVIDIA GB200"}
    assert found.versions["sglang"] == "0.5.2"
    assert [problem.line for problem in found.problems] == [12]  # row GPU3 is cut
    assert found.unknown_pairs == ()  # and yet every pair stands in another row


def h100_vm(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == all_pairs(4, "NV18")
    assert numa(node) == [0] * 4
    assert cpus(node) == ["0-79"] * 4
    assert {link.code for link in node.nic_links.values()} == {"PHB"}


def v100_cube(found: Reading) -> None:
    said = links(node_of(found))
    assert said == {
        "0-1": "NV1", "0-2": "NV2", "0-3": "NV1", "0-7": "NV2", "1-2": "NV1", "1-3": "NV2",
        "1-6": "NV2", "2-3": "NV2", "2-5": "NV1", "3-4": "NV1", "0-4": "SYS", "0-5": "SYS",
        "0-6": "SYS", "1-4": "SYS", "1-5": "SYS", "1-7": "SYS", "2-4": "SYS", "2-6": "SYS",
        "2-7": "SYS",
    }  # fmt: skip
    assert len(node_of(found).devices) == 8
    assert {problem.line for problem in found.problems} == {11}
    assert found.versions["vllm"] == "0.5.0.post1"


def a100_pairs(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == all_pairs(4, "SYS") | {"0-1": "NV12", "2-3": "NV12"}
    assert numa(node) == [None] * 4  # a range is no node
    assert [device.numa_affinity for device in node.devices] == ["0-3"] * 4
    assert cpus(node) == ["0"] * 4


def nv12_empty(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == {"0-1": "NV12"}
    assert numa(node) == [None, None]
    assert cpus(node) == ["", ""]  # N/A is of the GPU's own NUMA node
    assert node.nic_links[0, "NIC6"].code == "PXB"


def pix_node_sys(found: Reading) -> None:
    node = node_of(found)
    pix = dict.fromkeys(("0-1", "2-3", "4-5", "6-7"), "PIX")
    assert links(node) == islands((range(4), "NODE"), (range(4, 8), "NODE")) | pix
    assert numa(node) == [0] * 4 + [1] * 4


def h200_nvl(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == all_pairs(4, "NODE") | {"0-1": "PIX", "2-3": "PIX"}
    assert numa(node) == [None] * 4


def rtx4090(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == all_pairs(8, "SYS")
    assert numa(node) == [0] * 4 + [1] * 4
    near = {gpu for (gpu, _), link in node.nic_links.items() if link.code == "PHB"}
    assert near == {6}


def rtx5090(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == {"0-1": "PHB"}
    assert numa(node) == [0, 0]
    assert node.reaches(0, 1) is False
    assert found.why_not == {(0, 1): "GNS"}


def wrapped_legend(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == {"0-1": "NODE"}
    assert numa(node) == [0, 0]
    assert cpus(node) == ["0-15"] * 2
    assert node.reaches(0, 1) is False
    assert found.why_not == {(0, 1): "NS"}


def l4(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == islands((range(4), "PHB"), (range(4, 8), "PHB"))
    assert numa(node) == [0] * 4 + [1] * 4


def five_and_three(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == islands((range(5), "PIX"), (range(5, 8), "PIX"))
    assert numa(node) == [0] * 5 + [1, 1, None]  # the row of GPU7 is cut before its affinity
    assert [problem.line for problem in found.problems] == [9]
    assert found.unknown_pairs == ()


def fabric_down(found: Reading) -> None:
    said = links(node_of(found))
    assert {code for pair, code in said.items() if pair[0] in "01"} == {"PHB", "SYS"}
    assert len(said) == 13
    assert [problem.line for problem in found.problems] == [4]


def lost(found: Reading) -> None:
    assert found.node is None
    assert [(gpu.bus_id, gpu.line) for gpu in found.failed] == [("0000:02:00.0", 1)]
    assert found.failed[0].what.startswith("GPU is lost")


def mi308x(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == all_pairs(8, "XGMI")
    assert numa(node) == [0] * 4 + [1] * 4
    assert {device.memory_bytes for device in node.devices} == {206141652992.0}
    assert (node.devices[0].memory_bytes or 0) / GIB == pytest.approx(191.98, abs=0.01)


def mi200(found: Reading) -> None:
    node = node_of(found)
    assert links(node) == all_pairs(4, "XGMI")
    assert numa(node) == [0, 1, 2, 3]
    assert {device.name for device in node.devices} == {""}


def mi100(found: Reading) -> None:
    assert links(node_of(found)) == {"0-1": "PCIE"}


def mi250(found: Reading) -> None:
    node = node_of(found)
    direct = {f"{a}-{b}" for (a, b), link in node.links.items() if link.direct}
    assert direct == {
        "0-1", "0-2", "0-6", "1-3", "1-5", "2-3", "2-4", "3-7", "4-5", "4-6", "5-7", "6-7",
    }  # fmt: skip
    assert node.links[0, 3].hops == 2  # weight 30
    assert node.links[1, 7].hops == 3  # weight 45
    assert len(node.links) == 28
    assert numa(node) == [None] * 8
    assert found.versions["vllm"].startswith("0.19.2rc1.dev131")
    assert found.versions["rocm"].startswith("7.2")


def mi250x_hops(found: Reading) -> None:
    node = node_of(found)
    assert len(node.devices) == 8
    assert node.devices[0].bus_id == "0000:c1:00.0"
    # reachable, which is not a direct link
    assert links(node) == {f"0-{i}": "XGMI/?" for i in range(1, 8)}
    assert not any(link.direct for link in node.links.values())
    assert found.problems[0].line == 4


def nccl(found: Reading) -> None:
    assert found.nccl is not None
    assert found.nccl.ranks == 8
    assert found.nccl.transports == {"P2P/CUMEM": 7}
    assert found.nccl.channels == 24  # 0 to 23: the number behind the slash is no channel
    assert found.nccl.peer_to_peer


def mi308x_concise(found: Reading) -> None:
    node = node_of(found)
    assert len(node.devices) == 8
    assert {device.name for device in node.devices} == {"AMD Instinct MI308X"}  # 0x74a2
    assert {device.partition for device in node.devices} == {"NPS1, SPX"}
    assert {device.power_cap_w for device in node.devices} == {650.0}


FACTS: dict[str, Callable[[Reading], None]] = {
    "h100_8x_nv18_compact": h100_8x,
    "nvswitch_8x_nv18_8nic_vllm_env": nvswitch_with_nics,
    "gb200_4x_nv18_gpu_numa_id": gb200,
    "h100_4x_nv18_vm_8nic": h100_vm,
    "v100_8x_hybrid_cube_truncated": v100_cube,
    "a100_pcie_4x_nv12_pairs_affinity_odd": a100_pairs,
    "nv12_2x_8nic_empty_affinity": nv12_empty,
    "unknown_8x_pix_node_sys": pix_node_sys,
    "h200nvl_4x_pix_node_no_affinity": h200_nvl,
    "rtx4090_8x_sys_2nic": rtx4090,
    "rtx5090_2x_phb_p2p_gns": rtx5090,
    "unknown_2x_node_indented_wrapped": wrapped_legend,
    "l4_8x_phb_two_sockets": l4,
    "unknown_8x_pix_5_plus_3": five_and_three,
    "a100_8x_fabric_manager_down_abbrev": fabric_down,
    "gpu_error_lost": lost,
    "mi308x_8x_xgmi_numa2": mi308x,
    "mi200_4x_xgmi_old_rocm_smi": mi200,
    "mi100_2x_pcie_collapsed": mi100,
    "mi250_4x_8gcd_weights_truncated": mi250,
    "amdsmi_mi250x_hops_bdf_truncated": mi250x_hops,
    "nccl_8x_p2p_cumem": nccl,
    "rocm_smi_mi308x_concise": mi308x_concise,
}


def test_every_topology_sample_has_its_facts() -> None:
    with (FOLDER / "index.csv").open(encoding="utf-8", newline="") as handle:
        listed = [row["file"] for row in csv.DictReader(handle)]
    assert {f"topology/{name}.txt" for name in FACTS} == {
        name for name in listed if name.startswith("topology/")
    }


@pytest.mark.parametrize("name", FACTS)
def test_the_sample_is_read_to_its_facts(name: str) -> None:
    found = reading(f"topology/{name}.txt")
    FACTS[name](found)
    assert found.startups == ()  # no line of a topology is a start-up's
