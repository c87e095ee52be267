"""Routed and shared experts as in DeepSeek: Ling, ERNIE, EXAONE, LongCat and others."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import MAX_EXPERTS, Fields
from shardwise.architecture.mixers import Attention
from shardwise.architecture.reading.attention import (
    Projections,
    QkNorm,
    fused,
    gqa_attention,
    heads_of,
    mla,
)
from shardwise.architecture.reading.common import decoder, num_layers, windows
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, Layer, linear, norms
from shardwise.architecture.reading.families.deepseek import (
    deepseek_moe,
    sparse_layers,
    with_mtp,
)
from shardwise.architecture.reading.mlps import (
    CORRECTED,
    Experts,
    Router,
    Shared,
    experts_of,
    gated_mlp,
    gated_tensors,
    moe,
)
from shardwise.architecture.tensor import Tensor


def dots1(config: Fields) -> Decoder:
    """dots.llm1: GQA with QK norms, and DeepSeek's experts."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    used = config.flag("use_sliding_window", False)
    full = config.size("max_window_layers", default=num_layers(config), lo=0)
    slides = windows(config, num_layers(config), lambda i: used and i >= full)
    projections = Projections(bias=bias, o_bias=bias)
    attention = cache(
        lambda window: gqa_attention(heads, projections, qk_norm=QkNorm(), window=window)
    )
    experts = deepseek_moe(config, correction_bias=True)
    return decoder(config, lambda i: attention(slides[i] if used else 0), experts)


def solar_open(config: Fields) -> Decoder:
    """Solar Open: GQA, and DeepSeek's experts."""
    heads, bias = heads_of(config, dim_default=128), config.flag("attention_bias", False)
    qk_norm = QkNorm() if config.flag("use_qk_norm", False) else None
    attention = gqa_attention(heads, Projections(bias=bias), qk_norm=qk_norm)
    return decoder(config, lambda _: attention, deepseek_moe(config, correction_bias=True))


def hy_v3(config: Fields) -> Decoder:
    """Hunyuan 3: DeepSeek's experts, and attention with norms of queries and keys."""
    heads, bias = heads_of(config, dim_default=128), config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias), qk_norm=QkNorm())
    experts = deepseek_moe(config, correction_bias=True, dense_layers=1)
    return with_mtp(config, decoder(config, lambda _: attention, experts))


def exaone_moe(config: Fields) -> Decoder:
    """K-EXAONE: sliding and full attention in a pattern, and DeepSeek's experts."""
    heads, layers = heads_of(config), num_layers(config)
    pattern = config.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:
        local = [pattern[i % len(pattern)] == "L" for i in range(layers)]
    else:
        step = config.size("sliding_window_pattern", default=4, lo=0)
        local = [bool(step) and (i + 1) % step != 0 for i in range(layers)]
    slides = windows(config, layers, lambda i: local[i])
    attention = cache(lambda window: gqa_attention(heads, qk_norm=QkNorm(), window=window))
    experts = deepseek_moe(config, correction_bias=True, dense_layers=1)
    return with_mtp(config, decoder(config, lambda i: attention(slides[i]), experts))


