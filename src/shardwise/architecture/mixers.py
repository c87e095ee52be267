"""Token mixers (attention, state-space layers), with their tensors and caches.

Tensors have the names of the checkpoints, because quantized checkpoints list exclusions by name.
"""

from __future__ import annotations

import msgspec

from shardwise.architecture.cache import Cache
from shardwise.architecture.tensor import Tensor


class Indexer(msgspec.Struct, frozen=True):
    """Indexer of sparse attention (DeepSeek-V3.2, arXiv:2512.02556). It scores every cached token
    with small heads of its own and selects the `top_k` that attention reads.

    Its tensors ("indexer.wk") and its cache ("indexer") are listed with those of the attention.
    """

    num_heads: int
    head_dim: int
    top_k: int


class Attention(msgspec.Struct, frozen=True):
    """Softmax attention with `num_kv_heads` keys and values (MHA, GQA, MQA).

    `window`: a token attends to the last `window` tokens (0: all). `chunk`: a token attends only to
    its own chunk of this many tokens (0: all).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int = 0  #: 0: head_dim
    window: int = 0
    chunk: int = 0
    tensors: tuple[Tensor, ...] = ()
    caches: tuple[Cache, ...] = ()
    indexer: Indexer | None = None

    @property
    def value_dim(self) -> int:
        """Dimension of one value head, which is that of a key head unless stated."""
        return self.v_head_dim or self.head_dim


class Mla(msgspec.Struct, frozen=True):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): one compressed entry per token,
    shared by all heads, so that tensor parallelism does not divide the cache.

    `window`: a token attends to the last `window` tokens (0: all).
    """

    num_heads: int
    q_lora_rank: int  #: 0: the query projection is not compressed
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    tensors: tuple[Tensor, ...] = ()
    caches: tuple[Cache, ...] = ()
    indexer: Indexer | None = None
    window: int = 0


class LinearAttention(msgspec.Struct, frozen=True):
    """Gated delta rule: a matrix state for each value head and sequence instead of a cache.

    `kind`: "gdn" (Gated DeltaNet, arXiv:2412.06464), "kda" (Kimi Delta Attention,
    arXiv:2510.26692) or "lightning" (MiniMax-01).
    """

    kind: str
    num_k_heads: int
    num_v_heads: int
    head_k_dim: int
    head_v_dim: int
    conv_kernel: int
    tensors: tuple[Tensor, ...] = ()
    caches: tuple[Cache, ...] = ()


class Mamba2(msgspec.Struct, frozen=True):
    """State space layer (Mamba-2, arXiv:2405.21060)."""

    num_heads: int
    head_dim: int
    state_size: int
    num_groups: int
    conv_kernel: int
    tensors: tuple[Tensor, ...] = ()
    caches: tuple[Cache, ...] = ()


class NoMixer(msgspec.Struct, frozen=True):
    """A block without a mixer, as in hybrids that alternate blocks (Nemotron-H)."""

    tensors: tuple[Tensor, ...] = ()
    caches: tuple[Cache, ...] = ()


Mixer = Attention | Mla | LinearAttention | Mamba2 | NoMixer
