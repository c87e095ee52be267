"""Which GPUs are taken: bridged pairs first, one NUMA node before two, the ring's slowest link."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.node.samples import needs_samples, reading

from shardwise.errors import InputError
from shardwise.node.links import Link, parse_link
from shardwise.node.node import Device, Node
from shardwise.node.placement import best, placements, tp_sizes

CODES = ("NV4", "NV12", "PIX", "PXB", "PHB", "NODE", "SYS", "XGMI", "XGMI/2")


def node_of(codes: dict[tuple[int, int], str], count: int, numa: tuple[int, ...] = ()) -> Node:
    links = {pair: link for pair, code in codes.items() if (link := parse_link(code))}
    devices = tuple(Device(i, numa=numa[i] if numa else None) for i in range(count))
    return Node(devices, links)


def islands(*groups: tuple[range, str], between: str = "SYS") -> Node:
    codes = {}
    every = [i for group, _ in groups for i in group]
    for a, b in combinations(every, 2):
        inside = [code for group, code in groups if a in group and b in group]
        codes[a, b] = inside[0] if inside else between
    numa = tuple(n for n, (group, _) in enumerate(groups) for _ in group)
    return node_of(codes, len(every), numa)


def test_links_are_ordered_as_their_distance() -> None:
    ordered = ["SYS", "PCIE", "NODE", "PHB", "PXB", "PIX", "XGMI/2", "XGMI", "NV1", "NV12"]
    found = [parse_link(code) for code in ordered]
    assert all(found)
    qualities = [link.quality for link in found if link]
    assert qualities == sorted(qualities)


@pytest.mark.parametrize("code", ["", "NV", "NV0", "X", "OK", "GNS", "0", "nv12", "N/A"])
def test_what_is_no_link_is_none(code: str) -> None:
    assert parse_link(code) is None


def test_tp_2_is_placed_on_a_bridge() -> None:
    """0-2 and 1-3 are bridged; 0-1 are neighbours on one switch."""
    pair = {(0, 2): "NV12", (1, 3): "NV12", (0, 1): "PIX", (2, 3): "PIX"}
    node = node_of({(0, 3): "SYS", (1, 2): "SYS"} | pair, 4)
    assert [p.devices for p in placements(node, 2)] == [(0, 2), (1, 3)]
    assert placements(node, 2)[0].slowest == Link("NVLINK", 12)


def test_a_ring_over_four_crosses_the_better_links_only() -> None:
    """Bridges 0-2 and 1-3, switches 0-1 and 2-3: the ring need not cross a SYS link."""
    pair = {(0, 2): "NV12", (1, 3): "NV12", (0, 1): "PIX", (2, 3): "PIX"}
    node = node_of({(0, 3): "SYS", (1, 2): "SYS"} | pair, 4)
    (group,) = placements(node, 4)
    assert group.slowest == Link("PIX")
    assert not group.fully_connected


def test_four_of_eight_stay_on_one_numa_node() -> None:
    node = islands((range(4), "PHB"), (range(4, 8), "PHB"))
    assert [p.devices for p in placements(node, 4)] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert not any(p.crosses_numa for p in placements(node, 4))
    assert placements(node, 8)[0].crosses_numa


def test_numa_decides_between_equal_links() -> None:
    """All pairs SYS, GPUs 0 and 2 on one socket, 1 and 3 on the other."""
    node = node_of(dict.fromkeys(combinations(range(4), 2), "SYS"), 4, numa=(0, 1, 0, 1))
    assert [p.devices for p in placements(node, 2)] == [(0, 2), (1, 3)]


def test_five_and_three_give_one_good_group_of_four() -> None:
    node = islands((range(5), "PIX"), (range(5, 8), "PIX"))
    first, second = placements(node, 4)
    assert (first.devices, first.slowest) == ((0, 1, 2, 3), Link("PIX"))
    assert (second.devices, second.slowest) == ((4, 5, 6, 7), Link("SYS"))
    assert second.crosses_numa


def test_gpus_that_no_group_takes_are_left_out() -> None:
    """Of three, the bridged pair is taken, wherever it stands."""
    node = node_of({(0, 1): "PHB", (0, 2): "PHB", (1, 2): "NV4"}, 3)
    assert [p.devices for p in placements(node, 2)] == [(1, 2)]


def test_a_pair_that_nothing_is_known_of_is_the_last_choice() -> None:
    node = node_of({(0, 1): "PHB", (0, 2): "SYS"}, 3)
    assert best(node, 2).devices == (0, 1)
    assert best(node, 3).slowest is None


def test_one_gpu_has_no_links() -> None:
    node = node_of({(0, 1): "SYS"}, 2)
    assert [p.devices for p in placements(node, 1)] == [(0,), (1,)]
    assert placements(node, 1)[0].slowest is None


@pytest.mark.parametrize("size", [0, 3])
def test_a_tp_that_the_node_does_not_hold_is_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"TP={size} on a node of 2 GPUs; allowed: 1 to 2"):
        placements(node_of({(0, 1): "SYS"}, 2), size)


@settings(max_examples=40)
@given(st.integers(2, 7), st.data())
def test_the_best_group_has_the_best_ring_there_is(count: int, data: st.DataObject) -> None:
    """Against every group and every order."""
    codes = {p: data.draw(st.sampled_from(CODES)) for p in combinations(range(count), 2)}
    node = node_of(codes, count)
    size = data.draw(st.sampled_from([s for s in (2, 3, 4) if s <= count]))
    found = best(node, size)
    assert found.slowest is not None
    assert found.slowest.quality == _best_bottleneck(node, size)


def _best_bottleneck(node: Node, size: int) -> tuple[int, int]:
    from itertools import permutations

    def worst(order: tuple[int, ...]) -> tuple[int, int]:
        steps = zip(order, (*order[1:], order[0]), strict=True)
        return min(link.quality for a, b in steps if (link := node.link(a, b)))

    return max(worst(o) for g in combinations(node.indices, size) for o in permutations(g))


def test_sixteen_gpus_are_placed_in_a_moment() -> None:
    node = islands((range(8), "PIX"), (range(8, 16), "PIX"))
    for size in tp_sizes(node):
        assert len(placements(node, size)) == 16 // size
    assert placements(node, 8)[0].devices == tuple(range(8))


@needs_samples
def test_the_hybrid_cube_s_first_four_are_fully_linked_and_eight_are_not() -> None:
    node = reading("topology/v100_8x_hybrid_cube_truncated.txt").node
    assert node is not None
    assert best(node, 4).devices == (0, 1, 2, 3)
    assert best(node, 4).fully_connected
    assert not best(node, 8).fully_connected


@needs_samples
def test_an_mi250_ring_of_eight_takes_direct_links_only() -> None:
    node = reading("topology/mi250_4x_8gcd_weights_truncated.txt").node
    assert node is not None
    assert placements(node, 8)[0].slowest == Link("XGMI")
    assert not placements(node, 8)[0].fully_connected
