"""AMD Quark: a global scheme, schemes by layer name, and an exclude list.

Field names: quantization_config as exported by Quark for Hugging Face.
"""

from __future__ import annotations

from typing import Any, Final

from shardwise.architecture.fields import Fields
from shardwise.architecture.formats import Format
from shardwise.architecture.quantization.kv import kv_dtype
from shardwise.architecture.quantization.names import Names, everything
from shardwise.architecture.quantization.rules import Rule, Rules
from shardwise.errors import InputError

#: Quark's dtype -> dtype and bits. fp4 and fp6 are the microscaling ones.
_DTYPES: Final = {
    "fp8_e4m3": ("fp8", 8.0),
    "fp8_e5m2": ("fp8", 8.0),
    "int8": ("int8", 8.0),
    "uint8": ("int8", 8.0),
    "int4": ("int4", 4.0),
    "uint4": ("int4", 4.0),
    "fp4": ("mxfp4", 4.0),
    "mxfp4": ("mxfp4", 4.0),
    "fp6_e2m3": ("mxfp6", 6.0),
    "fp6_e3m2": ("mxfp6", 6.0),
    "mxfp6": ("mxfp6", 6.0),
    "mxfp8": ("mxfp8", 8.0),
}
_PLAIN: Final = ("bfloat16", "float16", "float32")


def rules(quant: Fields) -> Rules:
    """Rules of a Quark config: those of single layers first, then the global scheme."""
    read: list[Rule] = []
    plain: list[str] = []
    layers = quant.object("layer_quant_config")
    for name in layers.values:
        form = _scheme(layers.object(name))
        if form is None:
            plain.append(name)
        else:
            read.append(Rule(Names([name], layers.where), form, everywhere=True))
    form = _scheme(quant.object("global_quant_config"))
    if form is not None:
        read.append(Rule(everything(), form))
    if not read:
        raise quant.bad("global_quant_config", "an object with a weight")
    return Rules(
        rules=tuple(read),
        excluded=Names([*quant.items("exclude", str), *plain], quant.where),
        kv_dtype=_kv(quant),
    )


def _scheme(config: Fields) -> Format | None:
    weight = _last(config, "weight")
    if weight is None or weight.text("dtype") in _PLAIN:
        return None
    name = weight.text("dtype")
    if name not in _DTYPES:
        raise weight.bad("dtype", f"one of {', '.join(_DTYPES)}")
    dtype, bits = _DTYPES[name]
    group = weight.size("group_size", default=0, lo=-1, hi=65536)
    inputs = _last(config, "input_tensors")
    activations = _activations(inputs.text("dtype", "") if inputs else "")
    if weight.text("qscheme", "") == "per_group" or dtype.startswith("mx"):
        group = group if group > 0 else 32
        if dtype == "fp8" and group == 32:
            dtype = "mxfp8"
        scale = 1.0 if dtype.startswith("mx") else 2.0
        return Format(dtype, bits, (1, group), scale, activations)
    block = (0, 0) if weight.text("qscheme", "per_tensor") == "per_tensor" else (1, 0)
    return Format(dtype, bits, block, 4.0, activations)


def _last(config: Fields, name: str) -> Fields | None:
    """The scheme under `name`. Of a list of stages (int4 weights in fp8 ones), the one stored."""
    value: Any = config.get(name)
    if isinstance(value, list):
        value = value[-1] if value else None
    if value is None:
        return None
    if not isinstance(value, dict):
        raise config.bad(name, "an object or a list of objects")
    return Fields(value, f"{config.where}: {name}")


def _activations(name: str) -> str:
    if not name:
        return "bf16"
    kinds = {"fp8": "fp8", "mxfp8": "fp8", "mxfp6": "fp8", "mxfp4": "fp4", "int8": "int8"}
    return kinds.get(_DTYPES.get(name, ("", 0))[0], "bf16")


def _kv(quant: Fields) -> str:
    """Quark names the layers that write the cache and what they write it in."""
    named = quant.object("kv_cache_quant_config")
    for name in named.values:
        output = _last(named.object(name), "output_tensors")
        if output is not None:
            return _kv_name(output)
    if quant.object("export").items("kv_cache_group", str):
        return "fp8"
    return kv_dtype(quant)


def _kv_name(output: Fields) -> str:
    name = output.text("dtype", "fp8_e4m3")
    if _DTYPES.get(name, ("", 0))[0] != "fp8":
        raise InputError(f"{output.where}: dtype is {name[:40]!r}", "allowed: fp8_e4m3")
    return "fp8"
