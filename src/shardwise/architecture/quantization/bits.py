"""Weight-only integers: AWQ, GPTQ, auto-round, bitsandbytes, torchao.

Field names: the quantization configs of transformers, and of GPTQModel and auto-round for rules
by layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from shardwise.architecture.fields import Fields
from shardwise.architecture.formats import FORMATS, Format
from shardwise.architecture.quantization.names import Names, everything
from shardwise.architecture.quantization.rules import Rule, Rules
from shardwise.errors import InputError

_MAX_GROUP: Final = 65536


def groups(quant: Fields) -> Rules:
    """AWQ, GPTQ, auto-round: integers with a scale per group; -1 is one scale per channel."""
    form = _integers(quant, quant)
    read: list[Rule] = []
    kept = quant.items("modules_to_not_convert", str)
    for name, changes in _by_layer(quant):
        if changes is None:
            kept.append(name)
        else:
            read.append(Rule(Names([name], quant.where), _integers(changes, quant)))
    read.append(Rule(_quantized(quant), form))
    if quant.get("lm_head") is True:
        read.append(Rule(Names(["lm_head"]), form, everywhere=True))
    return Rules(rules=tuple(read), excluded=Names(kept, quant.where))


def _quantized(quant: Fields) -> Names:
    """Return the names that are quantized: all, those of some modules of each block (GPTQ), or
    those of some blocks (auto-round)."""
    modules = [n for entry in quant.items("modules_in_block_to_quantize", list) for n in entry]
    if modules and all(isinstance(name, str) for name in modules):
        return Names(modules, quant.where)
    blocks = quant.get("block_name_to_quantize")
    named = blocks.split(",") if isinstance(blocks, str) else blocks
    if not isinstance(named, list):
        return everything()
    entries = [name.strip() for name in named if isinstance(name, str)]
    if entries and all(re.search(r"\.\d+$", name) for name in entries):
        return Names(entries, quant.where)
    return everything()  # "model.layers" is every block


def _integers(own: Fields, shared: Fields) -> Format:
    bits_in = own if own.has("bits") else shared
    name = bits_in.name_of("bits", "w_bit")
    bits = bits_in.size(name, default=4)
    if bits not in (2, 3, 4, 8):
        raise bits_in.bad(name, "2, 3, 4 or 8")
    data = own.text("data_type", shared.text("data_type", "int"))
    if data.startswith(("nv_fp", "nv_fp4")):
        return FORMATS["nvfp4"]
    if data.startswith("mx_fp"):
        return FORMATS["mxfp4" if bits == 4 else "mxfp8"]
    if data.startswith("fp") and bits == 8:
        return FORMATS["fp8"]
    group_in = own if own.has("group_size") else shared
    group = group_in.size(
        group_in.name_of("group_size", "q_group_size"), default=128, lo=-1, hi=_MAX_GROUP
    )
    symmetric = not shared.flag("zero_point", False) and shared.flag("sym", True)
    scale = 2.0 if symmetric else 2.0 + bits / 8
    return Format(f"int{8 if bits == 8 else 4}", bits, (1, max(group, 0)), scale, "bf16")


def _by_layer(quant: Fields) -> Iterator[tuple[str, Fields | None]]:
    """Yield layers with their own bits; None for layers that are not quantized."""
    for name in quant.object("dynamic").values:  # GPTQModel: "-:regex" excludes, "+:" changes
        if name.startswith("-:"):
            yield f"re:{_anywhere(name[2:])}", None
        else:
            changes = quant.object("dynamic").object(name)
            yield f"re:{_anywhere(name.removeprefix('+:'))}", changes
    extra = quant.object("extra_config")  # auto-round
    for name in extra.values:
        changes = extra.object(name)
        special = re.search(r"[\\^$|()\[\]+]|\.\*", name)
        entry = f"re:{_anywhere(name)}" if special else name
        yield entry, None if changes.size("bits", default=4, hi=32) >= 16 else changes


def _anywhere(pattern: str) -> str:
    return pattern if pattern.startswith(("^", ".*")) else f".*{pattern}"


def bitsandbytes(quant: Fields) -> Rules:
    """nf4 and fp4 in blocks of 64 with a 32-bit scale (8 bits if nested), int8 by rows."""
    four = quant.flag(quant.name_of("load_in_4bit", "_load_in_4bit"), False)
    eight = quant.flag(quant.name_of("load_in_8bit", "_load_in_8bit"), False)
    if four == eight:
        raise InputError(
            f"{quant.where}: load_in_4bit is {four} and load_in_8bit is {eight}",
            "allowed: one of them true",
        )
    if four:
        # if scales are quantized too, those of 256 blocks share one 32-bit scale
        nested = quant.flag("bnb_4bit_use_double_quant", False)
        form = Format("int4", 4, (1, 64), 1.0 + 4 / 256 if nested else 4.0, "bf16")
    else:
        form = Format("int8", 8, (1, 0), 4.0, "int8")
    kept = quant.items("llm_int8_skip_modules", str)
    return Rules(rules=(Rule(everything(), form),), excluded=Names(kept, quant.where))


#: torchao's config class or older short name, lower case without "config" -> format.
_TORCHAO: Final = {
    # a 16-bit scale and a 16-bit zero point per group
    "int4weightonly": Format("int4", 4, (1, 128), 4.0, "bf16"),
    "int8weightonly": Format("int8", 8, (1, 0), 2.0, "bf16"),
    "int8dynamicactivationint8weight": FORMATS["int8"],
    "int8dynamicactivationint4weight": Format("int4", 4, (1, 32), 2.0, "int8"),
    "int8dynamicactivationintxweight": Format("int4", 4, (1, 32), 2.0, "int8"),
    "float8weightonly": Format("fp8", 8, (0, 0), 4.0, "bf16"),
    "float8dynamicactivationfloat8weight": FORMATS["fp8"],
    "float8dynamicactivationint4weight": Format("int4", 4, (1, 128), 2.0, "fp8"),
    "float8staticactivationfloat8weight": Format("fp8", 8, (0, 0), 4.0, "fp8"),
    "mxdynamicactivationmxweight": FORMATS["mxfp8"],
    "nvfp4inference": FORMATS["nvfp4"],
    "nvfp4dynamicactivationnvfp4weight": FORMATS["nvfp4"],
}


def torchao(quant: Fields) -> Rules:
    """Rules of a torchao config: weight-only or dynamic int4, int8 and fp8."""
    kind = quant.get("quant_type")
    if isinstance(kind, dict) and isinstance(kind.get("default"), dict):
        kind = kind["default"]
    kept = quant.items("modules_to_not_convert", str)
    if isinstance(kind, dict) and kind.get("_type") in ("ModuleFqnToConfig", "FqnToConfig"):
        return _by_name(quant, kind, kept)
    form = _torchao_format(quant, kind)
    rules = [Rule(everything(), form)]
    if quant.flag("include_input_output_embeddings", False):
        rules.append(Rule(Names(["lm_head"]), form, everywhere=True))
    return Rules(rules=tuple(rules), excluded=Names(kept, quant.where))


def _by_name(quant: Fields, kind: dict[str, Any], kept: list[str]) -> Rules:
    data = Fields(kind, quant.where).object("_data")
    table = data.object(data.name_of("module_fqn_to_config", "fqn_to_config"))
    rules: list[Rule] = []
    for name, value in table.values.items():
        if value is None:
            kept.append(name)
        elif name != "_default":
            form = _torchao_format(quant, value)
            rules.append(Rule(Names([name], quant.where), form, everywhere=True))
    if table.values.get("_default") is not None:
        rules.append(Rule(everything(), _torchao_format(quant, table.values["_default"])))
    return Rules(rules=tuple(rules), excluded=Names(kept, quant.where))


def _torchao_format(quant: Fields, kind: object) -> Format:
    name, data = kind, quant.object("quant_type_kwargs")
    if isinstance(kind, dict):
        name, data = kind.get("_type"), Fields(kind, quant.where).object("_data")
    key = str(name).lower().replace("_", "").removesuffix("config")
    form = _TORCHAO.get(key)
    if form is None:
        raise InputError(
            f"{quant.where}: quant_type is {str(name)[:60]!r}", f"allowed: {', '.join(_TORCHAO)}"
        )
    group = data.size("group_size", default=0, lo=-1, hi=_MAX_GROUP)
    if group > 0 and form.dtype.startswith("int"):
        return Format(form.dtype, form.bits, (1, group), form.scale_bytes, form.activations)
    return form
