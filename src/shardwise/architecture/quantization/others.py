"""Other quantization methods: HQQ, EETQ, Quanto, BitNet, int8 by block and of experts, FP-Quant,
Four Over Six.

Field names: transformers/utils/quantization_config.py; vllm/model_executor/layers/quantization.
"""

from __future__ import annotations

from typing import Final

from shardwise.architecture.fields import Fields
from shardwise.architecture.formats import FORMATS, Format
from shardwise.architecture.quantization.names import Names, everything
from shardwise.architecture.quantization.rules import Rule, Rules
from shardwise.errors import InputError

#: One 16-bit scale per output.
_INT8_WEIGHTS: Final = Format("int8", 8, (1, 0), 2.0, "bf16")


def hqq(quant: Fields) -> Rules:
    """Half-quadratic quantization: a 16-bit scale and zero point per group.

    `quant_config` has one scheme for all modules, or one per module.
    """
    config = quant.object("quant_config")
    kept = quant.items("skip_modules", str)
    if config.has("weight_quant_params"):
        rules: tuple[Rule, ...] = (Rule(everything(), _hqq_format(config)),)
    else:
        named = [name for name in config.values if isinstance(config.values[name], dict)]
        if not named:
            raise quant.bad("quant_config", "an object with weight_quant_params, or one a module")
        rules = tuple(
            Rule(Names([name], quant.where), _hqq_format(config.object(name))) for name in named
        )
    return Rules(rules=rules, excluded=Names(kept, quant.where))


def _hqq_format(config: Fields) -> Format:
    weights = config.object("weight_quant_params") if config.has("weight_quant_params") else config
    bits = weights.size("nbits", default=4, hi=8)
    if bits not in (1, 2, 3, 4, 8):
        raise weights.bad("nbits", "1, 2, 3, 4 or 8")
    group = weights.size("group_size", default=64, hi=65536)
    # three bits are packed ten to a 32-bit word
    stored = 3.2 if bits == 3 else float(bits)
    return Format(f"int{8 if bits == 8 else 4}", stored, (1, group), 4.0, "bf16")


def eetq(quant: Fields) -> Rules:
    """8-bit weights with a scale per output."""
    if quant.text("weights", "int8") != "int8":
        raise quant.bad("weights", "int8")
    kept = Names(quant.items("modules_to_not_convert", str), quant.where)
    return Rules(rules=(Rule(everything(), _INT8_WEIGHTS),), excluded=kept)


#: Quanto's names of weights; groups of 128 below 8 bits.
_QUANTO: Final = {
    "int8": _INT8_WEIGHTS,
    "float8": Format("fp8", 8, (1, 0), 2.0, "bf16"),
    "int4": Format("int4", 4, (1, 128), 2.5, "bf16"),
    "int2": Format("int4", 2, (1, 128), 2.25, "bf16"),
}


def quanto(quant: Fields) -> Rules:
    """Quanto: `weights` names the dtype."""
    name = quant.text("weights", "int8")
    if name not in _QUANTO:
        raise quant.bad("weights", ", ".join(_QUANTO))
    kept = Names(quant.items("modules_to_not_convert", str), quant.where)
    return Rules(rules=(Rule(everything(), _QUANTO[name]),), excluded=kept)


def bitnet(quant: Fields) -> Rules:
    """BitNet b1.58: four ternary weights in a byte, 8-bit activations; 16 bits while training."""
    if quant.text("quantization_mode", "offline") == "online":
        return Rules()
    form = Format("int4", 2, (0, 0), 2.0, "int8")
    kept = Names(quant.items("modules_to_not_convert", str), quant.where)
    return Rules(rules=(Rule(everything(), form),), excluded=kept)


def experts_int8(quant: Fields) -> Rules:
    """Routed experts in 8 bits with a scale per output; other tensors are not quantized."""
    kept = Names(quant.items("modules_to_not_convert", str), quant.where)
    return Rules(rules=(Rule(Names(["experts"]), _INT8_WEIGHTS),), excluded=kept)


def whole_int8(quant: Fields) -> Rules:
    """8-bit weights by output and 8-bit activations by token (SGLang's w8a8_int8)."""
    kept = Names(quant.items("ignore", str), quant.where)
    return Rules(rules=(Rule(everything(), FORMATS["int8"]),), excluded=kept)


def fp_quant(quant: Fields) -> Rules:
    """FP-Quant: MXFP4 or NVFP4 for weights and activations."""
    name = quant.text("forward_dtype", "nvfp4")
    if name not in ("mxfp4", "nvfp4"):
        raise InputError(f"{quant.where}: forward_dtype is {name[:40]!r}", "allowed: mxfp4, nvfp4")
    kept = Names(quant.items("modules_to_not_convert", str), quant.where)
    return Rules(rules=(Rule(everything(), FORMATS[name]),), excluded=kept)


def blockwise_int8(quant: Fields) -> Rules:
    """8-bit weights and activations with a 32-bit scale per block (SGLang)."""
    blocks = quant.items("weight_block_size", int)
    if len(blocks) != 2 or any(not 0 < block <= 65536 for block in blocks):
        raise quant.bad("weight_block_size", "two whole numbers from 1 to 65536")
    form = Format("int8", 8, (blocks[0], blocks[1]), 4.0, "int8")
    names = ("ignored_layers", "modules_to_not_convert")
    kept = Names([entry for name in names for entry in quant.items(name, str)], quant.where)
    return Rules(rules=(Rule(everything(), form),), excluded=kept)


def nvfp4(quant: Fields) -> Rules:
    """transformers' NVFP4 for weights and activations."""
    kept = Names(quant.items("modules_to_not_convert", str), quant.where)
    return Rules(rules=(Rule(everything(), FORMATS["nvfp4"]),), excluded=kept)


def four_over_six(quant: Fields) -> Rules:
    """Four Over Six: NVFP4 or MXFP4 whose blocks have the largest value 4 or 6."""
    name = quant.text("weight_dtype", quant.text("dtype", "nvfp4"))
    if name not in ("mxfp4", "nvfp4") or quant.flag("keep_master_weights", False):
        raise quant.bad("weight_dtype", "mxfp4 or nvfp4, without keep_master_weights")
    if quant.object("module_config_overrides").values:
        raise quant.bad("module_config_overrides", "none: overrides by module are not supported")
    kept = Names(quant.items("modules_to_not_convert", str), quant.where)
    return Rules(rules=(Rule(everything(), FORMATS[name]),), excluded=kept)
