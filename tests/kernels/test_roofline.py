"""Peak rates and number formats, by hand: what no kernel is predicted faster than."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.errors import UnknownNameError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.gpu import Gpu
from shardwise.kernels.collectives import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL
from shardwise.kernels.formats import FORMATS, format_of, runs_as
from shardwise.kernels.provenance import Array
from shardwise.kernels.roofline import Rates, ideal, rates_of

SWITCHED = Rates("x", "nvidia", "hopper", (("bf16", 1e15), ("fp8", 2e15)), 4e12, 450e9, 0, False)
MESH = replace(SWITCHED, vendor="amd", link=448e9, mesh_links=7)
BUS = replace(SWITCHED, link=64e9, shared_bus=True)


def one(value: float) -> list[Array]:
    return [np.asarray(value)]


def test_a_dtype_that_the_gpu_lacks_runs_as_the_next_wider() -> None:
    assert SWITCHED.matrix("fp8") == 2e15
    assert SWITCHED.matrix("fp4") == 2e15
    assert SWITCHED.matrix("bf16") == SWITCHED.matrix("fp32") == 1e15
    ampere = replace(SWITCHED, flops=(("bf16", 312e12),))
    assert ampere.matrix("fp8") == ampere.matrix("fp4") == 312e12
    assert not ampere.has("fp8")


def test_behind_a_switch_each_peer_is_reached_at_the_full_rate() -> None:
    assert SWITCHED.peers(np.array([1, 2, 8])).tolist() == [450e9] * 3


def test_in_a_mesh_a_group_has_one_link_per_peer() -> None:
    # MI300X: seven links of 64 GB/s; TP=2 has one of them, TP=4 three, TP=8 seven
    assert MESH.peers(np.array([2, 4, 8])).tolist() == pytest.approx([64e9, 192e9, 448e9])
    assert float(MESH.peers(16)) == 448e9


def test_a_step_takes_the_slower_of_arithmetic_and_memory() -> None:
    seconds = ideal(np.array([1e12, 1e9]), 1e15, np.array([1e9, 4e9]), 4e12)
    assert seconds.tolist() == [1e-3, 1e-3]


def test_a_switch_adds_up_in_the_fabric_so_each_gpu_sends_its_message_once() -> None:
    size = 1e6
    # 2 (n - 1) / n is 1 for two ranks, 1.75 for eight; the fabric caps it at 1
    for ranks in (2.0, 8.0):
        found = ALL_REDUCE.ideal(SWITCHED, "graph", one(ranks), one(size))
        assert float(found) == pytest.approx(size / 450e9)


def test_on_a_bus_and_in_a_mesh_a_ring_sends_its_message_almost_twice() -> None:
    found = ALL_REDUCE.ideal(BUS, "nccl", one(8.0), one(1e6))
    assert float(found) == pytest.approx(2 * 7 / 8 * 1e6 / 64e9)
    found = ALL_REDUCE.ideal(MESH, "graph", one(8.0), one(1e6))
    assert float(found) == pytest.approx(2 * 7 / 8 * 1e6 / 448e9)


def test_a_gather_moves_the_others_shares_once() -> None:
    for operator in (ALL_GATHER, ALL_TO_ALL):
        found = operator.ideal(SWITCHED, "nccl", one(4.0), one(1e6))
        assert float(found) == pytest.approx(0.75 * 1e6 / 450e9)


@pytest.mark.parametrize(
    ("algorithm", "share"), [("quick_fp8", 0.5), ("quick_int6", 0.375), ("quick_int4", 0.25)]
)
def test_a_compressing_algorithm_sends_its_share(algorithm: str, share: float) -> None:
    whole = ALL_REDUCE.ideal(MESH, "graph", one(4.0), one(1e6))
    assert float(ALL_REDUCE.ideal(MESH, algorithm, one(4.0), one(1e6)) / whole) == share


@given(st.floats(2, 64), st.floats(1, 1e9))
def test_more_bytes_and_more_ranks_never_take_less_time_behind_a_switch(
    ranks: float, size: float
) -> None:
    def seconds(n: float, moved: float) -> float:
        return float(ALL_GATHER.ideal(SWITCHED, "nccl", one(n), one(moved)))

    assert seconds(ranks, 2 * size) >= seconds(ranks, size)
    assert seconds(ranks + 1, size) >= seconds(ranks, size)


def test_formats_hold_their_scales() -> None:
    assert FORMATS["nvfp4"].weight_bytes == 0.5 + 1 / 16
    assert FORMATS["mxfp4"].weight_bytes == 0.5 + 1 / 32
    assert FORMATS["int4_wo"].weight_bytes == 0.5 + 2 / 128


def test_a_format_may_stand_in_for_itself_and_16_bits_for_all() -> None:
    for name, form in FORMATS.items():
        assert set(form.relatives) <= set(FORMATS), name
        assert "bf16" in form.relatives, name


def test_without_matrix_units_a_format_runs_as_weight_only() -> None:
    h200, a100 = (rates_of(default_catalogue().gpu(name)) for name in ("h200", "a100"))
    assert runs_as(h200, "fp8") == "fp8"
    assert runs_as(a100, "fp8") == "int8_wo"
    assert runs_as(h200, "nvfp4") == "w4a16_mxfp4"
    assert runs_as(a100, "bf16") == "bf16"
    with pytest.raises(UnknownNameError, match="unknown kernel dtype 'fp9'"):
        format_of("fp9")


@pytest.mark.parametrize("gpu", default_catalogue().gpus(), ids=lambda gpu: gpu.id)
def test_every_gpu_has_rates_of_its_datasheet(gpu: Gpu) -> None:
    rates = rates_of(gpu)
    assert dict(rates.flops) == dict(gpu.flops)
    assert rates.memory == gpu.memory_bandwidth
    assert rates.matrix("bf16") > 0
    assert not (rates.mesh_links and rates.shared_bus)
