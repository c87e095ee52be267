"""Marlin, the weight-only GEMM of vLLM and SGLang for weight dtypes that a GPU cannot multiply."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from shardwise.engines.rules import Shard, Weight, even, padded

#: vllm/model_executor/layers/quantization/utils/marlin_utils.py: GPTQ_MARLIN_MIN_THREAD_N and _K
MIN_THREAD_N: Final = 64
MIN_THREAD_K: Final = 128


def marlin(weight: Weight, tp_size: int, pads: bool) -> Shard:
    """Return one rank's shard for Marlin.

    Args:
        weight: A linear layer of a dense model or of attention.
        tp_size: Number of ranks it is sharded over.
        pads: Whether sizes that are no multiple of a tile are padded with zeros (vLLM from 0.24 on)
            or refused.
    """
    shard = weight.sharded(tp_size)
    if reason := even(weight, tp_size):
        return replace(shard, refused=reason)
    group = weight.block[1]
    if 0 < group < weight.inputs and shard.inputs % group:
        return replace(
            shard,
            refused=(
                f"TP={tp_size} cuts {weight.name} {weight.inputs} into {shard.inputs}, which "
                f"groups of {group} do not divide"
            ),
        )
    if pads:
        return _padded(shard)
    if shard.outputs % MIN_THREAD_N:
        return _refused(shard, weight, shard.outputs, "min_thread_n", MIN_THREAD_N)
    if shard.inputs % MIN_THREAD_K:
        return _refused(shard, weight, shard.inputs, "min_thread_k", MIN_THREAD_K)
    return shard


def _padded(shard: Shard) -> Shard:
    """Return the smaller of Marlin's two tiles: 64 x 128 or 128 x 64."""
    tiles = [
        padded(shard, MIN_THREAD_N, MIN_THREAD_K),
        padded(shard, MIN_THREAD_K, MIN_THREAD_N),
    ]
    return min(tiles, key=lambda tile: tile.outputs * tile.inputs)


def _refused(shard: Shard, weight: Weight, size: int, name: str, least: int) -> Shard:
    return replace(
        shard,
        refused=f"{weight.name} has {size} per rank, not a multiple of Marlin's {name} {least}",
    )
