"""A measured machine's file, read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from shardwise.hardware.catalogue import load_catalogue
from shardwise.hardware.gpu import AllReduceLine, Gpu
from shardwise.hardware.measured import Measured, to_toml

L4_PAIR = Measured(
    name="NVIDIA L4",
    vendor="nvidia",
    device="cuda",
    num_ranks=2,
    threads_per_rank=0,
    cores=8,
    compute_units=58,
    memory_bytes=22.03 * 2**30,
    memory_bandwidth=250e9,
    flops={"bf16": 60e12, "fp32": 20e12},
    all_reduce={2: AllReduceLine(30e-6, 6e9)},
    date="2026-11-25",
    seconds=40.0,
    load_before=0.1,
    compute_capability="8.9",
)


def read(found: Measured, folder: Path) -> Gpu:
    path = folder / "mine.toml"
    path.write_text(to_toml("mine", found))
    return load_catalogue([path]).gpu("mine")


def test_a_measured_nvidia_gpu_knows_whether_it_can_cache_in_fp8(tmp_path: Path) -> None:
    gpu = read(L4_PAIR, tmp_path)
    assert (gpu.compute_capability, gpu.kv_fp8) == ((8, 9), True)
    assert "fp8" not in gpu.flops  # not measured
    assert gpu.memory_bytes == pytest.approx(22.03 * 2**30, rel=1e-3)
    assert read(replace(L4_PAIR, compute_capability="8.6"), tmp_path).kv_fp8 is False


def test_a_measured_amd_gpu_has_its_llvm_target(tmp_path: Path) -> None:
    found = replace(L4_PAIR, vendor="amd", compute_capability="", llvm_target="gfx942")
    gpu = read(found, tmp_path)
    assert (gpu.compute_capability, gpu.llvm_target, gpu.kv_fp8) == (None, "gfx942", True)


def test_a_measured_cpu_has_neither(tmp_path: Path) -> None:
    found = replace(L4_PAIR, vendor="cpu", device="cpu", threads_per_rank=2, compute_capability="")
    gpu = read(found, tmp_path)
    assert (gpu.compute_capability, gpu.llvm_target, gpu.kv_fp8) == (None, "", None)
