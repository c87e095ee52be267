"""Sense of predictions over a grid of models, GPUs, engines and loads: physical limits, and which
way they go when one thing changes."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from shardwise.hardware.catalogue import default_catalogue, load_catalogue
from shardwise.hardware.gpu import Gpu
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.batches import group
from shardwise.perfmodel.estimate import Subject
from shardwise.perfmodel.loads import Load, Offered, make_load
from shardwise.perfmodel.physics import SLACK, arithmetic_share, bandwidth_share
from shardwise.perfmodel.predicting import predict_table
from shardwise.perfmodel.profiles import bundled_profile, calibrated
from shardwise.perfmodel.rows import parse_rows
from shardwise.perfmodel.serving import SERVE, closed_loop
from shardwise.perfmodel.subject import Asked, subject_of

MODELS = (
    ("qwen3-0.6b", "bf16"),
    ("llama-3.1-70b", "fp8"),
    ("gpt-oss-120b", "mxfp4"),
    ("deepseek-r1", "fp8"),
)
GPUS = ("h100", "h200", "b200", "mi300x", "l40s", "a100-80gb")
ISL = (16, 128, 512, 1024, 2048, 4096, 16384)
OSL = (16, 128, 1024)
CONCURRENCY = (1, 8, 64, 256, 1024)


def subject(model: str, gpu: str, engine: str = "vllm") -> Subject:
    dtype = dict(MODELS)[model]
    return subject_of(Asked(model, gpu, engine, weight_dtype=dtype))[0]


def grid(tp: int, isl: tuple[int, ...] = ISL) -> tuple[Deployments, Offered]:
    """Cells in the order osl, concurrency, isl."""
    cells = list(product(OSL, CONCURRENCY, isl))
    one = np.ones(len(cells))
    osl, concurrency, lengths = (np.array(column, float) for column in zip(*cells, strict=True))
    deployments = Deployments(
        Layouts.of([Layout(tp)] * len(cells)), 1024 * one, 8192 * one, 0.9 * one
    )
    return deployments, Offered(concurrency, lengths, osl, 10 * concurrency)


def load_of(some: Subject, tp: int, isl: tuple[int, ...] = ISL) -> Load:
    deployments, offered = grid(tp, isl)
    return make_load(some.arch, some.platform, some.setting.kv_dtype, deployments, offered)


def shaped(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(len(OSL), len(CONCURRENCY), -1)


@pytest.mark.parametrize("model", [m for m, _ in MODELS])
def test_no_prediction_beats_the_bandwidth_or_the_flops_of_its_gpu(model: str) -> None:
    table = [
        {
            "model_id": model,
            "gpu_id": gpu,
            "engine_id": engine,
            "weight_dtype": dict(MODELS)[model],
            "tp": str(tp),
            "mode": mode,
            "concurrency": str(concurrency),
            "isl": str(isl),
            "osl": "256",
        }
        for gpu, engine, tp, mode, concurrency, isl in product(
            GPUS,
            ("vllm", "sglang"),
            (1, 8),
            ("closed_loop", "static_batch"),
            (1, 64, 512),
            (1, 512, 8192),
        )
    ]
    predicted, _ = predict_table(table, bundled_profile())
    measured = [
        {**row, "tpot_ms": row["pred_tpot_ms"], "output_tok_s": row["pred_output_tok_s"]}
        for row in predicted
        if row["pred_tpot_ms"]
    ]
    assert len(measured) > 100
    for batch in group(parse_rows(measured)[0])[0]:
        assert np.max(bandwidth_share(batch)) <= SLACK, batch.key
        assert np.max(arithmetic_share(batch)) <= SLACK, batch.key


@pytest.mark.parametrize("gpu", GPUS)
def test_the_cache_is_never_negative_and_does_not_depend_on_how_many_ask(gpu: str) -> None:
    for (model, _), tp in product(MODELS, (1, 4, 8)):
        capacity = shaped(load_of(subject(model, gpu), tp).kv_capacity_tokens)
        assert np.min(capacity) >= 0.0
        assert np.ptp(capacity, axis=1) == pytest.approx(0.0)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_ttft_falls_with_longer_prompts_only_where_the_server_is_slower_than_its_engine(
    engine: str,
) -> None:
    """Rows show that it does there: see docs/accuracy.md."""
    fell = 0
    for (model, _), gpu, tp in product(MODELS, GPUS, (1, 8)):
        some = subject(model, gpu, engine)
        load = load_of(some, tp)
        setting = some.setting
        quick = {**setting.coefficients, "handle": 1e-9, "stream": 1e-9}
        served, alone = (
            closed_loop(replace(setting, coefficients=c), load)
            for c in (setting.coefficients, quick)
        )
        fits = shaped(load.kv_capacity_tokens > load.isl)[..., 1:]
        ttft, engines = shaped(served.ttft_s), shaped(alone.ttft_s)
        assert np.all((engines[..., 1:] >= engines[..., :-1] * (1 - 1e-3)) | ~fits)
        falls = (ttft[..., 1:] < ttft[..., :-1] * (1 - 1e-3)) & fits
        waits = served.e2e_latency_s > 1.001 * alone.e2e_latency_s
        waits |= served.ttft_s > 2.0 * alone.ttft_s  # the server takes most of it
        bound = shaped(waits)[..., :-1]
        assert not np.any(falls & ~bound), (model, gpu, tp)
        fell += int(falls.sum())
    assert fell


def faster(gpu: Gpu, what: str, factor: float) -> Gpu:
    link = gpu.interconnect
    return {
        "bandwidth": replace(gpu, memory_bandwidth=factor * gpu.memory_bandwidth),
        "flops": replace(gpu, flops={name: factor * rate for name, rate in gpu.flops.items()}),
        "links": replace(
            gpu,
            interconnect=replace(link, bandwidth_bytes_per_s=factor * link.bandwidth_bytes_per_s),
        ),
    }[what]


@pytest.mark.parametrize("what", ["bandwidth", "flops", "links"])
@pytest.mark.parametrize("gpu", ["h100", "b200", "mi300x"])
def test_more_of_what_a_gpu_has_never_lowers_throughput(gpu: str, what: str) -> None:
    """By up to 8 %: with more bandwidth a product waits for arithmetic instead of weights, and is
    corrected by that class's factor (up to 1.2), which rows of the real GPU gave."""
    siblings = default_catalogue().by_id
    for model, mode, tp in product(
        ("qwen3-0.6b", "llama-3.1-70b", "gpt-oss-120b"), ("closed_loop", "max_throughput"), (1, 8)
    ):
        some = subject(model, gpu)
        deployments, offered = grid(tp, (128, 2048, 16384))
        found = []
        for factor in (1.0, 1.3, 2.0):
            other = faster(some.gpu, what, factor)
            known = calibrated(bundled_profile(), other, "vllm", siblings)
            its = replace(some, gpu=other, calibrated=known)
            load = make_load(its.arch, its.platform, its.setting.kv_dtype, deployments, offered)
            found.append(SERVE[mode](its.setting, load).output_tok_s)
        for slower, quicker in pairwise(found):
            assert np.min(quicker / slower) > 1 - 0.08, (model, mode, tp)
        if what == "bandwidth":  # a token alone waits for memory, least with 0.6B on 8 GPUs
            assert np.max(found[-1] / found[0]) > 1.1


