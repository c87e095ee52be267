"""How engines' TP cuts weights: the rules that people met, and invariants of all of them."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.engines import Device, Shard, Weight, cut_heads, every, get
from shardwise.units import GIB

H100 = Device("nvidia", 85.0e9, "hopper")
A100 = Device("nvidia", 85.1e9, "ampere")
B200 = Device("nvidia", 192e9, "blackwell")
MI355X = Device("amd", 309e9, "cdna4")


def down(inputs: int, dtype: str, block: tuple[int, int], **others: bool) -> Weight:
    return Weight("intermediate_size", 4096, inputs, "inputs", dtype, block, **others)


def test_qwen2_72b_in_int8_is_refused_at_tp4_on_a100() -> None:
    """llm-compressor#57: 29568 / 4 = 7392 is not a multiple of min_thread_k 128."""
    weight = down(29568, "int8", (1, 0), weight_only=True)
    shard = get("vllm").cut(weight, 4, A100)
    assert "7392" in shard.refused
    assert "128" in shard.refused
    assert not get("vllm").cut(weight, 1, A100).refused


def test_later_versions_have_a_kernel_for_it_or_pad() -> None:
    weight = down(29568, "int8", (1, 0), weight_only=True)
    assert get("vllm").cut(weight, 4, A100, "0.11.0") == Shard(4096, 7392, (1, 0))  # AllSpark
    padded = get("vllm").cut(weight, 4, Device("nvidia", 85e9, "hopper"), "0.24.0")
    assert padded.inputs == 7424  # 58 x 128, or 116 x 64
    assert not padded.refused


def test_qwen3_235b_in_fp8_blocks_is_refused_at_tp8_and_not_with_experts_whole() -> None:
    """QwenLM/Qwen3#1485: 1536 / 8 = 192 is not a multiple of 128."""
    weight = down(1536, "fp8", (128, 128), experts=True, down=True)
    for engine in ("vllm", "sglang"):
        assert "192" in get(engine).cut(weight, 8, H100).refused
        assert not get(engine).cut(weight, 4, H100).refused
        assert not get(engine).cut(weight, 1, H100).refused  # expert parallelism


def test_int4_experts_have_their_group_halved_with_a_remark() -> None:
    """vllm#17604: Qwen3-30B-A3B, 768 / 4 = 192, groups of 128 become 64."""
    weight = down(768, "int4", (1, 128), weight_only=True, experts=True, down=True)
    shard = get("vllm").cut(weight, 4, A100)
    assert shard.block == (1, 64)
    assert not shard.refused
    assert "version" in shard.remark
    # 768 / 16 = 48: not even groups of 32
    assert get("vllm").cut(weight, 16, A100).refused


def test_int4_groups_of_dense_layers_are_not_halved() -> None:
    """Qwen2-72B GPTQ, groups of 128: 29568 / 2 = 14784 is 115.5 groups."""
    weight = down(29568, "int4", (1, 128), weight_only=True)
    for version in ("", "0.32.0"):
        assert "groups of 128" in get("vllm").cut(weight, 2, A100, version).refused


def experts_gib(device: Device, version: str, layers: int = 36, experts: int = 128) -> float:
    """The MXFP4 experts of gpt-oss-120b: hidden and intermediate 2880, 4.25 bits a weight."""
    up = Weight("up", 2880, 2880, "outputs", "mxfp4", (1, 32), experts=True)
    back = Weight("down", 2880, 2880, "inputs", "mxfp4", (1, 32), experts=True, down=True)
    gate_up, down_ = (get("vllm").cut(weight, 1, device, version) for weight in (up, back))
    weights = 2 * gate_up.outputs * gate_up.inputs + down_.outputs * down_.inputs
    return weights * 4.25 / 8 * layers * experts / GIB


def test_gpt_oss_120b_loads_66_gib_on_h100() -> None:
    """vllm#23278: 65.97 GiB loaded, 60.71 in the checkpoint, whose experts are 56.73 of it."""
    rest = 60.71 - 56.73
    assert experts_gib(H100, "0.10.1") + rest == pytest.approx(65.97, rel=0.01)
    assert experts_gib(H100, "0.14.1") + rest == pytest.approx(64.38, rel=0.03)


