"""Per-sequence memory of a layer: KV cache, latents, states."""

from __future__ import annotations

from typing import Final

import msgspec

#: Bytes per element of the cache. "auto", the dtype that the checkpoint specifies, is resolved by
#: `Model.kv_dtype` before this table is used.
KV_BYTES: Final = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp32": 4.0}


class Cache(msgspec.Struct, frozen=True):
    """Cache of one layer, unsharded: one entry per token or per sequence.

    Attributes:
        elements: Elements per entry, over all units.
        units: Pieces that tensor parallelism can divide (KV heads, state heads). Each rank has
            whole pieces, and at least one. 1: every rank has the whole cache (MLA's latent).
        window: Number of most recent tokens that are kept; 0 keeps all.
        stride: Tokens per entry; above 1 if the layer compresses its past.
        per_sequence: A state of fixed size instead of an entry for each token.
        dtype: Dtype of the elements; empty: the KV cache dtype of the deployment.
        name: "kv", "latent", "indexer", "conv_state", "ssm_state", …
    """

    name: str
    elements: float
    units: int = 1
    window: int = 0
    stride: int = 1
    per_sequence: bool = False
    dtype: str = ""
