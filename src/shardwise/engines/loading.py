"""How an engine loads a model's tensors: what a rank holds after padding, and what is refused."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.architecture.model import Model
from shardwise.architecture.tensor import Tensor
from shardwise.engines.device import Device, device_of
from shardwise.engines.registry import get
from shardwise.engines.rules import Shard as Cut
from shardwise.engines.rules import Weight
from shardwise.errors import InputError
from shardwise.hardware.gpu import Gpu
from shardwise.layout.deployment import GPU_MEMORY_UTILIZATION, Deployment, Layout
from shardwise.layout.rules import Violation, violations
from shardwise.layout.shards import Shard, expert_ranks, rank_shards

_CUTS: Final = {"rows": "outputs", "cols": "inputs", "replicated": "none"}
_NAMES: Final = {
    "attention": "attention width",
    "mlp": "intermediate_size",
    "experts": "expert intermediate_size",
    "shared_experts": "shared expert size",
}


class Loader(msgspec.Struct, frozen=True):
    """An engine, of a version or none, on a device: the rules that its weight loader follows."""

    engine: str
    device: Device
    version: str = ""

    def __call__(self, tensor: Tensor, ranks: int) -> str:
        """Why the engine does not start with `tensor` cut over `ranks`, or "" (a `Refusal`)."""
        return self._cut(tensor, ranks).refused

    def bytes_of(self, shard: Shard, ranks: int) -> float:
        """Bytes of a rank's part of a tensor as loaded, padding included."""
        tensor = shard.tensor
        if not tensor.gemm or not tensor.format.is_quantized:
            return shard.bytes
        cut = self._cut(tensor, ranks)
        if cut.refused or (cut.outputs <= shard.rows and cut.inputs <= shard.cols):
            return shard.bytes
        stored = replace(tensor.format, block=cut.block)
        return shard.copies * stored.size(cut.outputs, cut.inputs)

    def _cut(self, tensor: Tensor, ranks: int) -> Cut:
        if tensor.units and ranks > tensor.units and ranks % tensor.units == 0:
            ranks = tensor.units  # further ranks hold copies
        return _cut_of(self, _weight(tensor), ranks)


@lru_cache(maxsize=8192)
def _cut_of(loader: Loader, weight: Weight, ranks: int) -> Cut:
    return get(loader.engine).cut(weight, ranks, loader.device, loader.version)


@lru_cache(maxsize=8192)
def _weight(tensor: Tensor) -> Weight:
    fmt = tensor.format
    return Weight(
        name=_NAMES.get(tensor.part, tensor.name),
        outputs=tensor.rows,
        inputs=tensor.cols,
        cut=_CUTS[tensor.cut],  # type: ignore[arg-type]
        dtype=fmt.dtype,
        block=fmt.block,
        weight_only=fmt.is_quantized and fmt.activations in ("bf16", "fp16"),
        experts=tensor.part == "experts",
        down=tensor.part == "experts" and tensor.cut == "cols",
    )


def usual_share(engine: str, gpu: Gpu, version: str = "") -> float:
    """Memory fraction that an engine is started with where nobody fixes one.

    vLLM's is 0.9 in all versions' recipes, and written out in every command. SGLang's is of weights
    and cache alone, so its own default for the GPU is taken: 0.9 would leave nothing to compute in.
    """
    if engine == "sglang":
        return round(get(engine).defaults(device_of(gpu), version).memory_fraction, 3)
    return GPU_MEMORY_UTILIZATION


def require_able(deployment: Deployment, gpu: Gpu, model: Model) -> None:
    """Raises InputError where the engine does not run on the GPU, or not with the dtypes.

    The layout is that of one GPU: which layouts are possible is for `refusals` to say.
    """
    alone = replace(deployment, layout=Layout())
    get(deployment.engine).require(alone, device_of(gpu), model)


def require_prefix_caching(engine: str, gpu: Gpu, version: str = "") -> None:
    """Raise InputError where the engine keeps no beginnings of prompts."""
    if not get(engine).scheduling(device_of(gpu), version).prefix_caching:
        raise InputError(
            f"cached tokens with {get(engine).title}{f' {version}' if version else ''}",
            "allowed: 0, it caches no prefixes unless told to",
        )


def refusals(loader: Loader, model: Model, layout: Layout) -> list[Violation]:
    """What keeps an engine from starting `model` in `layout`; empty if nothing does."""
    return violations(model, layout, loader)


@lru_cache(maxsize=4096)
def loaded_stage_bytes(loader: Loader, model: Model, layout: Layout) -> tuple[float, ...]:
    """Bytes of weights on one rank of each pipeline stage, as the engine loads them."""
    rank = rank_shards(model, layout)
    padding = [
        sum(
            loader.bytes_of(s, _ranks(s.tensor, layout)) - s.bytes
            for s in layer.shards
            if s.tensor.gemm and not s.tensor.reused
        )
        for layer in rank.layers
    ]
    return tuple(
        held + sum(n * extra for n, extra in zip(counts, padding, strict=True))
        for held, counts in zip(rank.stage_bytes, rank.stages, strict=True)
    )


def _ranks(tensor: Tensor, layout: Layout) -> int:
    return expert_ranks(layout) if tensor.part == "experts" else layout.tp_size
