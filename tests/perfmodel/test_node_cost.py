"""What an all-reduce costs on a placement: measured where it was, a named stand-in elsewhere."""

from __future__ import annotations

import csv
from itertools import combinations

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from tests.reference import FOLDER, needs_reference

from shardwise.hardware.catalogue import default_catalogue
from shardwise.node.links import parse_link
from shardwise.node.node import Device, Node
from shardwise.node.placement import Placement, best
from shardwise.perfmodel.fit_collectives import fit_lines, line_of
from shardwise.perfmodel.node_all_reduce import choose
from shardwise.perfmodel.node_cost import Cost, _lines, measured_costs
from shardwise.perfmodel.profiles import bundled_profile, collectives_for

KIB, MIB = 2**10, 2**20


def node_of(codes: dict[tuple[int, int], str], count: int, name: str = "") -> Node:
    links = {pair: link for pair, code in codes.items() if (link := parse_link(code))}
    return Node(tuple(Device(i, name=name) for i in range(count)), links)


def mesh(code: str, count: int, name: str = "") -> Node:
    return node_of(dict.fromkeys(combinations(range(count), 2), code), count, name)


def bridged(name: str = "") -> Node:
    codes = dict.fromkeys(combinations(range(4), 2), "SYS")
    return node_of(codes | {(0, 1): "NV12", (2, 3): "NV12"}, 4, name)


def costs(placed: Placement, engine: str = "vllm") -> tuple[Cost, ...]:
    return measured_costs(placed, choose(engine, placed))


@pytest.mark.parametrize("size", [2, 4, 8])
def test_an_mi300x_costs_what_predictions_take(size: int) -> None:
    placed = best(mesh("XGMI", 8, "AMD Instinct MI300X"), size)
    (found,) = costs(placed)
    gpu = default_catalogue().gpu("mi300x")
    known = collectives_for(bundled_profile(), gpu, "vllm", {})
    for message in (16 * KIB, 512 * KIB, 16 * MIB):
        expected = known.time(np.array([size]), np.array([message]))[0]
        assert found.seconds(message) == pytest.approx(float(expected))
    assert found.grade == "measured"


@needs_reference
@pytest.mark.parametrize("size", [4, 8])
def test_eight_l40s_carry_the_measured_pcie_all_reduce(size: int) -> None:
    """What NCCL took on eight L40S, at each size measured."""
    placed = best(mesh("SYS", 8, "NVIDIA L40S"), size)
    (found,) = costs(placed)
    assert found.grade == "measured"
    with (FOLDER / "collectives.csv").open(encoding="utf-8", newline="") as handle:
        rows = [
            row
            for row in csv.DictReader(handle)
            if row["gpu"] == "l40s" and row["kernel"] == "NCCL" and float(row["world_size"]) == size
        ]
    errors = [
        found.seconds(float(row["size_bytes"])) / (float(row["latency_us"]) * 1e-6) - 1
        for row in rows
    ]
    assert len(rows) == 21
    assert np.mean(np.abs(errors)) < 0.01
    assert np.max(np.abs(errors)) < 0.05


def test_a_pcie_node_that_was_not_measured_lies_between_those_that_were() -> None:
    found = costs(best(mesh("NODE", 8, "NVIDIA L4"), 8))
    assert [cost.grade for cost in found] == ["stand-in"] * 2
    slow, fast = (cost.seconds(MIB) for cost in found)
    assert 4 < slow / fast < 12


def test_four_gpus_across_bridged_pairs_cost_several_times_a_pair() -> None:
    node = bridged()
    (pair,) = costs(best(node, 2))
    (four,) = costs(best(node, 4))
    assert "bridged pairs" in four.source
    assert four.seconds(512 * KIB) > 8 * pair.seconds(512 * KIB)


def test_nvlink_that_nobody_measured_is_a_guess_from_its_rate() -> None:
    (found,) = costs(best(mesh("NV2", 4, "Tesla V100-SXM2-16GB"), 4))
    assert found.grade == "guess"
    assert "50 GB/s of NV2 per pair" in found.source  # two links of 25 GB/s
    (bridge,) = costs(best(mesh("NV4", 2, "NVIDIA GeForce RTX 3090"), 2))
    assert "56 GB/s of NV4" in bridge.source


def test_nothing_is_said_where_the_ring_is_not_known() -> None:
    node = node_of({(0, 1): "PIX"}, 4)
    assert costs(best(node, 4)) == ()


def test_the_engine_s_kernel_and_nccl_have_costs_of_their_own() -> None:
    placed = best(mesh("NV18", 8, "NVIDIA H100 80GB HBM3"), 8)
    taken = choose("vllm", placed)
    (own,), (nccl,) = (
        measured_costs(placed, replace(taken, library=x)) for x in ("custom", "nccl")
    )
    assert own.seconds(16 * KIB) < 0.5 * nccl.seconds(16 * KIB)


@needs_reference
def test_the_shipped_lines_are_the_fit_of_their_source() -> None:
    fitted = {
        (f.gpu, f.library, f.world_size): msgspec.to_builtins(line_of(f))
        for f in fit_lines(FOLDER / "collectives_2026.csv")
    }
    own = [line for line in _lines() if line not in bundled_profile().lines]
    assert len(own) == 2
    for line in own:
        found = fitted[line.gpu, line.library, line.world_size]
        assert found["mean_error_pct"] == pytest.approx(line.mean_error_pct, abs=1.0)
        assert found["points"] == line.points
        assert line.mean_error_pct < 15
