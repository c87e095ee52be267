"""What one rank of a TP x PP deployment holds of the weights. Broadcasts over arrays."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shardwise.architecture.model import Architecture
from shardwise.architecture.parameters import count, part_bytes, stored_dtype

Floats = NDArray[np.float64]
#: Engines pad the vocabulary to a multiple of this (vLLM: DEFAULT_VOCAB_PADDING_SIZE).
VOCAB_MULTIPLE: Final = 64


def padded_vocab(arch: Architecture, tp_size: ArrayLike = 1) -> Floats:
    """Rows of the embedding after padding: the next multiple of 64 that `tp_size` divides."""
    multiple = np.lcm(VOCAB_MULTIPLE, np.asarray(tp_size, dtype=np.int64))
    return np.asarray(np.ceil(arch.vocab_size / multiple) * multiple, dtype=np.float64)


def attention_layer(arch: Architecture, tp_size: ArrayLike = 1) -> Floats:
    """Attention parameters of one layer on one rank.

    Query and output are cut by head. Key and value are cut by KV head, and replicated where TP
    exceeds the KV heads. The low-rank projections into MLA's latents are whole on every rank.
    """
    tp = np.asarray(tp_size, dtype=np.float64)
    h = arch.hidden_size
    if arch.mla:
        m = arch.mla
        query_head = m.qk_nope_head_dim + m.qk_rope_head_dim
        query = arch.num_heads * query_head * (m.q_lora_rank or h) / tp
        latents = h * (m.q_lora_rank + m.kv_lora_rank + m.qk_rope_head_dim)
        expand = m.kv_lora_rank * arch.num_heads * (m.qk_nope_head_dim + m.v_head_dim) / tp
        output = arch.num_heads * m.v_head_dim * h / tp
        return np.asarray(query + latents + expand + output)
    query = arch.num_heads * arch.head_dim / tp
    kv = 2 * np.maximum(arch.num_kv_heads / tp, 1.0) * arch.head_dim
    weights = h * (2 * query + kv)
    biases = (query + kv) * arch.attention_bias + h * arch.output_bias
    return np.asarray(weights + biases + arch.num_heads / tp * arch.attention_sinks)


def rank_parameters(
    arch: Architecture, tp_size: ArrayLike = 1, pp_size: ArrayLike = 1
) -> dict[str, Floats]:
    """Parameters by part on the fullest rank: `ceil(num_layers / pp_size)` layers, the MoE ones
    first, and (PP > 1) the larger of embedding and lm_head.

    Cutting each expert by TP and giving whole experts to ranks (expert parallelism over the same
    ranks) take the same bytes. Norms and router are replicated.
    """
    tp = np.asarray(tp_size, dtype=np.float64)
    pp = np.asarray(pp_size, dtype=np.float64)
    p, h, moe_layers = count(arch), arch.hidden_size, arch.num_moe_layers
    layers = np.ceil(arch.num_layers / pp)
    moe = np.minimum(layers, moe_layers) / max(moe_layers, 1)
    dense = (layers - np.minimum(layers, moe_layers)) / max(arch.num_dense_layers, 1)
    embedding = padded_vocab(arch, tp_size) * h / tp
    head = 0.0 if arch.tie_embeddings else embedding
    layer_norms = (p.norms - h) / arch.num_layers
    # on PP > 1 the first stage has the embedding, the last the lm_head: count one
    parts = {
        "attention": layers * attention_layer(arch, tp_size),
        "mlp": dense * p.mlp / tp,
        "experts": moe * p.experts / tp,
        "shared_experts": moe * p.shared_experts / tp,
        "router": moe * p.router,
        "embedding": embedding,
        "lm_head": np.where(pp > 1, 0.0, head),
        "norms": layers * layer_norms + h,
    }
    shape = np.broadcast_shapes(tp.shape, pp.shape)
    return {name: np.broadcast_to(np.asarray(n, np.float64), shape) for name, n in parts.items()}


def rank_weight_bytes(
    arch: Architecture, dtype: str, tp_size: ArrayLike = 1, pp_size: ArrayLike = 1
) -> Floats:
    """Bytes of weights on the fullest rank, in `dtype` ("auto": the checkpoint's)."""
    stored = stored_dtype(arch, dtype)
    parts = rank_parameters(arch, tp_size, pp_size)
    return np.asarray(sum(n * part_bytes(stored, part) for part, n in parts.items()))
