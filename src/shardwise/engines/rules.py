"""Sharding of a weight by an engine's TP: padding, halved groups and refused sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from shardwise.engines.device import Device
from shardwise.engines.versions import Version

UNQUANTIZED: Final = frozenset({"bf16", "fp16", "fp32"})


class Weight(msgspec.Struct, frozen=True):
    """One weight as an engine loads it: `outputs` x `inputs`, sharded along one of them.

    Attributes:
        name: For messages.
        outputs: Of one of the merged matrices: gate or up, not both; q, k or v.
        inputs: The dimension that the product sums over.
        cut: "outputs" (column parallel), "inputs" (row parallel) or "none".
        dtype: As in the checkpoint: "fp8", "int4", "mxfp4", …
        block: Outputs and inputs that share a scale; 0 means the whole dimension.
        weight_only: Whether activations stay in 16 bits.
        experts: Whether it is part of a fused mixture-of-experts kernel.
        down: Whether it is the experts' projection back to the hidden size.
    """

    name: str
    outputs: int
    inputs: int
    cut: Literal["outputs", "inputs", "none"]
    dtype: str
    block: tuple[int, int] = (0, 0)
    weight_only: bool = False
    experts: bool = False
    down: bool = False

    def sharded(self, tp_size: int) -> Shard:
        """Return one rank's shard by division, rounded up."""
        outputs = -(-self.outputs // tp_size) if self.cut == "outputs" else self.outputs
        inputs = -(-self.inputs // tp_size) if self.cut == "inputs" else self.inputs
        return Shard(outputs, inputs, self.block)


class Shard(msgspec.Struct, frozen=True):
    """One rank's shard of a weight.

    Attributes:
        outputs: With padding.
        inputs: With padding.
        block: Scale block after any halving of groups.
        refused: Why the engine refuses it, or "".
        remark: A dependence on a version or kernel, or "".
    """

    outputs: int
    inputs: int
    block: tuple[int, int] = (0, 0)
    refused: str = ""
    remark: str = ""


#: (weight, tp_size, device, version or None) -> one rank's shard
CutRule = Callable[[Weight, int, Device, Version | None], Shard]


class Heads(msgspec.Struct, frozen=True):
    """Attention heads of one rank; `refused` is the reason if TP cannot shard them."""

    query: int
    key_value: int
    replicated: int = 1  #: number of ranks that hold the same KV heads
    refused: str = ""


def cut_heads(num_heads: int, num_kv_heads: int, tp_size: int) -> Heads:
    """Return the heads of one rank.

    TP must divide the query heads, and divide the KV heads or be a multiple of them. In the latter
    case they are replicated.

    Source: the same assertions in vllm/model_executor/models/llama.py (LlamaAttention),
    sglang/srt/models/llama.py and tensorrt_llm/_torch/modules/attention.py.
    """
    if num_heads % tp_size:
        return Heads(0, 0, refused=f"TP={tp_size} does not divide the {num_heads} attention heads")
    if num_kv_heads % tp_size == 0:
        return Heads(num_heads // tp_size, num_kv_heads // tp_size)
    if tp_size % num_kv_heads == 0:
        return Heads(num_heads // tp_size, 1, tp_size // num_kv_heads)
    return Heads(
        0,
        0,
        refused=(
            f"TP={tp_size} neither divides the {num_kv_heads} KV heads nor is a multiple of them"
        ),
    )


def even(weight: Weight, tp_size: int) -> str:
    """Return why `tp_size` does not divide `weight` into equal parts; "" if it does."""
    size = weight.outputs if weight.cut == "outputs" else weight.inputs
    if weight.cut == "none" or size % tp_size == 0:
        return ""
    return f"TP={tp_size} does not divide {weight.name} {size}"


def whole_blocks(weight: Weight, tp_size: int) -> Shard:
    """Return one rank's shard if scale blocks must stay whole; refused if TP would cut one."""
    shard = weight.sharded(tp_size)
    if reason := even(weight, tp_size):
        return replace(shard, refused=reason)
    index = 0 if weight.cut == "outputs" else 1
    block, part = weight.block[index], shard.outputs if index == 0 else shard.inputs
    if weight.cut != "none" and tp_size > 1 and block and part % block:
        whole = weight.outputs if index == 0 else weight.inputs
        return replace(
            shard,
            refused=(
                f"TP={tp_size} cuts {weight.name} {whole} into {part}, which {weight.dtype} "
                f"scale blocks of {block} do not divide"
            ),
        )
    return shard


def round_up(size: int, multiple: int) -> int:
    """Return `size` rounded up to a multiple of `multiple`."""
    return -(-size // multiple) * multiple


def padded(shard: Shard, outputs_to: int, inputs_to: int) -> Shard:
    """Return `shard` with both sizes rounded up."""
    return replace(
        shard,
        outputs=round_up(shard.outputs, outputs_to),
        inputs=round_up(shard.inputs, inputs_to),
    )


def halved_group(weight: Weight, tp_size: int, least: int) -> Shard:
    """Return one rank's shard; the group size of the inputs is halved until it divides them.

    Refused if not even groups of `least` divide them.
    """
    shard = weight.sharded(tp_size)
    if reason := even(weight, tp_size):
        return replace(shard, refused=reason)
    group = weight.block[1]
    while group > least and shard.inputs % group:
        group //= 2
    if group and shard.inputs % group:
        return replace(
            shard,
            refused=(
                f"TP={tp_size} cuts {weight.name} into {shard.inputs}, which groups of "
                f"{least} do not divide"
            ),
        )
    return replace(shard, block=(weight.block[0], group))
