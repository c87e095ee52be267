"""Loading of a model's tensors by an engine: shard sizes after padding, and refused layouts."""

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
    """The weight-loading rules of an engine on a device; `version` may be None."""

    engine: str
    device: Device
    version: str = ""

    def __call__(self, tensor: Tensor, ranks: int) -> str:
        """Return why the engine refuses `tensor` sharded over `ranks`; "" if it accepts it."""
        return self._cut(tensor, ranks).refused

    def bytes_of(self, shard: Shard, ranks: int) -> float:
        """Return the bytes of one rank's shard of a tensor as loaded, padding included."""
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
            ranks = tensor.units  # the other ranks hold copies
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
    """Return the memory fraction that an engine is started with if the user gives none.

    For vLLM it is 0.9, as in its recipes for all versions; every command states it. SGLang's
    fraction covers weights and cache only, so its own default for the GPU is used: 0.9 would leave
    no memory for activations.
    """
    if engine == "sglang":
        return round(get(engine).defaults(device_of(gpu), version).memory_fraction, 3)
    return GPU_MEMORY_UTILIZATION


def require_able(deployment: Deployment, gpu: Gpu, model: Model) -> None:
    """Raise InputError if the engine does not support the GPU or the dtypes.

    The layout checked is that of one GPU. `refusals` checks other layouts.
    """
    alone = replace(deployment, layout=Layout())
    get(deployment.engine).require(alone, device_of(gpu), model)


def require_prefix_caching(engine: str, gpu: Gpu, version: str = "") -> None:
    """Raise InputError if the engine does not cache prefixes by default."""
    if not get(engine).scheduling(device_of(gpu), version).prefix_caching:
        raise InputError(
            f"cached tokens with {get(engine).title}{f' {version}' if version else ''}",
            "allowed: 0, because it does not cache prefixes by default",
        )


def refusals(loader: Loader, model: Model, layout: Layout) -> list[Violation]:
    """Return the reasons why an engine refuses `model` in `layout`; empty if it accepts it."""
    return violations(model, layout, loader)


@lru_cache(maxsize=4096)
def loaded_stage_bytes(loader: Loader, model: Model, layout: Layout) -> tuple[float, ...]:
    """Return the bytes of weights per rank of each pipeline stage, as the engine loads them."""
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