def ernie4_5_moe(config: Fields) -> Decoder:
    """ERNIE 4.5: experts from a first to a last layer, at an interval."""
    heads, bias = heads_of(config), config.flag("use_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    layers = num_layers(config)
    first = config.size("moe_layer_start_index", default=1, lo=0)
    last = config.size("moe_layer_end_index", default=layers - 1, lo=-1)
    last = layers - 1 if last < 0 else last
    step = config.size("moe_layer_interval", default=1)
    count, top_k = experts_of(config, "moe_num_experts", "moe_k")
    width = config.size("moe_intermediate_size")
    shared = config.size("moe_num_shared_experts", default=2, lo=0, hi=MAX_EXPERTS)
    used = config.flag("moe_use_aux_free", True)
    sparse = moe(
        heads.hidden,
        Experts(count, top_k, width, bias=bias),
        router=Router(correction="moe_statics.e_score_correction_bias" if used else ""),
        shared=Shared(shared * width),
    )
    dense = gated_mlp(heads.hidden, config.size("intermediate_size"), bias=bias)
    routed = [first <= i <= last and (i + 1) % step == 0 for i in range(layers)]
    read = decoder(config, lambda _: attention, lambda i: sparse if routed[i] else dense, tie=True)
    return with_mtp(config, read)


def bailing_moe(config: Fields) -> Decoder:
    """Ling and Ring: DeepSeek's experts, fused projections."""
    heads = heads_of(config)
    used = config.flag("use_qk_norm", False)
    projections = replace(
        fused("query_key_value", "dense", at="attention", bias=config.flag("use_bias", False)),
        bias=config.flag("use_qkv_bias", False),
    )
    qk_norm = QkNorm(q="query_layernorm", k="key_layernorm") if used else None
    attention = gqa_attention(heads, projections, qk_norm=qk_norm)
    read = decoder(config, lambda _: attention, bailing_experts(config))
    return with_mtp(config, replace(read, embedding="model.word_embeddings"))


def param2_moe(config: Fields) -> Decoder:
    """Param2: Ling's layers. moe_shared_expert_intermediate_size is the size of all shared experts,
    as in vLLM."""
    config = config.with_defaults(
        use_qk_norm=False, moe_router_enable_expert_bias=True, first_k_dense_replace=1,
        num_shared_experts=1,
    )  # fmt: skip
    shared = config.size("num_shared_experts", lo=0, hi=MAX_EXPERTS)
    width = config.size("moe_intermediate_size")
    name = "moe_shared_expert_intermediate_size"
    total = config.size(name, default=shared * width, lo=0)
    if shared and total % width:
        raise config.bad(name, f"a multiple of moe_intermediate_size {width}")
    values = {**config.values, name: None, "num_shared_experts": total // width if shared else 0}
    return bailing_moe(Fields(values, config.where, config.read, config.assumed))


def sarvam_moe(config: Fields) -> Decoder:
    """Sarvam 30B: Ling's layers. Its file must state the fields that differ by class."""
    _written(config, "use_qk_norm", "head_dim")
    return bailing_moe(config)


def sarvam_mla(config: Fields) -> Decoder:
    """Sarvam 105B: latent attention without a query rank, and Ling's experts."""
    _written(config)
    config = config.with_defaults(q_lora_rank=None)
    attention = mla(config)
    return decoder(config, lambda _: attention, bailing_experts(config))


def _written(config: Fields, *names: str) -> None:
    always = ("first_k_dense_replace", "num_shared_experts", "moe_router_enable_expert_bias")
    for name in (*always, *names):
        if not config.has(name):
            raise config.bad(name, "to be given, as in the published files of Sarvam")


def bailing_experts(config: Fields) -> Callable[[int], FeedForward]:
    """Experts of Ling and Ring, one function of the layer's position."""
    shared_width = config.size("moe_shared_expert_intermediate_size", default=0, lo=0)
    config.has("moe_router_enable_expert_bias")
    corrected = config.flag("moe_router_enable_expert_bias", False)
    experts = deepseek_moe(config, correction_bias=corrected)
    width = config.size("moe_intermediate_size")
    if shared_width and shared_width != width:
        raise config.bad("moe_shared_expert_intermediate_size", f"moe_intermediate_size {width}")
    return experts


def longcat_flash(config: Fields) -> Decoder:
    """LongCat-Flash: two attentions and two MLPs per layer, experts parallel to the first pair.

    Each pair is read as one layer, which doubles the number of layers. Identity experts have no
    weights but count in the router's size.
    """
    hidden = config.size("hidden_size")
    count, top_k = experts_of(config, "n_routed_experts", "moe_topk")
    idle = config.size("zero_expert_num", default=0, lo=0, hi=MAX_EXPERTS)
    width = config.size("expert_ffn_hidden_size")
    dense = config.size("ffn_hidden_size")
    bias = config.flag("router_bias", False)
    routed = moe(hidden, Experts(count, top_k, width), router=Router("router.classifier"))
    experts = tuple(t for t in routed.tensors if t.part == "experts")
    router = (
        *linear("mlp.router.classifier", count + idle, hidden, "router", "replicated", "router",
                bias=bias),
        Tensor("mlp.router.e_score_correction_bias", count + idle, 1, "router"),
    )  # fmt: skip
    beside = gated_tensors(hidden, dense, "mlps.0", "shared_experts", "shared_experts.")
    first = replace(routed, shared_width=dense, tensors=router + experts + beside)
    second = gated_mlp(hidden, dense, at="mlps.1")
    parts: tuple[FeedForward, ...] = (first, second)
    made = []
    table, extra = _ngram_embedding(config, hidden)
    for number in range(num_layers(config, config.name_of("num_layers", "num_hidden_layers"))):
        for n, part in enumerate(parts):
            own = norms(hidden, f"input_layernorm.{n}", f"post_attention_layernorm.{n}")
            attention = mla(config, at=f"self_attn.{n}")
            made.append(Layer(attention, part, own, number))
    return Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        max_context=config.size("max_position_embeddings"),
        layers=tuple(made),
        outer=(*norms(hidden, "model.norm"), *table, *extra),
        tie_embeddings=config.flag("tie_word_embeddings", False),
    )


def _ngram_embedding(config: Fields, hidden: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Tables of hashed n-grams that add to the embedding (LongCat-Flash-Lite), and their
    projections.

    Shapes: vllm/model_executor/models/longcat_flash_ngram.py.
    """
    if not config.has("ngram_vocab_size_ratio"):
        return (), ()
    count = config.size("emb_split_num") * (config.size("emb_neighbor_num", lo=2) - 1)
    first = round(config.number("ngram_vocab_size_ratio") * config.size("vocab_size"))
    rows = sum(first + 2 * i + 1 for i in range(count))
    width = hidden // count
    at = "model.ngram_embeddings"
    table = (Tensor(f"{at}.embedders", rows, width, "embedding", "rows"),)
    return table, (Tensor(f"{at}.post_projs", hidden, width, "embedding", copies=count),)


def afmoe(config: Fields) -> Decoder:
    """Arcee Trinity: gated attention, a sliding window in three of four layers, four norms."""
    heads, layers = heads_of(config, dim_default=128), num_layers(config)
    every = config.size("global_attn_every_n_layers", default=4)
    slides = windows(config, layers, lambda i: (i + 1) % every != 0)
    gate = linear("self_attn.gate_proj", heads.num * heads.dim, heads.hidden, "attention",
                  "rows", "qkv_proj", units=heads.num)  # fmt: skip

    @cache
    def attention(window: int) -> Attention:
        made = gqa_attention(heads, qk_norm=QkNorm(), window=window)
        return replace(made, tensors=made.tensors + gate)

    count, top_k = experts_of(config, "num_experts")
    width = config.size("moe_intermediate_size")
    shared = config.size("num_shared_experts", default=0, lo=0, hi=MAX_EXPERTS)
    sparse = moe(
        heads.hidden,
        Experts(count, top_k, width),
        router=Router("router.gate", correction="expert_bias"),
        shared=Shared(shared * width),
    )
    dense = gated_mlp(heads.hidden, config.size("intermediate_size"))
    first = config.size("num_dense_layers", default=1, lo=0)
    beside = norms(heads.hidden, *PRE_NORMS, "pre_mlp_layernorm", "post_mlp_layernorm")
    return decoder(
        config,
        lambda i: attention(slides[i]),
        lambda i: sparse if i >= first else dense,
        layer_norms=beside,
    )


def laguna(config: Fields) -> Decoder:
    """Poolside Laguna: one gate per head, one shared expert."""
    heads = heads_of(config, dim_default=128)
    slides = windows(config, num_layers(config), lambda _: False)
    gate = linear("self_attn.g_proj", heads.num, heads.hidden, "attention", "rows", "g_proj",
                  units=heads.num)  # fmt: skip
    gated = config.flag("gating", True)

    @cache
    def attention(window: int) -> Attention:
        made = gqa_attention(heads, qk_norm=QkNorm(), window=window)
        return replace(made, tensors=made.tensors + gate) if gated else made

    count, top_k = experts_of(config, "num_experts")
    sparse = moe(
        heads.hidden,
        Experts(count, top_k, config.size("moe_intermediate_size")),
        router=CORRECTED,
        shared=Shared(config.size("shared_expert_intermediate_size", default=512, lo=0)),
    )
    dense = gated_mlp(heads.hidden, config.size("intermediate_size"))
    routed = sparse_layers(config, num_layers(config), 1)
    return decoder(config, lambda i: attention(slides[i]), lambda i: sparse if routed[i] else dense)


def axk1(config: Fields) -> Decoder:
    """A.X-K1: DeepSeek-V3 with one more norm after the MLP."""
    attention = mla(config, bias=config.flag("attention_bias", False))
    beside = norms(config.size("hidden_size"), *PRE_NORMS, "mlp.post_mlp_layernorm")
    experts = deepseek_moe(config, correction_bias=True, dense_layers=1)
    return decoder(config, lambda _: attention, experts, layer_norms=beside)
