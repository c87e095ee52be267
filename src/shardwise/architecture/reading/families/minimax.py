"""MiniMax: Text-01 and M1 with lightning attention, M2, M3 with block-sparse attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from msgspec.structs import replace

from shardwise.architecture.cache import Cache
from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Attention, Indexer, LinearAttention, Mixer
from shardwise.architecture.reading.attention import (
    Heads,
    QkNorm,
    gqa_attention,
    heads_of,
)
from shardwise.architecture.reading.common import FULL, LINEAR, decoder, layer_types, num_layers
from shardwise.architecture.reading.decoder import Decoder, linear, norm
from shardwise.architecture.reading.families.deepseek import sparse_layers
from shardwise.architecture.reading.mlps import (
    W123,
    Experts,
    Router,
    Shared,
    experts_of,
    gated_mlp,
    moe,
)


def minimax(config: Fields) -> Decoder:
    """Seven layers of lightning attention, then one of softmax attention."""
    if "MiniMaxM2ForCausalLM" in config.items("architectures", str):
        return minimax_m2(config)  # M2's first files call themselves minimax
    heads, layers = heads_of(config), num_layers(config)
    kinds = layer_types(config, layers, LINEAR, FULL)
    if not kinds:
        types = config.items("attn_type_list", int)
        if types and len(types) != layers:
            raise config.bad("attn_type_list", f"{layers} times 0 (linear) or 1")
        kinds = [FULL if t == 1 else LINEAR for t in types]
    kinds = kinds or [FULL if (i + 1) % 2 == 0 else LINEAR for i in range(layers)]
    softmax, lightning = gqa_attention(heads), _lightning(heads)
    count, top_k = experts_of(config, "num_local_experts")
    shared = config.size("shared_intermediate_size", default=0, lo=0)
    sparse = moe(
        heads.hidden,
        Experts(count, top_k, config.size("intermediate_size"), W123),
        shared=Shared(shared, "shared_mlp") if shared else None,
        at="block_sparse_moe",
    )
    return decoder(config, lambda i: softmax if kinds[i] == FULL else lightning, lambda _: sparse)


def _lightning(heads: Heads) -> LinearAttention:
    """One state of dim x dim per head and sequence, in the model's dtype as in vLLM."""
    h, inner, at = heads.hidden, heads.num * heads.dim, "self_attn"
    tensors = (
        *linear(f"{at}.qkv_proj", 3 * inner, h, "attention", "rows", "qkv_proj", units=heads.num),
        *linear(f"{at}.output_gate", inner, h, "attention", "rows", "output_gate",
                units=heads.num),
        *norm(f"{at}.norm", inner, cut="rows"),
        *linear(f"{at}.out_proj", h, inner, "attention", "cols", "out_proj", units=heads.num),
    )  # fmt: skip
    size = float(heads.num * heads.dim**2)
    state = Cache("linear_state", size, heads.num, per_sequence=True)
    return LinearAttention(
        "lightning", heads.num, heads.num, heads.dim, heads.dim, 0, tensors, (state,)
    )


def minimax_m2(config: Fields) -> Decoder:
    """MiniMax-M2: norms over all heads. The drafts listed in the file were not published."""
    heads = heads_of(config)
    kind = config.text("qk_norm_type", "per_layer")
    qk_norm = QkNorm(over_all=kind == "per_layer") if config.flag("use_qk_norm", True) else None
    attention = gqa_attention(heads, qk_norm=qk_norm)
    count, top_k = experts_of(config, config.name_of("num_local_experts", "num_experts"))
    shared = config.size("shared_intermediate_size", default=0, lo=0)
    bias = config.flag("use_routing_bias", True)
    sparse = moe(
        heads.hidden,
        Experts(count, top_k, config.size("intermediate_size"), W123),
        router=Router(correction="e_score_correction_bias" if bias else ""),
        shared=Shared(shared) if shared else None,
        at="block_sparse_moe",
    )
    return decoder(config, lambda _: attention, lambda _: sparse)


def minimax_m3(config: Fields) -> Decoder:
    """MiniMax-M3: a small indexer selects blocks of 128 cached tokens; dense first layers."""
    heads, layers = heads_of(config, dim_default=128), num_layers(config)
    sparse = _sparse_layers(config, layers)
    qk_norm = QkNorm() if config.flag("use_qk_norm", True) else None
    plain = gqa_attention(heads, qk_norm=qk_norm)
    indexed = _with_block_indexer(config, plain)
    mixers: dict[bool, Mixer] = {False: plain, True: indexed}
    experts = _m3_experts(config, layers)
    return decoder(config, lambda i: mixers[sparse[i]], experts)


def _sparse_layers(config: Fields, layers: int) -> list[bool]:
    kinds = layer_types(config, layers, "minimax_m3_sparse", FULL)
    if kinds:
        return [kind != FULL for kind in kinds]
    chosen = config.object("sparse_attention_config").per_layer("sparse_attention_freq", layers, 0)
    return [bool(n) for n in chosen]


def _with_block_indexer(config: Fields, attention: Attention) -> Attention:
    """The indexer's heads score pooled keys; its cache has one key per token and layer."""
    old = config.object("sparse_attention_config")

    def size(name: str, old_name: str, default: int) -> int:
        return config.size(name, default=old.size(old_name, default=default))

    count = size("index_n_heads", "sparse_num_index_heads", 4)
    dim = size("index_head_dim", "sparse_index_dim", 128)
    block = size("index_block_size", "sparse_block_size", 128)
    top = size("index_topk_blocks", "sparse_topk_blocks", 16)
    hidden, at = config.size("hidden_size"), "self_attn"
    tensors = (
        *linear(f"{at}.index_q_proj", count * dim, hidden, "attention", "replicated",
                "indexer.q_proj"),
        *linear(f"{at}.index_k_proj", dim, hidden, "attention", "replicated", "indexer.k_proj"),
        *norm(f"{at}.index_q_norm", dim),
        *norm(f"{at}.index_k_norm", dim),
    )  # fmt: skip
    return replace(
        attention,
        tensors=attention.tensors + tensors,
        caches=(*attention.caches, Cache("indexer", float(dim))),
        indexer=Indexer(count, dim, top * block),
    )


def _m3_experts(config: Fields, layers: int) -> Callable[[int], FeedForward]:
    hidden = config.size("hidden_size")
    routed = sparse_layers(config, layers, 0)
    config.has("num_mtp_modules")
    count, top_k = experts_of(config, "num_local_experts")
    width = config.size(config.name_of("moe_intermediate_size", "intermediate_size"))
    shared = config.size("shared_intermediate_size", default=3072, lo=0)
    shared *= config.size("n_shared_experts", default=1, lo=0)

    @cache
    def feed_forward(is_sparse: bool) -> FeedForward:
        if not is_sparse:
            return gated_mlp(hidden, config.size("dense_intermediate_size", default=12288))
        return moe(
            hidden,
            Experts(count, top_k, width, W123),
            router=Router(correction="e_score_correction_bias"),
            shared=Shared(shared) if shared else None,
            at="block_sparse_moe",
        )

    feed_forward(False)
    return lambda i: feed_forward(routed[i])
