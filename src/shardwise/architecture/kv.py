"""Bytes of KV cache. Functions take numbers or arrays and broadcast as NumPy does."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shardwise.architecture.model import Architecture
from shardwise.errors import InputError

Floats = NDArray[np.float64]
#: Bytes per element of the cache; "auto" is the model's own 16-bit dtype, as in vLLM.
KV_BYTES: Final = {"auto": 2.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp32": 4.0}


def elements_per_token_per_layer(arch: Architecture, tp_size: ArrayLike = 1) -> Floats:
    """Elements one rank keeps of one token in one layer.

    GQA: a key and a value for each KV head of the rank; TP above the KV heads replicates them, so
    a rank never holds less than one. MLA: one latent vector and one rotary key for all heads
    (DeepSeek-V2, arXiv:2405.04434, section 2.1), which every rank holds whole.
    """
    tp = np.asarray(tp_size, dtype=np.float64)
    if arch.mla:
        return np.full(tp.shape, float(arch.mla.kv_lora_rank + arch.mla.qk_rope_head_dim))
    return np.asarray(2.0 * arch.head_dim * np.maximum(arch.num_kv_heads / tp, 1.0))


def kv_dtype_bytes(kv_dtype: str) -> float:
    if kv_dtype not in KV_BYTES:
        raise InputError(f"KV cache dtype is {kv_dtype[:40]!r}", f"allowed: {', '.join(KV_BYTES)}")
    return KV_BYTES[kv_dtype]


def layer_tokens(arch: Architecture, context_tokens: ArrayLike) -> Floats:
    """Tokens kept for one sequence, summed over all layers: a sliding one keeps its window."""
    context = np.asarray(context_tokens, dtype=np.float64)
    full = arch.num_layers - arch.num_sliding_layers
    kept = np.minimum(context, arch.sliding_window) if arch.sliding_window else 0.0
    return np.asarray(full * context + arch.num_sliding_layers * kept)


def kv_bytes(
    arch: Architecture,
    context_tokens: ArrayLike,
    kv_dtype: str = "auto",
    tp_size: ArrayLike = 1,
    pp_size: ArrayLike = 1,
) -> Floats:
    """Bytes one rank keeps for one sequence of `context_tokens`, arrays broadcast together.

    With PP, of the stage with most layers (`ceil(num_layers / pp_size)`).
    """
    stage_share = np.ceil(arch.num_layers / np.asarray(pp_size, dtype=np.float64)) / arch.num_layers
    each = elements_per_token_per_layer(arch, tp_size) * kv_dtype_bytes(kv_dtype)
    return np.asarray(layer_tokens(arch, context_tokens) * each * stage_share)


def require_context(arch: Architecture, isl: float, osl: float) -> None:
    """Raises InputError if a request is longer than the model's context."""
    if isl + osl > arch.max_context:
        raise InputError(
            f"isl {isl:g} + osl {osl:g} = {isl + osl:g} tokens",
            f"allowed: at most the {arch.max_context} tokens of {arch.id}'s context",
            "shorten isl or osl",
        )
