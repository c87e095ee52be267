"""What a layer keeps of a sequence while it is served: KV cache, latents, states."""

from __future__ import annotations

from typing import Final

import msgspec

#: Bytes of one element of the cache. "auto" stands for what the checkpoint asks for and is
#: resolved by `Model.kv_dtype` before it gets here.
KV_BYTES: Final = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp32": 4.0}


class Cache(msgspec.Struct, frozen=True):
    """`elements` kept for each token (or once a sequence) by one layer, unsharded.

    Attributes:
        elements: Numbers kept for each entry, over all units.
        units: Pieces that tensor parallelism may divide (KV heads, state heads). Each rank keeps
            whole pieces, and at least one. 1: every rank keeps all of it (MLA's latent).
        window: Most recent tokens that are kept; 0 keeps all.
        stride: Tokens that share one entry; above 1 where the layer compresses its past.
        per_sequence: A state of fixed size instead of an entry for each token.
        dtype: Dtype of the elements; empty follows the KV cache dtype of the deployment.
        name: "kv", "latent", "indexer", "conv_state", "ssm_state", …
    """

    name: str
    elements: float
    units: int = 1
    window: int = 0
    stride: int = 1
    per_sequence: bool = False
    dtype: str = ""
