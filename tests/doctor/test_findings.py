"""What is said of a node beyond its links: each finding where it is due, and not elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import pytest
from msgspec.structs import replace
from tests.node.samples import needs_samples, reading

from shardwise.doctor.diagnosis import diagnose
from shardwise.doctor.findings import findings
from shardwise.node.links import parse_link
from shardwise.node.node import Device, Host, Node
from shardwise.node.reading.read import Reading, read


def node_of(code: str, count: int, name: str = "", **device: object) -> Node:
    link = parse_link(code)
    assert link is not None
    devices = tuple(Device(i, name=name, numa=0, **device) for i in range(count))  # type: ignore[arg-type]
    return Node(devices, dict.fromkeys(combinations(range(count), 2), link))


def said(node: Node, why_not: Mapping[tuple[int, int], str] | None = None) -> str:
    found = findings(Reading("text", node, why_not=why_not or {}))
    return "\n".join(f"{f.severity}: {f.what} | {f.why} | {f.remedy}" for f in found)


def test_an_nvswitch_node_has_nothing_to_change() -> None:
    assert said(node_of("NV18", 8, "NVIDIA H100 80GB HBM3")) == ""


def test_an_sxm_board_without_nvlink_has_no_fabric_manager() -> None:
    assert "error: NVIDIA A100-SXM4-80GB without a single NVLink" in said(
        node_of("PHB", 8, "NVIDIA A100-SXM4-80GB")
    )
    assert "fabricmanager" not in said(node_of("PHB", 8, "NVIDIA L4"))


def test_without_a_name_the_fabric_is_a_question() -> None:
    assert "warning: no NVLink between any two GPUs" in said(node_of("PHB", 8))


def test_a_card_that_takes_bridges_and_has_none() -> None:
    assert "supports NVLink bridges, but none is installed" in said(
        node_of("NODE", 4, "NVIDIA H200 NVL")
    )
    assert "bridges" not in said(node_of("NODE", 4, "NVIDIA L40S"))


@pytest.mark.parametrize(("code", "level"), [("PHB", "PHB"), ("NODE", "SYS"), ("SYS", "SYS")])
def test_host_memory_that_a_setting_can_avoid(code: str, level: str) -> None:
    assert f"try NCCL_P2P_LEVEL={level}" in said(node_of(code, 4, "NVIDIA L40S"))


@pytest.mark.parametrize("code", ["NV18", "PIX", "PXB"])
def test_nccl_needs_no_setting_behind_one_switch(code: str) -> None:
    assert "NCCL_P2P_LEVEL" not in said(node_of(code, 4, "NVIDIA L40S"))


def test_a_setting_is_not_offered_where_there_is_no_peer_access() -> None:
    node = replace(node_of("PHB", 2, "NVIDIA L4"), peer_access={(0, 1): False})
    text = said(node, {(0, 1): "CNS"})
    assert "the chipset does not support it" in text
    assert "try NCCL_P2P_LEVEL" not in text


def test_geforce_with_peer_access_is_to_be_checked() -> None:
    name = "NVIDIA GeForce RTX 3090"
    node = replace(node_of("PHB", 2, name), peer_access={(0, 1): True})
    assert "--disable-custom-all-reduce" in said(node)
    assert "--disable-custom-all-reduce" not in said(node_of("NV4", 2, name))


def test_acs_and_iommu_are_said_where_gpus_share_a_switch() -> None:
    node = replace(node_of("PIX", 2, "NVIDIA L40S"), host=Host(iommu=True, acs_redirect=True))
    assert "ACS redirect is on" in said(node)
    assert "iommu=pt" in said(node)
    assert "ACS" not in said(replace(node, host=Host(iommu=False, acs_redirect=False)))


def test_memory_in_use_mig_partitions_and_narrow_slots() -> None:
    assert "memory is in use on GPU 0, 1 (up to 30.0 GiB)" in said(
        node_of("PIX", 2, "NVIDIA L40S", used_bytes=30 * 2.0**30)
    )
    assert "in use" not in said(node_of("PIX", 2, "NVIDIA L40S", used_bytes=0.3 * 2.0**30))
    assert "MIG is on" in said(node_of("NV18", 2, "NVIDIA H100 80GB HBM3", mig=True))
    assert "CPX" in said(node_of("XGMI", 2, "AMD Instinct MI300X", partition="NPS4, CPX"))
    assert "PCIe link of x8" in said(node_of("PHB", 2, "NVIDIA L40S", pcie_width=8))
    assert "x8" not in said(node_of("NV12", 2, "NVIDIA A100 80GB PCIe", pcie_width=8))


def test_different_gpus_in_one_node() -> None:
    node = node_of("PHB", 2, "NVIDIA L40S")
    mixed = replace(node, devices=(node.devices[0], replace(node.devices[1], name="NVIDIA L4")))
    assert "different GPUs in one node: NVIDIA L4, NVIDIA L40S" in said(mixed)


def test_the_gravest_comes_first() -> None:
    text = read(
        "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.\n"
        "  GPU0 GPU1\nGPU0 X PHB\nGPU1 PHB X\n"
    )
    severities = [f.severity for f in findings(text)]
    assert severities[0] == "error"
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


@pytest.mark.parametrize(
    ("line", "said_of_it"),
    [
        ("No devices were found", "no GPU answers"),
        ("Failed to initialize NVML: Driver/library version mismatch", "no GPU answers"),
        (
            "NVRM: Xid (PCI:0000:41:00): 79, pid=1, GPU has fallen off the bus.",
            "GPU 0000:41:00 does not answer",
        ),
        (
            "NVRM: The NVIDIA GPU 0000:b3:00.0\n NVRM: (PCI ID: 10de:26b5) installed\n"
            "NVRM: fallen off the bus and is not responding to commands.",
            "GPU 0000:b3:00.0 does not answer",
        ),
        (
            "Unable to determine the device handle for GPU0000:20:00.0: Unknown Error",
            "GPU 0000:20:00.0 does not answer: Unknown Error",
        ),
    ],
)
def test_a_driver_that_answers_for_no_gpu(line: str, said_of_it: str) -> None:
    assert said_of_it in findings(read(line))[0].what


@needs_samples
def test_pairs_are_preferred_where_only_pairs_are_linked() -> None:
    found = diagnose(reading("topology/a100_pcie_4x_nv12_pairs_affinity_odd.txt"))
    text = "\n".join(f.what + f.remedy for f in found.findings)
    assert "direct links join pairs of the 4 GPUs, as 0,1" in text
    assert "prefer TP=2" in text
    two, four = found.verdicts
    assert [group.devices for group in two.groups] == [(0, 1), (2, 3)]
    assert two.all_reduces[0].library == "custom"
    assert four.all_reduces[0].library == "nccl"
    pair, across = two.seconds(0, 32), four.seconds(0, 32)
    assert pair is not None
    assert across is not None
    assert across[0] > 8 * pair[1]  # and so it is said what TP=4 costs


@needs_samples
def test_eight_pcie_gpus_carry_a_cost_at_every_size() -> None:
    found = diagnose(reading("topology/unknown_8x_pix_node_sys.txt"))
    for verdict in found.verdicts:
        for engine in (0, 1):
            assert verdict.seconds(engine, 32) is not None


@needs_samples
def test_a_virtual_machine_hides_the_host_s_layout() -> None:
    found = diagnose(reading("topology/h100_4x_nv18_vm_8nic.txt"))
    assert any("a virtual machine" in f.what for f in found.findings)
    whole = diagnose(reading("topology/h100_8x_nv18_compact.txt"))
    assert whole.findings == ()
