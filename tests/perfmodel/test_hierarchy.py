"""Offsets of a hierarchy: who shares what with whom."""

import numpy as np
import pytest

from shardwise.hardware.catalogue import default_catalogue
from shardwise.perfmodel.coefficients import PRIOR
from shardwise.perfmodel.hierarchy import NAMES, Hierarchy, Level, levels_of
from shardwise.perfmodel.profiles import bundled_profile, calibrated

GPU = default_catalogue().gpu("h200")


def offset(key: tuple[str, ...], name: str, size: float) -> Hierarchy:
    vector = np.zeros(len(NAMES))
    vector[NAMES.index(name)] = size
    return Hierarchy({key: vector})


def test_without_rows_the_tables_are_right() -> None:
    found = Hierarchy({}).coefficients(GPU, "vllm")
    factors = [n for n in NAMES if n in ("gemm", "experts", "attention_decode", "elementwise")]
    assert all(found[name] == PRIOR[name] == 1.0 for name in factors)


def test_a_model_seen_on_one_gpu_takes_its_own_offset_to_another_and_not_its_cells() -> None:
    moved = offset(("model", "m"), "gemm", 1.0)
    scale = Level(("model", "m")).scale[NAMES.index("gemm")]
    other = default_catalogue().gpu("b200")
    found = moved.coefficients(other, "sglang", "", "m")["gemm"]
    assert found == pytest.approx(np.exp(scale))
    assert moved.coefficients(other, "sglang", "", "n")["gemm"] == 1.0
    cell = offset(("cell", "h200", "vllm", "m"), "gemm", 1.0)
    assert cell.coefficients(GPU, "vllm", "", "m")["gemm"] > 1.0
    assert cell.coefficients(other, "vllm", "", "m")["gemm"] == 1.0
    # the same engine's code runs the model in another dtype
    assert cell.coefficients(GPU, "vllm", "", "m:fp8") == cell.coefficients(GPU, "vllm", "", "m")


def test_who_names_no_version_and_no_model_draws_from_what_is_shared() -> None:
    assert [k[0] for k in levels_of("h200", "vllm")] == ["shared", "gpu", "engine", "pair"]
    named = [k[0] for k in levels_of("h200", "vllm", "0.11", "m")]
    assert named[4:] == ["version", "kind", "model", "cell"]


def test_a_version_takes_its_host_time_to_another_gpu_and_not_its_kernels() -> None:
    key = ("version", "b200", "vllm", "0.15.1")
    host, kernels = offset(key, "request", 1.0), offset(key, "gemm", 1.0)
    plain = Hierarchy({}).coefficients(GPU, "vllm")
    scale = Level(key).scale[NAMES.index("request")]
    found = host.coefficients(GPU, "vllm", "0.15.1")
    assert found["request"] == pytest.approx(plain["request"] * np.exp(scale))
    assert host.coefficients(GPU, "vllm", "0.15.2")["request"] == plain["request"]
    assert host.coefficients(GPU, "sglang", "0.15.1")["request"] == plain["request"]
    assert kernels.coefficients(GPU, "vllm", "0.15.1")["gemm"] == plain["gemm"]


def test_a_versions_own_rows_on_a_gpu_go_before_those_elsewhere() -> None:
    here, there = ("version", GPU.id, "vllm", "1"), ("version", "b200", "vllm", "1")
    both = Hierarchy({here: np.zeros(len(NAMES)), there: np.ones(len(NAMES))})
    assert both.coefficients(GPU, "vllm", "1") == Hierarchy({}).coefficients(GPU, "vllm")


def test_a_profile_hands_on_a_version_from_other_gpus() -> None:
    gpus = default_catalogue().by_id
    known, unknown = (
        calibrated(bundled_profile(), gpus["h100"], "vllm", gpus, version).coefficients
        for version in ("0.15.1", "0.15.9")
    )
    assert known["request"] != unknown["request"]
    assert known["gemm"] == unknown["gemm"]


def test_host_time_is_shared_by_an_engines_models_of_a_kind() -> None:
    experts, dense = "36x2880x128x2880:mxfp4", "80x8192x28672:fp8"
    moved = offset(("kind", "sglang", "moe"), "request", 1.0)
    plain = Hierarchy({}).coefficients(GPU, "sglang")["request"]
    assert moved.coefficients(GPU, "sglang", "", experts)["request"] > plain
    assert moved.coefficients(GPU, "sglang", "", dense)["request"] == pytest.approx(plain)
    assert moved.coefficients(GPU, "vllm", "", experts)["request"] == pytest.approx(plain)
    # kernels are in tables, whatever the kind
    kernels = offset(("kind", "sglang", "moe"), "gemm", 1.0)
    assert kernels.coefficients(GPU, "sglang", "", experts)["gemm"] == 1.0
