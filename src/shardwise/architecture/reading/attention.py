"""Softmax attention and MLA: their tensors, with checkpoint names, and caches."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from shardwise.architecture.cache import Cache
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Attention, Indexer, Mla
from shardwise.architecture.reading.decoder import joined, linear, norm
from shardwise.architecture.tensor import Tensor
from shardwise.errors import InputError


class Heads(msgspec.Struct, frozen=True):
    """Query heads, KV heads and their sizes, in a model of `hidden` features."""

    hidden: int
    num: int
    kv: int
    dim: int
    v_dim: int = 0  #: 0: dim

    @property
    def value(self) -> int:
        """Dimension of one value head."""
        return self.v_dim or self.dim


def heads_of(
    config: Fields,
    *,
    hidden: str = "hidden_size",
    num: str = "num_attention_heads",
    kv: str = "num_key_value_heads",
    dim: str = "head_dim",
    kv_default: int | None = None,
    dim_default: int | None = None,
) -> Heads:
    """Read heads, by default under the usual field names. Without KV heads, use MHA."""
    width, count = config.size(hidden), config.size(num)
    kv_heads = config.size(kv, default=kv_default or count)
    if kv_heads > count or count % kv_heads:
        raise config.bad(kv, f"a divisor of the {count} attention heads")
    if not config.has(dim) and dim_default is None and width % count:
        raise InputError(
            f"{config.where}: {hidden} {width} is not a multiple of {num} {count}",
            remedy=f"give {dim}",
        )
    return Heads(width, count, kv_heads, config.size(dim, default=dim_default or width // count))


class Projections(msgspec.Struct, frozen=True):
    """Projections of the module `at`: names, biases, and which ones exist.

    Attributes:
        gated: The query projection also computes an output gate (Qwen3-Next).
        shared_kv: Keys and values come from an earlier layer (Gemma 3n); no k_proj and v_proj.
        k_is_v: The key projection also computes the values (Gemma 4); no v_proj. Both are cached.
    """

    at: str = "self_attn"
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    o: str = "o_proj"
    bias: bool = False
    o_bias: bool = False
    gated: bool = False
    shared_kv: bool = False
    k_is_v: bool = False


def fused(
    name: str, o: str = "o_proj", *, at: str = "self_attn", bias: bool = False
) -> Projections:
    """Projections with queries, keys and values in one tensor `name`; `bias` applies to all."""
    return Projections(at, name, name, name, o, bias=bias, o_bias=bias)


class QkNorm(msgspec.Struct, frozen=True):
    """Norms of queries and keys: of one head's size, or over all heads (OLMo 2, Command R+)."""

    over_all: bool = False
    bias: bool = False
    q: str = "q_norm"
    k: str = "k_norm"


def gqa_attention(
    heads: Heads,
    projections: Projections = Projections(),
    *,
    qk_norm: QkNorm | None = None,
    window: int = 0,
    chunk: int = 0,
    sinks: bool = False,
) -> Attention:
    """MHA, GQA or MQA. `window` and `chunk`: tokens; `sinks`: a logit for each head."""
    h, p = heads, projections
    tensors = _query(h, p) + _keys_values(h, p)
    tensors += linear(
        f"{p.at}.{p.o}", h.hidden, h.num * h.value, "attention", "cols", "o_proj",
        units=h.num, bias=p.o_bias,
    )  # fmt: skip
    if qk_norm:
        tensors += _qk_norms(h, p, qk_norm)
    if sinks:
        tensors += (Tensor(f"{p.at}.sinks", h.num, 1, "attention", "rows", h.num),)
    cache = Cache("kv", float(h.kv * (h.dim + h.value)), h.kv, window)
    caches = () if p.shared_kv else (cache,)
    return Attention(h.num, h.kv, h.dim, h.v_dim, window, chunk, tensors, caches)


def with_gate(
    attention: Attention,
    heads: Heads,
    *,
    name: str = "self_attn.gate_proj",
    per_head: bool = False,
    extra: tuple[Tensor, ...] = (),
) -> Attention:
    """Return `attention` with an output gate computed from its input, and with `extra` tensors.

    `per_head`: one gate per head instead of one per output.
    """
    rows = heads.num * (1 if per_head else heads.value)
    gate = linear(name, rows, heads.hidden, "attention", "rows", "g_proj", units=heads.num)
    return replace(attention, tensors=attention.tensors + gate + extra)


def _query(h: Heads, p: Projections) -> tuple[Tensor, ...]:
    rows = h.num * h.dim * (2 if p.gated else 1)
    return linear(
        f"{p.at}.{p.q}", rows, h.hidden, "attention", "rows", "qkv_proj",
        units=h.num, bias=p.bias,
    )  # fmt: skip