_GPU = """[gpu.mine]
memory = {{ value = {0}, unit = "{1}" }}
memory_bandwidth = {{ value = {2}, unit = "{3}" }}
flops.bf16 = {{ value = {4}, unit = "{5}" }}
compute_units = {{ value = 100, unit = "1" }}
[gpu.mine.interconnect]
topology = "switched"
bandwidth = {{ value = {6}, unit = "{7}" }}
max_world = 8
"""


def test_the_same_gpu_in_other_units_is_the_same_gpu(tmp_path: Path) -> None:
    found = []
    for number, values in enumerate(
        (
            (80, "GB", 2, "TB/s", 300, "TFLOPS", 300, "GB/s"),
            (0.08, "TB", 2000, "GB/s", 0.3, "PFLOPS", 0.3, "TB/s"),
        )
    ):
        path = tmp_path / f"{number}.toml"
        path.write_text(_GPU.format(*values))
        found.append(load_catalogue([path]).gpu("mine"))
    first, second = found
    assert second.memory_bytes == pytest.approx(first.memory_bytes)
    assert second.memory_bandwidth == pytest.approx(first.memory_bandwidth)
    assert second.flops == pytest.approx(first.flops)
    link, other = first.interconnect, second.interconnect
    assert other.bandwidth_bytes_per_s == pytest.approx(link.bandwidth_bytes_per_s)
