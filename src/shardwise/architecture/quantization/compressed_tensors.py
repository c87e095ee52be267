"""compressed-tensors (llm-compressor): groups of targets, each with its scheme, and ignore.

Field names: the compressed-tensors library's QuantizationConfig, QuantizationScheme and
QuantizationArgs.
"""

from __future__ import annotations

from typing import Final

from shardwise.architecture.fields import Fields
from shardwise.architecture.formats import Format
from shardwise.architecture.quantization.kv import kv_dtype
from shardwise.architecture.quantization.names import Names, everything
from shardwise.architecture.quantization.rules import Rule, Rules
from shardwise.errors import InputError

_MAX_GROUP: Final = 65536
#: Targets that are a class of modules: every linear layer.
_CLASSES: Final = frozenset({"Linear", "LinearBase", "FusedMoE", "FusedMoEMethod", "MoE"})


def rules(quant: Fields) -> Rules:
    """Rules of a compressed-tensors config, one for each of its groups."""
    _refuse_sparse(quant)
    groups = quant.object("config_groups")
    if not groups.values and quant.has("config_groups") and quant.has("kv_cache_scheme"):
        return Rules(kv_dtype=kv_dtype(quant))  # only the cache is quantized
    if not groups.values:
        raise quant.bad("config_groups", "an object with at least one group")
    read = []
    for name in groups.values:
        group = groups.object(name)
        if group.has("weights"):
            read.append(_rule(group))
    ignored = Names(quant.items("ignore", str), quant.where)
    # rules for named modules come before rules for a class
    read.sort(key=lambda rule: rule.names.everything)
    return Rules(rules=tuple(read), excluded=ignored, kv_dtype=kv_dtype(quant))


def _refuse_sparse(quant: Fields) -> None:
    """Refuse 2:4 sparsity, which stores half of the weights and their positions."""
    sparsity = quant.object("sparsity_config")
    if sparsity.text("format", "dense") != "dense":
        raise sparsity.bad("format", "dense: sparse weights are not supported")
    if quant.text("format", "") == "marlin-24":
        raise quant.bad("format", "no sparse one: sparse weights are not supported")


def _rule(group: Fields) -> Rule:
    targets = group.items("targets", str) or ["Linear"]
    form = scheme(group.object("weights"), group.object("input_activations"))
    if _CLASSES & set(targets):
        return Rule(everything(), form)
    return Rule(Names(targets, group.where), form, everywhere=True)


def scheme(weights: Fields, inputs: Fields) -> Format:
    """Format of weights described by QuantizationArgs."""
    bits, kind = weights.size("num_bits", hi=16), weights.text("type", "int")
    group = weights.size("group_size", default=0, lo=-1, hi=_MAX_GROUP)
    activations = _activations(inputs)
    if (bits, kind) == (4, "float"):
        if group == 32:
            return Format("mxfp4", 4, (1, 32), 1.0, activations)
        return Format("nvfp4", 4, (1, group if group > 0 else 16), 1.0, activations)
    if (bits, kind) == (8, "float"):
        if group == 32:
            return Format("mxfp8", 8, (1, 32), 1.0, activations)
        return Format("fp8", 8, _block(weights, group), 4.0, activations)
    if kind == "int" and bits in (4, 8):
        zero_point = 0.0 if weights.flag("symmetric", True) else bits / 8
        scale = 2.0 + zero_point
        return Format(f"int{bits}", bits, _block(weights, group), scale, activations)
    raise weights.bad("num_bits", "8 or 4, type float or int")


def _block(weights: Fields, group: int) -> tuple[int, int]:
    """(rows, cols) of a scale, by strategy: block, group, channel or tensor."""
    shape = weights.get("block_structure")
    if shape is not None:
        if isinstance(shape, str):  # some tools write "128x128"
            shape = [int(n) for n in shape.lower().split("x") if n.isdecimal()]
        if (
            not isinstance(shape, list)
            or len(shape) != 2
            or any(not isinstance(n, int) or not 0 < n <= _MAX_GROUP for n in shape)
        ):
            raise InputError(
                f"{weights.where}: block_structure is {str(shape)[:60]!r}",
                f"allowed: two whole numbers from 1 to {_MAX_GROUP}",
            )
        return (shape[0], shape[1])
    if group > 0:
        return (1, group)
    return (0, 0) if weights.text("strategy", "channel") == "tensor" else (1, 0)


def _activations(inputs: Fields) -> str:
    if not inputs.has("num_bits"):
        return "bf16"
    bits, kind = inputs.size("num_bits", hi=16), inputs.text("type", "int")
    names = {(8, "float"): "fp8", (8, "int"): "int8", (4, "float"): "fp4", (4, "int"): "int4"}
    return names.get((bits, kind), "bf16")
