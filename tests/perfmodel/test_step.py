"""Step time: what it is made of, with numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.architecture.model import in_dtype
from shardwise.architecture.models import load
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.gpu import AllReduceLine
from shardwise.kernels import all_reduce, attention_decode, gemm
from shardwise.layout.arrays import Layouts
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.best_tables import ENGINES
from shardwise.perfmodel.coefficients import PRIOR
from shardwise.perfmodel.collectives import AllReduce, Collectives, from_topology
from shardwise.perfmodel.profiles import bundled_profile, collectives_for
from shardwise.perfmodel.step import Setting, StepTime, step_time
from shardwise.perfmodel.work import (
    elementwise_bytes,
    launched_kernels,
    norm_messages,
    rank_work,
    small_kernels,
)


def setting(model: str, gpu: str, dtype: str, engine: str = "vllm", **changed: float) -> Setting:
    found = default_catalogue().gpu(gpu)
    return Setting(in_dtype(load(model), dtype), found, engine, "bf16", {**PRIOR, **changed})


def total(s: Setting, tp: float, sequences: float, context: float, prompt: float = 0.0) -> float:
    return float(parts_of(s, tp, sequences, context, prompt).total[0])


def parts_of(
    s: Setting,
    tp: float,
    sequences: float,
    context: float,
    prompt: float = 0.0,
    ep: int = 1,
    as_graphs: float = 0.0,
) -> StepTime:
    kernels = s.kernels(Layouts.of([Layout(int(tp), ep_size=ep)]))
    at = [np.array([x]) for x in (sequences, context, prompt, prompt / 2)]
    return step_time(s, kernels, at[0], at[1], at[2], at[3], as_graphs=as_graphs)


def test_work_of_llama_8b_is_what_a_hand_count_gives() -> None:
    layouts = Layouts.of([Layout(1), Layout(2), Layout(16)])
    work = rank_work(load("llama-3.1-8b"), layouts, "bf16")
    # attention 32 x (4096 x 4096 x 2 + 4096 x 1024 x 2) + MLP 32 x 3 x 4096 x 14336
    # = 1,342,177,280 + 5,637,144,576 = 6,979,321,856 weights of 2 bytes
    assert work.bytes_of("dense")[0] == pytest.approx(2 * 6_979_321_856)
    assert work.bytes_of("dense")[1] == pytest.approx(6_979_321_856)
    # KV: 32 layers x 2 x 8 heads x 128 x 2 bytes = 131,072 a token; TP=16 shards 8 heads over
    # 16 ranks, so each holds a whole head: 131,072 / 8
    (read,) = work.reads
    assert read.bytes_per_token == pytest.approx([131072, 65536, 16384])


def test_a_step_is_the_sum_of_its_kernels_tables() -> None:
    whole = setting("llama-3.1-8b", "h200", "bf16")
    nothing = dict.fromkeys(("launch", "step", "sequence", "skew"), 0.0)
    s = replace(whole, coefficients={**whole.coefficients, **nothing})
    gpu = s.gpu
    # qkv 6144 x 4096, o 4096 x 4096, gate and up 28672 x 4096, down 4096 x 14336: 32 layers;
    # the head 128256 x 4096 once; the fastest of three engines' tables
    shapes = ((6144, 4096, 32), (4096, 4096, 32), (28672, 4096, 32), (4096, 14336, 32))
    products = sum(
        times * min(float(gemm(gpu, e, "bf16", 16, n, k).seconds) for e in ENGINES)
        for n, k, times in (*shapes, (128256, 4096, 1))
    )
    # timed alone, each call includes a graph's launch; 67 MB are more than the H200's L2 cache;
    # vLLM and SGLang run the same kernel
    attention = 32 * min(
        float(attention_decode(gpu, engine, 16, 1024, 32, 8, 128).seconds) - launch_s
        for engine, launch_s in (("vllm", 4e-6), ("sglang", 1e-6))
    )
    parts = parts_of(s, 1, 16.0, 1024.0)
    # norms, rotations and activations: 16 tokens' traffic at 0.8 of 4.8 TB/s
    passes = 16 * elementwise_bytes(s.arch, Layout()) / (0.8 * 4.8e12)
    assert float(parts.total[0]) == pytest.approx(products + attention + passes, rel=1e-3)
    assert float(parts.kv[0]) == pytest.approx(attention, rel=1e-3)
    assert float(parts.communication[0]) == 0.0
    assert float(parts.overhead[0]) == pytest.approx(passes, rel=1e-3)


def test_a_batch_of_one_takes_no_less_than_reading_the_weights_once() -> None:
    parts = parts_of(setting("llama-3.1-8b", "h200", "bf16"), 1, 1.0, 1.0)
    # 13.96 GB of layers + lm_head 128,256 x 4096 x 2 = 1.05 GB, at 4.8 TB/s: 3.127 ms
    assert 3.127e-3 < float(parts.weights[0]) < 1.3 * 3.127e-3
    assert float(parts.compute[0]) < 0.05 * float(parts.weights[0])


def test_what_a_product_waits_for_goes_from_weights_to_arithmetic() -> None:
    s = setting("llama-3.1-8b", "h200", "bf16", elementwise=0.0, attention=0.0)
    few, many = parts_of(s, 1, 8.0, 1.0), parts_of(s, 1, 1.0, 1.0, 8192.0)
    assert few.weights > 10 * few.compute
    assert many.compute > 5 * many.weights


def test_launched_kernels_are_counted_by_hand() -> None:
    # norms 2, rotary, cache write, activation; qkv, output, attention and its combine, gate and up,
    # down, split sums 2: a profile of vLLM 0.20.2 has 13 to 14 (results/step_by_kernel.json)
    assert launched_kernels(load("llama-3.1-8b")) == 13 * 32
    # two more norms, router and top-k instead of gate, up and down; experts are 7: 19 in a profile
    assert launched_kernels(load("qwen3-30b-a3b")) == 20 * 48
    # of 64 layers, 16 have attention with two more norms, 15, and 48 the gated delta rule, a norm
    # of its own instead of these: 13 beside norms 3, activation and gate and up, down, 3
    assert launched_kernels(load("qwen3.5-27b")) == 15 * 16 + 22 * 48


def test_small_kernels_are_counted_by_hand() -> None:
    # llama: 2 norms, rotation and cache write, activation: 5 x 32; GEMMs quantize their inputs
    assert small_kernels(in_dtype(load("llama-3.1-8b"), "fp8")) == 5 * 32
    assert small_kernels(load("llama-3.1-8b")) == 5 * 32
    # gpt-oss: 2 norms, 2 of attention, top-k; experts' calls include the rest: 5 x 36
    assert small_kernels(load("gpt-oss-120b")) == 5 * 36


def test_norms_over_all_heads_of_a_cut_query_are_reduced_too() -> None:
    # MiniMax-M2 norms the whole query (6144) and key (1024), not each head of 128: 2 x 62 layers
    assert norm_messages(load("minimax-m2.5")) == 2 * 62
    assert norm_messages(load("qwen3-32b")) == 0


def test_all_reduce_is_the_faster_of_two_lines() -> None:
    lines = AllReduce(latency_s=5e-6, rate=50e9, bulk_latency_s=20e-6, bulk_rate=250e9)
    # 8 KiB: 5 us + 0.16 us against 20 us + 0.03 us; 1 MiB: 26.0 us against 24.2 us;
    # 64 MiB: 1,347 us against 288.4 us
    small, middle, large = lines.time(np.array([8192.0, 2.0**20, 2.0**26]))
    assert small == pytest.approx(5.16e-6, rel=0.01)
    assert middle == pytest.approx(24.2e-6 * (1 + (24.2 / 26.0) ** 6) ** (-1 / 6), rel=0.01)
    assert large == pytest.approx(288.4e-6, rel=0.01)


def test_one_rank_does_not_communicate() -> None:
    known = Collectives({2: AllReduce(5e-6, 50e9, 20e-6, 250e9)}, "test")
    assert known.time(np.array([1.0, 2.0]), np.array([8192.0]))[0] == 0.0


def test_mesh_bulk_rate_grows_with_ranks_and_switch_rate_does_not() -> None:
    mesh = from_topology(default_catalogue().gpu("mi300x").interconnect).by_world
    switch = from_topology(default_catalogue().gpu("h200").interconnect).by_world
    # two-shot moves 2 (n - 1) / n of the message over n - 1 links of 64 GB/s: rate 32 n GB/s
    assert mesh[8].bulk_rate / mesh[2].bulk_rate == pytest.approx(4.0)
    # a switch gives 450 GB/s whatever n: n / (2 (n - 1)) falls from 1 to 4/7
    assert switch[8].bulk_rate / switch[2].bulk_rate == pytest.approx(4 / 7)


def experts_time(tokens: float, tp: float, ep: int) -> float:
    """Seconds that weights and matrices of qwen3-30b-a3b take in a decode step."""
    s = setting("qwen3-30b-a3b", "h200", "bf16")
    parts = parts_of(s, tp, tokens, 1.0, ep=ep)
    return float(parts.weights[0] + parts.compute[0])


@settings(max_examples=60, deadline=None)
@given(tokens=st.floats(1, 4096), tp=st.sampled_from([1, 2, 4, 8]))
def test_more_tokens_never_make_whole_experts_faster(tokens: float, tp: int) -> None:
    assert experts_time(tokens * 1.1, tp, tp) >= experts_time(tokens, tp, tp) * (1 - 1e-12)


def test_copies_of_attention_share_the_sequences_and_exchange_their_tokens() -> None:
    s = setting("deepseek-r1", "h200", "auto")
    layouts = Layouts.of([Layout(8), Layout(1, ep_size=8, attention_dp=8)])
    at = [np.array(x) for x in (64.0, 8192.0, 0.0, 0.0)]
    found = step_time(s, s.kernels(layouts), *at)
    # a latent cache is not cut by TP: eight copies read an eighth of the sequences each
    assert found.kv[1] < 0.4 * found.kv[0]
    assert found.communication[1] > 0


def test_each_copy_of_attention_schedules_its_own_sequences() -> None:
    s = setting("deepseek-r1", "h200", "auto")
    kernels = s.kernels(Layouts.of([Layout(1, ep_size=8, attention_dp=8)]))
    slow = replace(s, coefficients={**s.coefficients, "sequence": 1.0})

    def host(at: Setting) -> float:
        load = [np.array(x) for x in (64.0, 1024.0, 0.0, 0.0)]
        return float(step_time(at, kernels, *load).overhead[0])

    # 64 sequences, 8 of them on each of 8 ranks
    assert host(slow) - host(s) == pytest.approx(8 * (1.0 - s.coefficients["sequence"]))


def test_with_fewer_sequences_than_copies_of_attention_the_busy_ones_set_the_step() -> None:
    s = setting("deepseek-r1", "h200", "auto")
    kernels = s.kernels(Layouts.of([Layout(1, ep_size=8, attention_dp=8)]))

    def attention(sequences: float) -> float:
        at = [np.array(x) for x in (sequences, 8192.0, 0.0, 0.0)]
        return float(step_time(s, kernels, *at).kv[0])

    # one sequence of its own in each of one, four or eight copies: the same attention
    assert attention(1.0) == pytest.approx(attention(8.0))
    assert attention(4.0) == pytest.approx(attention(8.0))
    assert attention(64.0) > attention(8.0)


def test_launches_hide_behind_the_device_until_they_take_longer() -> None:
    def prefill(tokens: float, eager_kernel: float, as_graphs: float = 0.0) -> float:
        s = setting("llama-3.1-8b", "h200", "bf16", eager_kernel=eager_kernel)
        return float(parts_of(s, 1.0, 0.0, 1.0, tokens, as_graphs=as_graphs).total[0])

    # 32 layers of 13 kernels, 8 us each, beside 8192 x 14 GFLOP / 700 TFLOP/s, over 160 ms: 3.3 ms
    # hide
    assert prefill(8192.0, 8e-6) == pytest.approx(prefill(8192.0, 0.0), rel=1e-4)
    # 416 x 0.8 ms beside a tenth of that: the host is what is waited for
    assert prefill(1024.0, 8e-4) == pytest.approx(0.333, rel=0.02)
    # graphs between the calls of attention leave a fifth of the launches; here in half of the steps
    assert prefill(512.0, 8e-4, as_graphs=1.0) == pytest.approx(0.2 * 0.333, rel=0.02)
    assert prefill(512.0, 8e-4, as_graphs=0.5) == pytest.approx(0.6 * 0.333, rel=0.02)
    # and a decode step is replayed from a graph
    slow = setting("llama-3.1-8b", "h200", "bf16", eager_kernel=8e-4)
    assert total(slow, 1.0, 16.0, 100.0) < 0.02


def test_the_all_reduce_over_pcie_is_the_measured_one() -> None:
    s = setting("llama-3.1-8b", "l40s", "bf16", skew=0.0)
    # 65 messages of 32 x 4096 x 2 bytes; above two ranks over PCIe engines leave it to NCCL
    each = float(all_reduce(s.gpu, "vllm", 4, 32 * 8192, "nccl").seconds)
    assert float(parts_of(s, 4, 32.0, 100.0).communication[0]) == pytest.approx(65 * each, rel=0.01)
    assert each > 50e-6


def test_norms_and_activations_pass_their_vectors_as_counted() -> None:
    # 32 layers x 2 bytes x (8 x 4096 + (4 x 32 x 128 + 3 x 14336) / 2) at TP=2
    passed = elementwise_bytes(load("llama-3.1-8b"), Layout(2))
    assert passed == 32 * 2 * (8 * 4096 + (4 * 4096 + 3 * 14336) / 2)


def test_mxfp4_attention_is_bf16_and_runs_at_the_bf16_rate() -> None:
    def multiplied(s: Setting) -> dict[tuple[str, str], str]:
        work = s.work(Layouts.of([Layout()]))
        return {(x.kind, x.format.dtype): s.compute_dtype(x.format) for x in work.streams}

    # Hopper has no 4-bit matrix rate
    assert multiplied(setting("gpt-oss-120b", "h200", "auto")) == {
        ("dense", "bf16"): "bf16",
        ("experts", "mxfp4"): "bf16",
        ("head", "bf16"): "bf16",
    }
    blackwell = multiplied(setting("llama-3.1-70b", "b200", "nvfp4"))
    assert blackwell["dense", "nvfp4"] == "fp4"


CASES = {
    "tp": st.sampled_from([1.0, 2.0, 4.0, 8.0]),
    "sequences": st.floats(1, 512),
    "context": st.floats(1, 32_000),
    "gpu": st.sampled_from(["h100", "h200", "b200", "mi300x", "mi355x", "l40s"]),
    "model": st.sampled_from(["llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-r1"]),
}


@settings(max_examples=60, deadline=None)
@given(**CASES)
def test_more_sequences_or_context_never_make_a_step_faster(
    tp: float, sequences: float, context: float, gpu: str, model: str
) -> None:
    s = setting(model, gpu, "fp8")
    base = total(s, tp, sequences, context)
    assert 0 < base < float("inf")
    assert total(s, tp, sequences + 1, context) >= base
    assert total(s, tp, sequences, context * 1.5) >= base
    assert total(s, tp, sequences, context, prompt=512.0) > base


def test_fp32_reads_twice_and_multiplies_at_its_own_rate() -> None:
    arch, gpu = load("llama-3.1-8b"), default_catalogue().gpu("h200")
    half, full = (
        rank_work(in_dtype(arch, dtype), Layouts.of([Layout()]), "bf16")
        for dtype in ("bf16", "fp32")
    )
    assert full.bytes_of("dense")[0] == 2 * half.bytes_of("dense")[0]
    assert full.bytes_of("head")[0] == 2 * half.bytes_of("head")[0]
    slow = replace(gpu, flops={**gpu.flops, "fp32": gpu.flops["bf16"] / 10})
    long = {"tp": 1.0, "sequences": 0.0, "context": 0.0, "prompt": 4096.0}
    # a long prefill is bound by the matrix rate: a tenth of it takes about ten times as long
    at = Setting(in_dtype(arch, "fp32"), slow, "builtin", "fp32", dict(PRIOR))
    ratio = total(at, **long) / total(replace(at, arch=arch), **long)
    assert 5 < ratio < 11


def test_a_gpu_with_measured_all_reduce_is_taken_at_its_word() -> None:
    gpu = default_catalogue().gpu("h200")
    own = replace(gpu, all_reduce={2: AllReduceLine(20e-6, 5e9)})
    found = collectives_for(bundled_profile(), own, "builtin", {})
    # 20 us + 5 MB / 5 GB/s = 1.02 ms
    assert found.time(np.array([2.0]), np.array([5e6]))[0] == pytest.approx(1.02e-3)
    assert found.measured == "measured on h200"
