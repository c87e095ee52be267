"""Sharding of weights by vLLM's TP, by dtype, kernel and version.

Source: releases 0.7.3, 0.8.5, 0.9.2, 0.11.0, 0.15.1, 0.24.0 and 0.32.0,
vllm/model_executor/layers/quantization/ and, for padding of experts, mxfp4.py there or
layers/fused_moe/oracle/mxfp4.py.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from shardwise.engines.device import Device
from shardwise.engines.marlin import marlin
from shardwise.engines.rules import (
    UNQUANTIZED,
    Shard,
    Weight,
    even,
    halved_group,
    padded,
    whole_blocks,
)
from shardwise.engines.versions import Version, since

#: First version in which Marlin pads odd tiles (marlin_padded_nk; not in 0.21.0, in 0.24.0).
_MARLIN_PADS: Final = (("0", False), ("0.24", True))
#: AllSpark runs per-channel int8 on Ampere and Ada with sizes that are multiples of 16.
_ALLSPARK: Final = (("0", False), ("0.8", True))
_ALLSPARK_MULTIPLE: Final = 16
#: cuBLASLt and CUTLASS require sizes of 8-bit operands to be multiples of 16 (torch._scaled_mm).
_SCALED_MM_MULTIPLE: Final = 16
#: moe_wna16 halves groups of int4 experts down to this size (assert group_size >= 32).
_LEAST_GROUP: Final = 32
_HALVED: Final = (
    "vLLM halves the int4 group for experts since 0.7 (moe_wna16); some versions start and then "
    "fail on the first request (github.com/vllm-project/vllm/issues/17604: 0.9.1)"
)


def cut(weight: Weight, tp_size: int, device: Device, version: Version | None) -> Shard:
    """Return one rank's shard of `weight`."""
    if weight.dtype == "mxfp4" and weight.experts:
        return _mxfp4_experts(weight, tp_size, device, version)
    if weight.dtype in UNQUANTIZED:
        return replace(weight.sharded(tp_size), refused=even(weight, tp_size))
    if weight.dtype == "int4" or (weight.dtype == "int8" and weight.weight_only):
        return _weight_only(weight, tp_size, device, version)
    return _eight_bits_or_blocks(weight, tp_size, device, version)


def _eight_bits_or_blocks(
    weight: Weight, tp_size: int, device: Device, version: Version | None
) -> Shard:
    shard = whole_blocks(weight, tp_size)
    if shard.refused or min(weight.block) > 1 or weight.dtype not in ("fp8", "int8"):
        return shard
    if weight.dtype == "fp8" and not weight.experts and _lacks_fp8(device):
        return marlin(weight, tp_size, _pads(version))
    return _scaled_mm(weight, tp_size, shard)


def _pads(version: Version | None) -> bool:
    """Return whether Marlin pads; without a version, the stricter rule applies."""
    return version is not None and since(version, _MARLIN_PADS)


def _lacks_fp8(device: Device) -> bool:
    return device.vendor == "nvidia" and not device.multiplies_fp8


def _weight_only(weight: Weight, tp_size: int, device: Device, version: Version | None) -> Shard:
    """Shard int4, or int8 with 16-bit activations: for AllSpark if it applies, else Marlin."""
    if weight.experts and weight.block[1]:
        return _grouped_experts(weight, tp_size)
    if device.vendor != "nvidia":
        return whole_blocks(weight, tp_size)
    ampere = device.capability is not None and (8, 0) <= device.capability < (9, 0)
    per_channel = weight.dtype == "int8" and weight.block[1] == 0
    if version is not None and since(version, _ALLSPARK) and ampere and per_channel:
        shard = weight.sharded(tp_size)
        odd = shard.outputs % _ALLSPARK_MULTIPLE or shard.inputs % _ALLSPARK_MULTIPLE
        if not odd and not even(weight, tp_size):
            return shard
    return marlin(weight, tp_size, _pads(version))


def _scaled_mm(weight: Weight, tp_size: int, shard: Shard) -> Shard:
    """Check weights with one scale per tensor or channel: sizes must be multiples of 16."""
    size = shard.outputs if weight.cut == "outputs" else shard.inputs
    if tp_size > 1 and weight.cut != "none" and size % _SCALED_MM_MULTIPLE:
        return replace(
            shard,
            refused=(
                f"TP={tp_size} cuts {weight.name} into {size}, which is not a multiple of "
                f"{_SCALED_MM_MULTIPLE}"
            ),
        )
    return shard


def _grouped_experts(weight: Weight, tp_size: int) -> Shard:
    """Shard fused experts: for the fused Marlin kernel if groups stay whole, else halve groups.

    Gate and up are sharded along outputs, but have the same group size as the down projection,
    which is sharded along inputs.
    """
    inner = weight if weight.cut != "outputs" else _turned(weight)
    found = halved_group(inner, tp_size, _LEAST_GROUP)
    shard = weight.sharded(tp_size)
    block = (weight.block[0], found.block[1])
    remark = _HALVED if block != weight.block and not found.refused else ""
    return replace(shard, block=block, refused=found.refused, remark=remark)


def _turned(weight: Weight) -> Weight:
    return replace(weight, cut="inputs", inputs=weight.outputs, outputs=weight.inputs)


def _mxfp4_experts(weight: Weight, tp_size: int, device: Device, version: Version | None) -> Shard:
    """Pad fused MXFP4 experts as the backend's kernel requires.

    gpt-oss-120b loads 65.97 GiB with Marlin (github.com/vllm-project/vllm/issues/23278) and 64.38
    with Triton on H100 (issues/33155, 0.14.1), where the checkpoint has 60.8.
    """
    intermediate, hidden = _mxfp4_multiples(device, version)
    shard = weight.sharded(tp_size)
    if weight.down:
        return padded(shard, hidden, intermediate)
    return padded(shard, intermediate, hidden)


def _mxfp4_multiples(device: Device, version: Version | None) -> tuple[int, int]:
    """Return the multiples that the intermediate and the hidden size are padded to."""
    if device.vendor == "cpu":
        return 32, 32
    if device.vendor == "amd":
        # 0.32 pads to 128 for some kernels; 256 is right for all earlier versions
        return 256, 256
    if device.is_sm100:
        # FlashInfer's TensorRT-LLM kernels: 256 until 0.15.1, 128 in 0.32.0
        return since(version, (("0", 256), ("0.16", 128))) if version else 256, 256
    return 128, 256  # Marlin, also on RTX Blackwell; Triton's layout on Hopper takes 2 % less
