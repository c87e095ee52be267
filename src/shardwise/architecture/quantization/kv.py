"""KV cache dtype that a checkpoint specifies: 16 bits or fp8 (`cache.KV_BYTES`)."""

from __future__ import annotations

from typing import Final

from shardwise.architecture.fields import Fields
from shardwise.errors import InputError

_NAMES: Final = {"FP8": "fp8", "NONE": "bf16", "AUTO": "bf16"}


def kv_dtype(quant: Fields) -> str:
    """Return the dtype from kv_cache_scheme or kv_cache_quant_algo; 16 bits if neither is given."""
    for field in ("kv_cache_quant_algo", "kv_cache_scheme"):
        value = quant.get(field)
        if isinstance(value, str):
            if value.upper() not in _NAMES:
                raise quant.bad(field, ", ".join(_NAMES))
            return _NAMES[value.upper()]
    args = quant.object("kv_cache_scheme")
    if not args.values:
        return "bf16"
    bits, kind = args.size("num_bits", default=8, hi=32), args.text("type", "float")
    if bits == 16:
        return "bf16"
    if (bits, kind) != (8, "float"):
        raise InputError(f"{args.where}: {bits} bits of type {kind[:20]!r}", "allowed: 8, float")
    return "fp8"
