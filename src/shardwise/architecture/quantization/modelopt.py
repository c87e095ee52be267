"""NVIDIA ModelOpt: one algorithm for all layers, or one per layer (MIXED_PRECISION).

Field names: hf_quant_config.json as exported by ModelOpt. The quantization_config of newer
checkpoints has the same fields, some with compressed-tensors groups.
"""

from __future__ import annotations

from typing import Final

from shardwise.architecture.fields import Fields
from shardwise.architecture.formats import FORMATS, Format
from shardwise.architecture.quantization import compressed_tensors
from shardwise.architecture.quantization.kv import kv_dtype
from shardwise.architecture.quantization.names import Names, everything
from shardwise.architecture.quantization.rules import Rule, Rules

#: quant_algo -> format. A group size in the file replaces the last block size.
_ALGORITHMS: Final = {
    "FP8": Format("fp8", 8, (0, 0), 4.0, "fp8"),
    "FP8_PER_CHANNEL_PER_TOKEN": FORMATS["fp8"],
    "FP8_PB_WO": Format("fp8", 8, (128, 128), 4.0, "fp8"),
    "FP8_PB_REAL": Format("fp8", 8, (128, 128), 4.0, "fp8"),
    "FP8_BLOCK_SCALES": Format("fp8", 8, (128, 128), 4.0, "fp8"),
    "NVFP4": FORMATS["nvfp4"],
    "NVFP4_AWQ": FORMATS["nvfp4"],
    "NVFP4_SVDQUANT": FORMATS["nvfp4"],
    "W4A16_NVFP4": Format("nvfp4", 4, (1, 16), 1.0, "bf16"),
    "W4A8_NVFP4_FP8": Format("nvfp4", 4, (1, 16), 1.0, "fp8"),
    "MXFP8": FORMATS["mxfp8"],
    "MXFP4": FORMATS["mxfp4"],
    "W4A8_MXFP4_FP8": Format("mxfp4", 4, (1, 32), 1.0, "fp8"),
    "W4A16_MXFP4": Format("mxfp4", 4, (1, 32), 1.0, "bf16"),
    "W4A16": FORMATS["int4"],
    "W4A16_AWQ": FORMATS["int4"],
    "W4A8_AWQ": Format("int4", 4, (1, 128), 2.0, "fp8"),
    "W8A16": Format("int8", 8, (1, 0), 2.0, "bf16"),
    "W8A8_SQ_PER_CHANNEL": FORMATS["int8"],
    "INT8": FORMATS["int8"],
}


def rules(quant: Fields) -> Rules:
    """Rules of a ModelOpt config, whose exclude list keeps modules unquantized."""
    if quant.has("quantization"):  # a complete hf_quant_config.json
        quant = quant.object("quantization")
    names = [n for field in ("exclude_modules", "ignore") for n in quant.items(field, str)]
    kept = Names(names, quant.where)
    weights = ("quant_algo", "config_groups", "quantized_layers")
    if not any(quant.has(name) for name in weights) and quant.has("kv_cache_quant_algo"):
        return Rules(kv_dtype=kv_dtype(quant))  # only the cache is quantized
    # exports of 2024 have their fields under one name per group
    algorithm = quant.text("quant_algo", "" if quant.has("config_groups") else None)
    if algorithm == "MIXED_PRECISION":
        return Rules(rules=_layers(quant), excluded=kept, kv_dtype=kv_dtype(quant))
    if algorithm:
        rule = Rule(everything(), _format(quant, algorithm))
        return Rules(rules=(rule,), excluded=kept, kv_dtype=kv_dtype(quant))
    return compressed_tensors.rules(quant)


def _layers(quant: Fields) -> tuple[Rule, ...]:
    """A rule for each format among quantized_layers."""
    layers = quant.object("quantized_layers")
    if not layers.values:
        if quant.has("config_groups"):
            return compressed_tensors.rules(quant).rules
        raise quant.bad("quantized_layers", "an object: layer name -> quant_algo")
    named: dict[Format, list[str]] = {}
    for name in layers.values:
        layer = layers.object(name)
        form = _format(layer, layer.text("quant_algo"))
        named.setdefault(form, []).append(name)
    return tuple(
        Rule(Names(names, layers.where), form, everywhere=True) for form, names in named.items()
    )


def _format(fields: Fields, algorithm: str) -> Format:
    form = _ALGORITHMS.get(algorithm.upper())
    if form is None:
        raise fields.bad("quant_algo", f"MIXED_PRECISION or one of {', '.join(_ALGORITHMS)}")
    group = fields.size("group_size", default=0, lo=-1, hi=65536)
    if group > 0 and form.block[1] not in (0, group) and form.block[0] == 1:
        form = Format(form.dtype, form.bits, (1, group), form.scale_bytes, form.activations)
    return form