def test_blackwell_and_amd_pad_to_256_until_kernels_take_less() -> None:
    weight = Weight("up", 2880, 2880, "outputs", "mxfp4", (1, 32), experts=True)
    for device in (B200, MI355X):
        shard = get("vllm").cut(weight, 1, device, "0.11.0")
        assert (shard.outputs, shard.inputs) == (3072, 3072)
    newest = get("vllm").cut(weight, 1, B200, "0.32.0")
    assert (newest.outputs, newest.inputs) == (2944, 3072)


def test_rtx_blackwell_pads_as_marlin_does() -> None:
    weight = Weight("up", 2880, 2880, "outputs", "mxfp4", (1, 32), experts=True)
    rtx = Device("nvidia", 102e9, "blackwell", (12, 0))
    shard = get("vllm").cut(weight, 1, rtx)
    assert (shard.outputs, shard.inputs) == (2944, 3072)


def test_tensorrt_llm_pads_the_input_of_gate_and_up_further_on_blackwell() -> None:
    up = Weight("up", 2880, 2880, "outputs", "mxfp4", (1, 32), experts=True)
    back = Weight("down", 2880, 2880, "inputs", "mxfp4", (1, 32), experts=True, down=True)
    cut = get("trtllm").cut
    assert (cut(up, 1, B200).outputs, cut(up, 1, B200).inputs) == (2944, 3072)
    assert (cut(back, 1, B200).outputs, cut(back, 1, B200).inputs) == (2944, 2944)
    assert cut(up, 1, H100).inputs == 2944


def test_fp8_on_ampere_goes_through_marlin() -> None:
    weight = down(11008, "fp8", (1, 0))
    assert get("vllm").cut(weight, 4, A100).refused  # 2752 = 21.5 x 128
    assert not get("vllm").cut(weight, 4, H100).refused  # a multiple of 16


@pytest.mark.parametrize(
    ("heads", "kv_heads", "tp_size", "expected"),
    [
        (64, 8, 8, (8, 1, 1)),
        (64, 8, 16, (4, 1, 2)),
        (32, 8, 4, (8, 2, 1)),
        (40, 40, 4, (10, 10, 1)),
    ],
)
def test_kv_heads_are_cut_or_replicated(
    heads: int, kv_heads: int, tp_size: int, expected: tuple[int, int, int]
) -> None:
    found = cut_heads(heads, kv_heads, tp_size)
    assert (found.query, found.key_value, found.replicated) == expected


def test_heads_that_do_not_divide_are_refused() -> None:
    assert "64 attention heads" in cut_heads(64, 8, 3).refused
    assert "KV heads" in cut_heads(48, 8, 12).refused


DTYPES = st.sampled_from(
    [
        *[("bf16", (0, 0)), ("fp8", (128, 128)), ("fp8", (1, 0)), ("int8", (1, 0))],
        *[("int4", (1, 128)), ("int4", (1, 32)), ("nvfp4", (1, 16)), ("mxfp4", (1, 32))],
    ]
)
CUTS: list[Literal["outputs", "inputs", "none"]] = ["outputs", "inputs", "none"]


@given(
    st.sampled_from([engine.name for engine in every()]),
    st.sampled_from([H100, A100, B200, MI355X, Device("cpu")]),
    st.sampled_from(["", "0.8.5", "0.11.0", "0.32.0"]),
    st.sampled_from(CUTS),
    DTYPES,
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(1, 16)),
)
def test_a_rank_never_holds_less_than_its_part(
    engine: str,
    device: Device,
    version: str,
    cut: Literal["outputs", "inputs", "none"],
    form: tuple[str, tuple[int, int]],
    flags: tuple[bool, bool, bool],
    sizes: tuple[int, int, int],
) -> None:
    """Padding only adds, groups only shrink, and one GPU is refused only by a kernel's multiple."""
    outputs, inputs, tp_size = 16 * sizes[0], 16 * sizes[1], sizes[2]
    weight = Weight("w", outputs, inputs, cut, *form, *flags)
    shard = get(engine).cut(weight, tp_size, device, version)
    plain = weight.sharded(tp_size)
    assert shard.outputs >= plain.outputs
    assert shard.inputs >= plain.inputs
    assert shard.block[1] <= weight.block[1]
    if tp_size == 1 and outputs % 128 == 0 and inputs % 128 == 0:
        assert not shard.refused