def _keys_values(h: Heads, p: Projections) -> tuple[Tensor, ...]:
    if p.shared_kv:
        return ()
    made = [(p.k, h.dim)] if p.k_is_v else [(p.k, h.dim), (p.v, h.value)]
    return joined(
        linear(
            f"{p.at}.{name}", h.kv * size, h.hidden, "attention", "rows", "qkv_proj",
            units=h.kv, bias=p.bias,
        )
        for name, size in made
    )  # fmt: skip


def _qk_norms(h: Heads, p: Projections, kind: QkNorm) -> tuple[Tensor, ...]:
    q, k = (h.num * h.dim, h.kv * h.dim) if kind.over_all else (h.dim, h.dim)
    keys = () if p.shared_kv else norm(f"{p.at}.{kind.k}", k, bias=kind.bias)
    return norm(f"{p.at}.{kind.q}", q, bias=kind.bias) + keys


def mla(config: Fields, *, bias: bool = False, at: str = "self_attn") -> Mla:
    """MLA under DeepSeek's field names and tensor names.

    The latent projections are replicated by tensor parallelism; q_a and kv_a are one GEMM.
    """
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    q_rank = config.size("q_lora_rank", default=0 if "q_lora_rank" in config.values else 1536, lo=0)
    rank, v = config.size("kv_lora_rank"), config.size("v_head_dim")
    nope, rope = config.size("qk_nope_head_dim"), config.size("qk_rope_head_dim", lo=0)
    if q_rank:
        query = (
            *linear(f"{at}.q_a_proj", q_rank, hidden, "attention", "replicated",
                    "fused_qkv_a_proj", bias=bias),
            *norm(f"{at}.q_a_layernorm", q_rank),
            *linear(f"{at}.q_b_proj", heads * (nope + rope), q_rank, "attention", "rows",
                    "q_b_proj", units=heads),
        )  # fmt: skip
    else:
        query = linear(
            f"{at}.q_proj", heads * (nope + rope), hidden, "attention", "rows", "q_proj",
            units=heads,
        )  # fmt: skip
    tensors = (
        *query,
        *linear(f"{at}.kv_a_proj_with_mqa", rank + rope, hidden, "attention", "replicated",
                "fused_qkv_a_proj" if q_rank else "kv_a_proj", bias=bias),
        *norm(f"{at}.kv_a_layernorm", rank),
        *linear(f"{at}.kv_b_proj", heads * (nope + v), rank, "attention", "rows", "kv_b_proj",
                units=heads),
        *linear(f"{at}.o_proj", hidden, heads * v, "attention", "cols", "o_proj", units=heads,
                bias=bias),
    )  # fmt: skip
    latent = Cache("latent", float(rank + rope))
    return Mla(heads, q_rank, rank, nope, rope, v, tensors, (latent,))


def with_indexer(
    attention: Mla,
    config: Fields,
    *,
    pool: int = 1,
    source: int = 0,
    at: str = "self_attn.indexer",
) -> Mla:
    """Return `attention` with the replicated indexer of DeepSeek sparse attention.

    If `pool` is above 1, that many tokens share a key of the indexer, computed by a learned gate
    (GLM-5.3-Flash). Its queries have `source` input features; 0: the latent of the queries.
    """
    hidden, rank = config.size("hidden_size"), source or config.size("q_lora_rank")
    heads, dim = config.size("index_n_heads"), config.size("index_head_dim")
    tensors = (
        *linear(f"{at}.wq_b", heads * dim, rank, "attention", "replicated", "indexer.wq_b"),
        *linear(f"{at}.wk", dim, hidden, "attention", "replicated", "indexer.wk"),
        *norm(f"{at}.k_norm", dim, bias=True),
        *linear(f"{at}.weights_proj", heads, hidden, "attention", "replicated",
                "indexer.weights_proj"),
    )  # fmt: skip
    if pool > 1:
        tensors += (
            Tensor(f"{at}.index_kpool_compress_ape", pool, dim, "attention"),
            *linear(f"{at}.index_kpool_compress_gate", dim, hidden, "attention", "replicated",
                    "compressor"),
        )  # fmt: skip
    # vLLM and SGLang store head_dim fp8 numbers and 4 bytes of scale per key
    key = Cache("indexer", float(dim + 4), stride=pool, dtype="fp8")
    return replace(
        attention,
        tensors=attention.tensors + tensors,
        caches=(*attention.caches, key),
        indexer=Indexer(heads, dim, config.size("index_topk")),
    )
