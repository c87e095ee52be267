"""Kernels of vLLM's steps on an H100, beside what the model says of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import step_by_kernel
from step_by_kernel import CLASSES, Profiled, class_of, compared, document, medians


@pytest.fixture(scope="module")
def models() -> list[Profiled]:
    return msgspec.convert(
        json.loads(step_by_kernel.MEASURED.read_text("utf-8"))["models"], list[Profiled]
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nvjet_sm90_tst_128x32_64x10_4x1_v_bz_TNT", "gemm"),
        ("void cutlass::device_kernel<flash::FlashAttnFwdCombine<cute::tuple<", "attention"),
        ("void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16", "small"),
        ("triton_red_fused__to_copy_abs_clamp_cutlass_scaled_mm_div_max_mul", "gemm"),
        ("triton_poi_fused_mul_silu_slice_1", "small"),
        ("fused_moe_kernel", "experts"),
        ("void vllm::moe::topkGating<8, 128, 4, 16, 32, int", "small"),
        ("Memcpy DtoH (Device -> Pinned)", "small"),
    ],
)
def test_a_kernel_is_of_the_class_that_its_name_says(name: str, expected: str) -> None:
    assert class_of(name) == expected


def test_each_class_of_kernels_in_a_decode_step_is_predicted(models: list[Profiled]) -> None:
    errors = medians(models)
    assert set(errors) == set(CLASSES)
    assert all(errors[name] < 10 for name in ("gemm", "experts", "attention")), errors


def test_kernels_of_16_bit_models_add_up_to_the_measured_step(models: list[Profiled]) -> None:
    for profiled, step, ours in compared(models):
        if profiled.weight_dtype == "bf16" and step.sequences:
            total = sum(ours[name] for name in CLASSES)
            assert total == pytest.approx(sum(profiled.kernels_ms(step).values()), rel=0.105), (
                step.name
            )


def test_the_page_is_what_the_script_writes(models: list[Profiled]) -> None:
    data = json.loads(step_by_kernel.MEASURED.read_text("utf-8"))
    assert step_by_kernel.DOCUMENT.read_text("utf-8") == document(data, models)
