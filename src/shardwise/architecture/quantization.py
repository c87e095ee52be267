"""Which dtype a checkpoint's weights have, from config.json."""

from __future__ import annotations

from shardwise.architecture.fields import Fields
from shardwise.errors import InputError

_PLAIN = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_MODELOPT = {"FP8": ("fp8", 0), "NVFP4": ("nvfp4", 16), "W4A16_AWQ": ("int4", 128)}
_QUARK = {"fp8_e4m3": ("fp8", 0), "int8": ("int8", 0), "int4": ("int4", 128), "fp4": ("mxfp4", 32)}


def checkpoint_dtype(config: Fields) -> tuple[str, int]:
    """(dtype, weights per scale along a dimension or 0) of the published checkpoint.

    Raises InputError for a quantization method that is not known.
    """
    if not config.has("quantization_config"):
        name = config.text("torch_dtype", config.text("dtype", "bfloat16"))
        if name not in _PLAIN:
            raise InputError(
                f"{config.where}: torch_dtype is {name[:60]!r}", f"allowed: {', '.join(_PLAIN)}"
            )
        return _PLAIN[name], 0
    quant = config.object("quantization_config")
    methods = {
        "fp8": _fp8,
        "fbgemm_fp8": lambda _: ("fp8", 0),
        "mxfp4": lambda _: ("mxfp4", 32),
        "awq": _group_int,
        "gptq": _group_int,
        "compressed-tensors": _compressed_tensors,
        "modelopt": _modelopt,
        "modelopt_fp4": lambda _: ("nvfp4", 16),
        "quark": _quark,
    }
    method = quant.text("quant_method")
    if method not in methods:
        raise quant.bad("quant_method", f"one of {', '.join(methods)}")
    return methods[method](quant)


def _fp8(quant: Fields) -> tuple[str, int]:
    blocks = quant.items("weight_block_size", int)
    if any(not 0 < block <= 65536 for block in blocks):
        raise quant.bad("weight_block_size", "whole numbers from 1 to 65536")
    return "fp8", max(blocks, default=0)


def _group_int(quant: Fields) -> tuple[str, int]:
    """AWQ and GPTQ; a group_size of -1 is one scale a channel."""
    bits = quant.size("bits", default=4)
    if bits not in (4, 8):
        raise quant.bad("bits", "4 or 8")
    group = quant.size("group_size", default=128, lo=-1, hi=65536)
    return f"int{bits}", max(group, 0)


def _compressed_tensors(quant: Fields) -> tuple[str, int]:
    groups = quant.object("config_groups")
    if not groups.values:
        raise quant.bad("config_groups", "an object with at least one group")
    first = next(iter(groups.values))
    weights = groups.object(first).object("weights")
    bits, kind = weights.size("num_bits"), weights.text("type", "int")
    group = weights.size("group_size", default=0, lo=-1, hi=65536)
    if weights.has("block_structure"):
        group = max(weights.items("block_structure", int), default=0)
    if group < 0 or group > 65536:
        group = 0
    if (bits, kind) == (4, "float"):
        return ("mxfp4", 32) if group == 32 else ("nvfp4", 16)
    name = {(8, "float"): "fp8", (8, "int"): "int8", (4, "int"): "int4"}.get((bits, kind))
    if name is None:
        raise weights.bad("num_bits", "8 (float or int) or 4 (float or int)")
    return name, group


def _modelopt(quant: Fields) -> tuple[str, int]:
    algorithm = quant.text("quant_algo")
    if algorithm not in _MODELOPT:
        raise quant.bad("quant_algo", f"one of {', '.join(_MODELOPT)}")
    return _MODELOPT[algorithm]


def _quark(quant: Fields) -> tuple[str, int]:
    weight = quant.object("global_quant_config").object("weight")
    name = weight.text("dtype")
    if name not in _QUARK:
        raise weight.bad("dtype", f"one of {', '.join(_QUARK)}")
    return _QUARK[name]
