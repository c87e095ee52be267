"""The engines' gates: whose all-reduce is taken on which GPUs, and why."""

from __future__ import annotations

from itertools import combinations

import pytest
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.node.links import parse_link
from shardwise.node.node import Device, Host, Node
from shardwise.node.placement import Placement, best
from shardwise.perfmodel.node_all_reduce import choose, nccl_level, transport_of

MIB = 2**20


def group(code: str, size: int, name: str = "", count: int = 0, **node: object) -> Placement:
    """`size` of `count` equal GPUs, all pairs linked by `code`."""
    total = count or size
    link = parse_link(code)
    assert link is not None
    made = Node(
        tuple(Device(i, name=name) for i in range(total)),
        dict.fromkeys(combinations(range(total), 2), link),
    )
    return best(replace(made, **node), size)


def access(size: int, *, allowed: bool) -> dict[tuple[int, int], bool]:
    return dict.fromkeys(combinations(range(size), 2), allowed)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("size", [4, 8])
def test_more_than_two_gpus_over_pcie_get_nccl(engine: str, size: int) -> None:
    taken = choose(engine, group("PIX", size))
    assert taken.library == "nccl"
    assert "more than two GPUs" in taken.why


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_two_gpus_over_pcie_get_the_engine_s_kernel_if_they_reach_each_other(engine: str) -> None:
    open_ = choose(engine, group("PHB", 2, peer_access=access(2, allowed=True)))
    assert (open_.library, open_.certain) == ("custom", True)
    shut = choose(engine, group("PHB", 2, peer_access=access(2, allowed=False)))
    assert (shut.library, shut.why) == ("nccl", "no peer access between the two GPUs")
    unknown = choose(engine, group("PHB", 2))
    assert (unknown.library, unknown.certain, unknown.otherwise) == ("custom", False, "NCCL")


def test_geforce_cards_have_no_peer_access_unless_a_table_says_so() -> None:
    name = "NVIDIA GeForce RTX 4090"
    assert choose("vllm", group("PHB", 2, name)).library == "nccl"
    patched = group("PHB", 2, name, peer_access=access(2, allowed=True))
    assert choose("vllm", patched).library == "custom"


@pytest.mark.parametrize("size", [3, 5])
def test_a_number_of_gpus_that_the_kernel_is_not_made_for(size: int) -> None:
    taken = choose("vllm", group("NV18", size))
    assert taken.library == "nccl"
    assert f"2, 4, 6, 8 GPUs, not {size}" in taken.why


@pytest.mark.parametrize(
    ("name", "size", "limit"),
    [
        ("NVIDIA H100 80GB HBM3", 8, MIB // 4),
        ("NVIDIA H100 80GB HBM3", 6, MIB // 2),
        ("NVIDIA H100 80GB HBM3", 4, 8 * MIB),  # 32 MiB, but never above 8
        ("NVIDIA B200", 8, MIB),
        ("NVIDIA B300", 8, 4 * MIB),
        ("NVIDIA A100-SXM4-80GB", 8, 8 * MIB),
    ],
)
def test_symmetric_memory_takes_over_from_hopper_on(name: str, size: int, limit: int) -> None:
    taken = choose("vllm", group("NV18", size, name))
    assert (taken.library, taken.below_bytes) == ("custom", limit)
    assert choose("sglang", group("NV18", size, name)).below_bytes == 8 * MIB


def test_amd_kernels_are_for_the_mi300_series() -> None:
    assert choose("vllm", group("XGMI", 8, "AMD Instinct MI300X")).below_bytes == 8 * MIB
    assert choose("sglang", group("XGMI", 8, "AMD Instinct MI300X")).below_bytes == 16 * MIB
    old = choose("vllm", group("XGMI", 4, "AMD Instinct MI210"))
    assert (old.library, old.transport) == ("rccl", "direct")


def test_without_a_name_the_memory_tells_an_mi300() -> None:
    node = group("XGMI", 8).node
    large = replace(node, devices=tuple(replace(d, memory_bytes=206e9) for d in node.devices))
    small = replace(node, devices=tuple(replace(d, memory_bytes=64e9) for d in node.devices))
    assert choose("vllm", best(large, 8)).library == "custom"
    assert choose("vllm", best(small, 8)).library == "rccl"
    assert "name is unknown" in choose("vllm", best(node, 8)).why


def test_an_xgmi_path_over_two_steps_is_no_direct_link() -> None:
    taken = choose("vllm", group("XGMI/2", 4, "AMD Instinct MI300X"))
    assert taken.library == "rccl"


@pytest.mark.parametrize(
    ("code", "transport", "level"),
    [
        ("NV12", "direct", ""),
        ("PIX", "peer to peer", ""),
        ("PXB", "peer to peer", ""),
        ("PHB", "host memory", "PHB"),
        ("NODE", "host memory", "SYS"),
        ("SYS", "host memory", "SYS"),
    ],
)
def test_nccl_goes_gpu_to_gpu_up_to_pxb_by_itself(code: str, transport: str, level: str) -> None:
    placed = group(code, 4)
    assert transport_of(placed) == transport
    assert nccl_level(placed) == level


def test_nccl_s_exception_for_two_gpus_behind_an_amd_cpu() -> None:
    amd = Host(cpu_vendor="AuthenticAMD")
    assert transport_of(group("SYS", 2, host=amd)) == "peer to peer"
    assert transport_of(group("SYS", 2, count=4, host=amd)) == "host memory"
    assert transport_of(group("SYS", 2, host=Host(cpu_vendor="GenuineIntel"))) == "host memory"


def test_a_denied_pair_goes_through_host_memory_however_near() -> None:
    assert transport_of(group("PIX", 2, peer_access=access(2, allowed=False))) == "host memory"


def test_one_gpu_has_nothing_to_add_up() -> None:
    assert choose("vllm", group("NV18", 1, count=2)).library == "none"


def test_an_engine_whose_gates_are_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="allowed: vllm, sglang"):
        choose("trtllm", group("NV18", 2))
