"""How an engine's TP cuts a weight: what it pads, which groups it halves, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from shardwise.engines.device import Device
from shardwise.engines.versions import Version

UNQUANTIZED: Final = frozenset({"bf16", "fp16", "fp32"})


class Weight(msgspec.Struct, frozen=True):
    """One weight as an engine's loader sees it: `outputs` x `inputs`, cut along one of them.

    Attributes:
        name: For messages.
        outputs: Of one of the matrices merged in it: gate or up, not both; q, k or v.
        inputs: Summed over in the product.
        cut: "outputs" (column parallel), "inputs" (row parallel) or "none".
        dtype: As in the checkpoint: "fp8", "int4", "mxfp4", …
        block: Outputs and inputs that share a scale; 0 is the whole dimension.
        weight_only: Activations stay in 16 bits.
        experts: Part of a fused mixture-of-experts kernel.
        down: Of experts, the projection back to the hidden size.
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
        """The rank's part by plain division, rounded up."""
        outputs = -(-self.outputs // tp_size) if self.cut == "outputs" else self.outputs
        inputs = -(-self.inputs // tp_size) if self.cut == "inputs" else self.inputs
        return Shard(outputs, inputs, self.block)


class Shard(msgspec.Struct, frozen=True):
    """What one rank holds of a weight.

    Attributes:
        outputs: With padding.
        inputs: With padding.
        block: Of scales, after any halving.
        refused: Why the engine does not start with it, or "".
        remark: What depends on a version or kernel, or "".
    """

    outputs: int
    inputs: int
    block: tuple[int, int] = (0, 0)
    refused: str = ""
    remark: str = ""


#: (weight, tp_size, device, version or None) -> what a rank holds
CutRule = Callable[[Weight, int, Device, Version | None], Shard]


class Heads(msgspec.Struct, frozen=True):
    """Attention heads of one rank, or why there are none."""

    query: int
    key_value: int
    replicated: int = 1  #: ranks that hold the same KV heads
    refused: str = ""


def cut_heads(num_heads: int, num_kv_heads: int, tp_size: int) -> Heads:
    """Heads of a rank: query heads must divide; KV heads divide, or are replicated by a multiple.

    Source: vllm/model_executor/models/llama.py (LlamaAttention), sglang/srt/models/llama.py,
    tensorrt_llm/_torch/modules/attention.py: the same assertions in all.
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
    """Why `tp_size` does not cut `weight` into equal parts, or ""."""
    size = weight.outputs if weight.cut == "outputs" else weight.inputs
    if weight.cut == "none" or size % tp_size == 0:
        return ""
    return f"TP={tp_size} does not divide {weight.name} {size}"


def whole_blocks(weight: Weight, tp_size: int) -> Shard:
    """The rank's part where scale blocks must stay whole; refused where TP cuts one."""
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
    """`size` rounded up to a multiple of `multiple`."""
    return -(-size // multiple) * multiple


def padded(shard: Shard, outputs_to: int, inputs_to: int) -> Shard:
    """`shard` with both sizes rounded up."""
    return replace(
        shard,
        outputs=round_up(shard.outputs, outputs_to),
        inputs=round_up(shard.inputs, inputs_to),
    )


def halved_group(weight: Weight, tp_size: int, least: int) -> Shard:
    """The rank's part where a group of inputs that TP cuts is halved until it divides.

    Refused where not even groups of `least` do.
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
