"""Group rows of one model, GPU, engine version, dtype and mode into array computations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shardwise.architecture.bundled import stored_in
from shardwise.architecture.cache import KV_BYTES
from shardwise.architecture.model import Model
from shardwise.architecture.models import load as load_model
from shardwise.engines.device import device_of
from shardwise.engines.loading import require_prefix_caching
from shardwise.engines.registry import get
from shardwise.errors import InputError, ShardwiseError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.gpu import Gpu
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import GPU_MEMORY_UTILIZATION
from shardwise.layout.speculation import Speculation
from shardwise.perfmodel.drafting import speculating
from shardwise.perfmodel.drafts import draft_held, require_draft
from shardwise.perfmodel.hierarchy import model_key
from shardwise.perfmodel.loads import Load, Offered, make_load
from shardwise.perfmodel.memory import Platform
from shardwise.perfmodel.rows import Problem, Row
from shardwise.perfmodel.serving import SERVE, Served
from shardwise.perfmodel.step import Setting
from shardwise.perfmodel.work import Array

BATCHED_TOKENS: Final = 8192.0  #: what load tests of vLLM and TensorRT-LLM are started with
STATIC_BATCHED_TOKENS: Final = 131072.0  #: latency runs prefill the whole batch at once


class Key(msgspec.Struct, frozen=True):
    """The common properties of the rows in a batch."""

    model: str
    gpu: str
    engine: str
    weight_dtype: str
    kv_dtype: str
    mode: str
    version: str = ""
    all_reduce: str = ""
    speculation: Speculation | None = None
    plugin: str = ""


class Batch(msgspec.Struct, frozen=True):
    """Rows that are predicted together; arrays follow the order of `rows`."""

    key: Key
    arch: Model  #: in the dtype that it was served in
    gpu: Gpu
    load: Load
    rows: tuple[Row, ...]

    def observed(self, metric: str) -> Array:
        """The measured values; NaN if not reported."""
        return np.array([row.observed.get(metric, np.nan) for row in self.rows])

    @property
    def model_key(self) -> str:
        """Key of the model and dtype in the hierarchy."""
        return model_key(self.arch)

    @property
    def identity(self) -> tuple[Gpu, str, str, str]:
        """Key in the hierarchy: GPU, engine, version and model."""
        return self.gpu, self.key.engine, self.key.version, self.model_key

    @property
    def weights(self) -> Array:
        """Weight of each row in a fit."""
        return np.array([row.weight for row in self.rows])

    @property
    def ttft_is_told(self) -> NDArray[np.bool_]:
        """Rows whose TTFT includes only serving."""
        return np.array([row.ttft_is_told for row in self.rows], dtype=np.bool_)

    def setting(self, coefficients: Mapping[str, float]) -> Setting:
        """Return the constant settings of the batch, with `coefficients` applied."""
        key = self.key
        plain = Setting(
            self.arch,
            self.gpu,
            key.engine,
            key.kv_dtype,
            dict(coefficients),
            key.version,
            key.all_reduce,
        )
        return speculating(plain, key.speculation)

    def serve(self, coefficients: Mapping[str, float]) -> Served:
        """Predict every row with these coefficients."""
        return SERVE[self.key.mode](self.setting(coefficients), self.load)


@cache
def _model(name: str, weight_dtype: str, vendor: str) -> Model:
    model = load_model(name)
    four_bits = model.checkpoint_dtype in ("mxfp4", "nvfp4", "int4")
    if weight_dtype == "fp4" and vendor == "amd" and not four_bits:
        weight_dtype = "mxfp4"  # AMD's quantized checkpoints
    return stored_in(model, weight_dtype)


#: Sources whose rows leave the KV cache dtype out and ran NVIDIA's quantized checkpoints, which
#: ask for an fp8 cache (`kv_cache_quant_algo`); an H200 holds the 32 sequences of 8192 + 1024
#: tokens that ran unqueued in one of them only so.
_NVIDIA_CHECKPOINTS: Final = ("aic_silicon", "trtllm_perf")


def _unstated_kv_dtype(row: Row, model: Model, gpu: Gpu) -> str:
    """Return the dtype that the checkpoint asks for; for published rows, that of their
    checkpoints."""
    published = row.source.startswith(_NVIDIA_CHECKPOINTS) and gpu.vendor == "nvidia"
    if published and model.checkpoint_dtype in ("fp8", "nvfp4"):
        return "fp8"
    return model.kv_dtype


#: Looks up the GPU of an id or alias for an engine.
GpuOf = Callable[[str, str], Gpu]


def usual_gpu(name: str, engine: str) -> Gpu:  # noqa: ARG001
    """Return the GPU of the default catalogue, for any engine."""
    return default_catalogue().gpu(name)


def _key(row: Row, gpu_of: GpuOf) -> Key:
    gpu = gpu_of(row.gpu, row.engine)
    model = _model(row.model, row.weight_dtype, gpu.vendor)
    if row.drafted is not None:
        require_draft(model, row.drafted)
    if row.cached_tokens:
        require_prefix_caching(row.engine, gpu, row.version)
    kv = row.kv_dtype or row.recipe.kv_dtype or _unstated_kv_dtype(row, model, gpu)
    if kv not in KV_BYTES:
        raise InputError(f"kv_dtype is {kv!r}", f"allowed: {', '.join(KV_BYTES)}")
    return Key(
        model.id,
        gpu.id,
        row.engine,
        model.checkpoint_dtype,
        kv,
        row.mode,
        row.version,
        row.all_reduce,
        row.drafted,
        row.plugin,
    )


def _as_run(row: Row, gpu_of: GpuOf) -> Row:
    """Return the row with the layout that its source ran, if it calls copies of attention TP."""
    cut = row.layout
    if not row.recipe.copies_attention or cut.tp_size == 1 or cut.attention_dp > 1:
        return row
    if _model(row.model, row.weight_dtype, gpu_of(row.gpu, row.engine).vendor).moe is None:
        return row
    ranks = cut.tp_size
    return replace(row, layout=replace(cut, tp_size=1, ep_size=ranks, attention_dp=ranks))


def _load(rows: list[Row], model: Model, gpu: Gpu, key: Key) -> Load:
    def column(read: Callable[[Row], float]) -> Array:
        return np.array([read(row) for row in rows], dtype=np.float64)

    platform = Platform(gpu, key.engine, key.version)
    budget = STATIC_BATCHED_TOKENS if key.mode == "static_batch" else BATCHED_TOKENS
    usual = get(key.engine).defaults(device_of(gpu), key.version)

    def seqs(row: Row) -> float:
        by_default = row.recipe.default_flags and row.limits.max_num_seqs is None
        return float(usual.max_num_seqs) if by_default else row.max_num_seqs

    def batched_tokens(row: Row) -> float:
        otherwise = usual.max_num_batched_tokens if row.recipe.default_flags else budget
        return row.limits.max_num_batched_tokens or otherwise

    deployments = Deployments(
        Layouts.of(row.layout for row in rows),
        max_num_seqs=column(seqs),
        max_num_batched_tokens=column(batched_tokens),
        gpu_memory_utilization=column(
            lambda r: r.limits.gpu_memory_utilization or GPU_MEMORY_UTILIZATION
        ),
    )
    offered = Offered(
        concurrency=column(lambda r: r.concurrency + r.recipe.extra_in_flight),
        isl=column(lambda r: r.isl),
        osl=column(lambda r: r.osl),
        requests=column(lambda r: r.requests),
        length_cv=column(lambda r: r.length_cv),
        cached_tokens=column(lambda r: r.cached_tokens),
        gather_steps=column(lambda r: r.recipe.gather_steps),
        gather_wait=column(lambda r: r.recipe.gather_wait),
        lengths_told=np.array([row.lengths_told for row in rows]),
        stream_interval=column(lambda r: r.recipe.stream_interval),
        graph_tokens=column(lambda r: r.recipe.graph_tokens),
    )
    draft = draft_held(model, key.speculation) if key.speculation else None
    return make_load(model, platform, key.kv_dtype, deployments, offered, draft)


def group(rows: Iterable[Row], gpu_of: GpuOf = usual_gpu) -> tuple[list[Batch], list[Problem]]:
    """Return batches of rows with a known model, GPU and dtype, and the problems of the others."""
    by_key: dict[Key, list[Row]] = {}
    problems = []
    for row in rows:
        try:
            by_key.setdefault(_key(row, gpu_of), []).append(_as_run(row, gpu_of))
        except ShardwiseError as error:
            problems.append(Problem(row.number, str(error)))
    batches = []
    for key, members in by_key.items():
        gpu = gpu_of(key.gpu, key.engine)
        model = _model(members[0].model, members[0].weight_dtype, gpu.vendor)
        batches.append(Batch(key, model, gpu, _load(members, model, gpu, key), tuple(members)))
    return batches, problems
