"""KV cache dtype that a checkpoint asks for."""

from __future__ import annotations

from typing import Final

from shardwise.architecture.fields import Fields
from shardwise.errors import InputError

_NAMES: Final = {"FP8": "fp8", "NVFP4": "nvfp4", "INT8": "int8", "NONE": "bf16", "AUTO": "bf16"}


def kv_dtype(quant: Fields) -> str:
    """From kv_cache_scheme or kv_cache_quant_algo; 16 bits where neither is given."""
    if quant.has("kv_cache_quant_algo"):
        name = quant.text("kv_cache_quant_algo").upper()
        if name not in _NAMES:
            raise quant.bad("kv_cache_quant_algo", ", ".join(_NAMES))
        return _NAMES[name]
    scheme = quant.get("kv_cache_scheme")
    if isinstance(scheme, str):
        return _NAMES.get(scheme.upper(), "bf16")
    args = quant.object("kv_cache_scheme")
    if not args.values:
        return "bf16"
    bits, kind = args.size("num_bits", default=8, hi=32), args.text("type", "float")
    if bits == 16:
        return "bf16"
    found = {(8, "float"): "fp8", (8, "int"): "int8", (4, "float"): "nvfp4"}.get((bits, kind))
    if found is None:
        raise InputError(
            f"{args.where}: {bits} bits of type {kind[:20]!r}", "allowed: 8 (float or int), 4 float"
        )
    return found
