"""DeepSeek-V4: one key of 512 for all heads, recent tokens in a window, older ones compressed.

Names and shapes: the published checkpoints, and DeepseekV4Config of transformers 5.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from msgspec.structs import replace

from shardwise.architecture.cache import Cache
from shardwise.architecture.feed_forward import Moe
from shardwise.architecture.fields import MAX_EXPERTS, Fields
from shardwise.architecture.mixers import Attention, Indexer
from shardwise.architecture.reading.common import max_context, num_layers
from shardwise.architecture.reading.decoder import Decoder, Layer, linear, norm, norms
from shardwise.architecture.reading.mlps import Experts, Router, Shared, experts_of, moe
from shardwise.architecture.tensor import Tensor

_RATIOS: Final = {
    "sliding_attention": 0,
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
}
#: Compression ratio of layers whose indexer selects among the compressed entries.
_SPARSE: Final = 4


def deepseek_v4(config: Fields) -> Decoder:
    """DeepSeek-V4: attention over compressed keys, at a ratio stated per layer."""
    layers, hidden = num_layers(config), config.size("hidden_size")
    ratios = _ratios(config, layers)
    attention = cache(lambda ratio: _attention(config, ratio))
    hashed = config.size("num_hash_layers", default=3, lo=0)
    feed_forward = cache(lambda by_hash: _moe(config, by_hash))
    beside = norms(hidden, "attn_norm", "ffn_norm")
    beside += hyper_connection(config, "hc_attn") + hyper_connection(config, "hc_ffn")
    made = tuple(
        Layer(attention(ratios[i]), feed_forward(i < hashed), beside) for i in range(layers)
    )
    read = Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        max_context=max_context(config),
        layers=made,
        outer=norms(hidden, "norm") + _hyper_head(config),
        tie_embeddings=config.flag("tie_word_embeddings", False),
        prefix="layers",
        embedding="embed",
    )
    return _with_mtp(config, read, Layer(attention(0), feed_forward(False), beside))


def _ratios(config: Fields, layers: int) -> list[int]:
    """Return the tokens per compressed entry of each layer; 0: only a window."""
    ratios = config.items("compress_ratios", int)
    if not ratios:
        kinds = config.items("layer_types", str)
        if not set(kinds) <= set(_RATIOS):
            raise config.bad("layer_types", f"{layers} times one of {', '.join(_RATIOS)}")
        ratios = [_RATIOS[kind] for kind in kinds]
    # the draft's ratio may follow those of the layers
    if len(ratios) < layers or any(not 0 <= ratio <= 65536 for ratio in ratios):
        raise config.bad("compress_ratios", f"{layers} whole numbers from 0 to 65536")
    return ratios[:layers]


def _attention(config: Fields, ratio: int) -> Attention:
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    dim, rank = config.size("head_dim", default=512), config.size("q_lora_rank", default=1024)
    window = config.size("sliding_window", default=128)
    config.read.update(("qk_rope_head_dim", "num_key_value_heads"))
    tensors = _projections(config, hidden, heads, dim, rank)
    caches = [Cache("kv", float(dim), window=window)]
    indexer = None
    if ratio:
        wide = 2 * dim if ratio == _SPARSE else dim
        tensors += _compressor("attn.compressor", hidden, wide, dim, ratio)
        caches.append(Cache("compressed_kv", float(dim), stride=ratio))
    if ratio == _SPARSE:
        count, size = config.size("index_n_heads"), config.size("index_head_dim")
        indexer = Indexer(count, size, config.size("index_topk"))
        at = "attn.indexer"
        tensors += linear(
            f"{at}.wq_b", count * size, rank, "attention", "replicated", "indexer.wq_b"
        )
        tensors += linear(
            f"{at}.weights_proj", count, hidden, "attention", "replicated", "indexer.weights_proj"
        )
        tensors += _compressor(f"{at}.compressor", hidden, 2 * size, size, ratio)
        # as in V3.2: fp8 with a 32-bit scale per key
        caches.append(Cache("indexer", float(size + 4), stride=ratio, dtype="fp8"))
    return Attention(
        heads, 1, dim, window=window, tensors=tensors, caches=tuple(caches), indexer=indexer
    )


def _projections(
    config: Fields, hidden: int, heads: int, dim: int, rank: int
) -> tuple[Tensor, ...]:
    """Low-rank queries, one shared key and value, and a grouped low-rank output projection."""
    groups, out = config.size("o_groups", default=8), config.size("o_lora_rank", default=1024)
    return (
        *linear("attn.wq_a", rank, hidden, "attention", "replicated", "fused_wqa_wkv"),
        *linear("attn.wkv", dim, hidden, "attention", "replicated", "fused_wqa_wkv"),
        *norm("attn.q_norm", rank),
        *norm("attn.kv_norm", dim),
        *linear("attn.wq_b", heads * dim, rank, "attention", "rows", "wq_b", units=heads),
        *linear("attn.wo_a", groups * out, heads * dim // groups, "attention", "rows", "wo_a",
                units=groups),
        *linear("attn.wo_b", hidden, groups * out, "attention", "cols", "wo_b", units=groups),
        Tensor("attn.attn_sink", heads, 1, "attention", "rows", heads),
    )  # fmt: skip


def _compressor(at: str, hidden: int, wide: int, dim: int, ratio: int) -> tuple[Tensor, ...]:
    return (
        *linear(f"{at}.wkv", wide, hidden, "attention", "replicated", "compressor"),
        *linear(f"{at}.wgate", wide, hidden, "attention", "replicated", "compressor"),
        Tensor(f"{at}.ape", ratio, wide, "attention"),
        *norm(f"{at}.norm", dim),
    )


def hyper_connection(config: Fields, name: str) -> tuple[Tensor, ...]:
    """Hyper-connections: `hc_mult` residual streams, mixed before and after each part."""
    n, hidden = config.size("hc_mult", default=4), config.size("hidden_size")
    mixed = (2 + n) * n
    return (
        *linear(f"{name}_fn", mixed, n * hidden, "norm", "replicated", "hyper_connection"),
        Tensor(f"{name}_base", mixed, 1, "norm"),
        Tensor(f"{name}_scale", 3, 1, "norm"),
    )


def _hyper_head(config: Fields) -> tuple[Tensor, ...]:
    n, hidden = config.size("hc_mult", default=4), config.size("hidden_size")
    return (
        *linear("hc_head_fn", n, n * hidden, "norm", "replicated", "hyper_connection"),
        Tensor("hc_head_base", n, 1, "norm"),
        Tensor("hc_head_scale", 1, 1, "norm"),
    )


def _moe(config: Fields, by_hash: bool) -> Moe:
    """The first layers route by a table over token ids, the others by a router with a bias."""
    hidden, width = config.size("hidden_size"), config.size("moe_intermediate_size")
    count, top_k = experts_of(config, "n_routed_experts")
    shared = config.size("n_shared_experts", default=1, lo=0, hi=MAX_EXPERTS)
    table = Tensor("ffn.gate.tid2eid", config.size("vocab_size"), top_k, "router")
    return moe(
        hidden,
        Experts(count, top_k, width),
        router=Router(correction="" if by_hash else "gate.bias"),
        shared=Shared(shared * width),
        at="ffn",
        extra=(table,) if by_hash else (),
    )


def _with_mtp(config: Fields, read: Decoder, layer: Layer) -> Decoder:
    count = config.size("num_nextn_predict_layers", default=0, lo=0, hi=64)
    if not count:
        return read
    hidden = read.hidden_size
    beside = (
        *layer.norms,
        *norms(hidden, "enorm", "hnorm", "norm"),
        *linear("e_proj", hidden, hidden, "mlp", "replicated", "eh_proj"),
        *linear("h_proj", hidden, hidden, "mlp", "replicated", "eh_proj"),
        *_hyper_head(config),
    )
    return replace(read, drafts=(replace(layer, norms=beside),) * count, draft_prefix="mtp")
