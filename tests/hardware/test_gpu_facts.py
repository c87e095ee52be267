"""What holds for every bundled GPU: sources, order of rates, memory, links."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import FOLDER, needs_reference

from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.gpu import Gpu

CATALOGUE = default_catalogue()
GPUS = CATALOGUE.gpus()
DOUBTFUL = ("unchecked", "memory of", "from memory", "assumed", "guess")

every_gpu = pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.id)


@every_gpu
def test_every_value_has_a_source_and_a_date(gpu: Gpu) -> None:
    facts = CATALOGUE.facts(gpu.id)
    assert len(facts) >= 6
    for fact in facts:
        assert fact.source, fact.field
        assert fact.date, fact.field
        assert fact.unit or isinstance(fact.value, str), fact.field
        assert bool(fact.alternatives) == bool(fact.why), fact.field


@every_gpu
def test_no_value_is_quoted_unchecked(gpu: Gpu) -> None:
    for fact in CATALOGUE.facts(gpu.id):
        assert not any(word in fact.source.lower() for word in DOUBTFUL), fact


@every_gpu
def test_what_decides_a_fit_is_the_drivers_figure(gpu: Gpu) -> None:
    fields = {fact.field for fact in CATALOGUE.facts(gpu.id)}
    assert ("usable_memory" in fields) == (gpu.status == "released")


@every_gpu
def test_rates_do_not_fall_with_narrower_numbers(gpu: Gpu) -> None:
    rates = [gpu.matrix_rate(dtype) for dtype in ("bf16", "fp8", "fp4")]
    assert rates == sorted(rates)
    assert gpu.matrix_rate("int8") >= gpu.matrix_rate("bf16")
    narrower = [gpu.flops[dtype] for dtype in ("fp8", "fp4") if dtype in gpu.flops]
    assert all(rate >= 1.5 * gpu.matrix_rate("bf16") for rate in narrower)


@every_gpu
def test_memory_is_near_what_the_name_says(gpu: Gpu) -> None:
    # 16 GiB of GDDR with ECC is 15; a "GB" that is a GiB is 1.074.
    share = gpu.memory_bytes / (gpu.memory_nameplate_gb * 1e9)
    assert 0.93 <= share < 1.08
    assert gpu.visible_memory_bytes <= gpu.memory_bytes
    assert gpu.visible_memory_bytes > 0.96 * gpu.memory_bytes


@every_gpu
def test_a_node_is_no_larger_than_what_its_links_reach(gpu: Gpu) -> None:
    assert 1 <= gpu.node_gpus <= gpu.interconnect.max_world


@every_gpu
def test_what_can_be_asked_of_the_instruction_set_is_known(gpu: Gpu) -> None:
    if gpu.status == "announced" or gpu.vendor == "intel":
        return
    assert (gpu.compute_capability is not None) == (gpu.vendor == "nvidia")
    assert bool(gpu.llvm_target) == (gpu.vendor == "amd")
    assert gpu.kv_fp8 == ("fp8" in gpu.flops)


#: How the kernel timings' dtypes are multiplied; weight-only ones in 16 bits.
MULTIPLIED_AS = {"bfloat16": "bf16", "fp8_block": "fp8", "nvfp4": "fp4", "mxfp4": "fp4"}
MULTIPLIED_AS |= {"sq": "int8", "int8_wo": "bf16", "int4_wo": "bf16"}


@needs_reference
def test_no_measured_matrix_product_is_faster_than_the_peak() -> None:
    best: dict[tuple[str, str], float] = {}
    with gzip.open(FOLDER / "kernels" / "gemm.csv.gz", "rt", encoding="utf-8") as rows:
        next(rows)
        for row in rows:
            gpu_id, _, _, dtype, m, n, k, latency_us = row.split(",")
            rate = 2e6 * int(m) * int(n) * int(k) / float(latency_us)
            key = gpu_id, MULTIPLIED_AS.get(dtype, dtype)
            best[key] = max(rate, best.get(key, 0.0))
    assert len(best) > 20
    for (gpu_id, dtype), rate in best.items():
        assert rate <= CATALOGUE.gpu(gpu_id).matrix_rate(dtype), (gpu_id, dtype)


@given(st.sampled_from([gpu.id for gpu in GPUS]), st.integers(1, 71))
def test_peer_bandwidth_falls_only_where_an_island_ends(gpu_id: str, tp_size: int) -> None:
    link = CATALOGUE.gpu(gpu_id).interconnect
    if link.island and link.island.fitted and tp_size == link.island.gpus:
        assert link.peer_bandwidth(tp_size) >= link.peer_bandwidth(tp_size + 1)
    else:
        assert link.peer_bandwidth(tp_size + 1) >= link.peer_bandwidth(tp_size)
