"""Mixtures of experts that differ from Mixtral in names, routers and norms."""

from __future__ import annotations

from functools import cache

from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward, Moe
from shardwise.architecture.fields import MAX_EXPERTS, Fields
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    QkNorm,
    fused,
    gqa_attention,
    heads_of,
    with_gate,
)
from shardwise.architecture.reading.common import decoder, num_layers, uniform, windows
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, Layer, linear, norms
from shardwise.architecture.reading.mlps import (
    W123,
    Experts,
    MlpNames,
    Router,
    Shared,
    experts_of,
    gated_mlp,
    gated_tensors,
    moe,
)
from shardwise.architecture.tensor import Tensor


def olmoe(config: Fields) -> Decoder:
    """OLMoE: experts in every layer, norms over all heads of queries and keys."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    attention = gqa_attention(
        heads, Projections(bias=bias, o_bias=bias), qk_norm=QkNorm(over_all=True)
    )
    count, top_k = experts_of(config, "num_experts")
    sparse = moe(heads.hidden, Experts(count, top_k, config.size("intermediate_size")))
    return uniform(config, attention, sparse)


def flex_olmo(config: Fields) -> Decoder:
    """FlexOlmo: OLMoE with OLMo 2's norms."""
    read = olmoe(config)
    beside = norms(read.hidden_size, "post_attention_layernorm", "post_feedforward_layernorm")
    return replace(read, layers=tuple(replace(layer, norms=beside) for layer in read.layers))


def phimoe(config: Fields) -> Decoder:
    """Phi-3.5-MoE: Mixtral's experts, with biases and LayerNorm."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    slides = windows(config, num_layers(config), lambda _: True)
    projections = Projections(bias=bias, o_bias=bias)
    attention = cache(lambda window: gqa_attention(heads, projections, window=window))
    count, top_k = experts_of(config, "num_local_experts")
    experts = Experts(count, top_k, config.size("intermediate_size"), W123)
    sparse = moe(heads.hidden, experts, at="block_sparse_moe")
    read = decoder(
        config,
        lambda i: attention(slides[i]),
        lambda _: sparse,
        layer_norms=norms(heads.hidden, *PRE_NORMS, bias=True),
        final_norm=norms(heads.hidden, "model.norm", bias=True),
    )
    return replace(read, lm_head_bias=config.flag("lm_head_bias", False))


_GRANITE = MlpNames("input_linear", "input_linear", "output_linear")


def granite_experts(config: Fields) -> FeedForward:
    """Granite's experts with a shared MLP, or only this MLP."""
    hidden = config.size("hidden_size")
    shared = config.size("shared_intermediate_size", default=0, lo=0)
    count = config.size("num_local_experts", default=8, lo=0, hi=MAX_EXPERTS)
    if not count:
        config.has("num_experts_per_tok")
        return gated_mlp(hidden, shared, at="shared_mlp", names=_GRANITE)
    experts, top_k = experts_of(config, config.name_of("num_local_experts"))
    sparse = moe(
        hidden,
        Experts(experts, top_k, config.size("intermediate_size"), _GRANITE),
        router=Router("router.layer"),
        at="block_sparse_moe",
    )
    if not shared:
        return sparse
    # the checkpoint stores it next to the experts, not among them
    beside = gated_tensors(
        hidden, shared, "shared_mlp", "shared_experts", "shared_experts.", names=_GRANITE
    )
    return replace(sparse, shared_width=shared, tensors=sparse.tensors + beside)


def granitemoe(config: Fields) -> Decoder:
    """Granite MoE: experts in every layer, stored fused."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    return uniform(config, attention, granite_experts(config))


def granitemoe_swa(config: Fields) -> Decoder:
    """Granite MoE with sliding-window layers and a shared expert."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    slides = windows(config, num_layers(config), lambda i: (i + 1) % 4 != 0)
    projections = Projections(bias=bias, o_bias=bias)
    attention = cache(lambda window: gqa_attention(heads, projections, window=window, sinks=True))
    sparse = granite_experts(config)
    return decoder(config, lambda i: attention(slides[i]), lambda _: sparse)


def hunyuan_moe(config: Fields) -> Decoder:
    """Hunyuan-A13B and -Large: sizes of experts as one number, or one per layer."""
    heads, layers = heads_of(config, dim="attention_head_dim" if config.has("attention_head_dim")
                             else "head_dim"), num_layers(config)  # fmt: skip
    bias = config.flag("attention_bias", False)
    used = config.flag("use_qk_norm", True)
    qk_norm = QkNorm(q="query_layernorm", k="key_layernorm") if used else None
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias), qk_norm=qk_norm)
    experts = config.per_layer("num_experts", layers)
    top_k = config.per_layer("moe_topk", layers, 1)
    shared = config.per_layer("num_shared_expert", layers, 1)
    wide = config.size("intermediate_size")
    width = config.per_layer("moe_intermediate_size", layers, wide)
    skipped = config.size("moe_layer_num_skipped", default=0, lo=0)

    @cache
    def sparse(count: int, chosen: int, size: int, beside: int) -> FeedForward:
        if count <= 1:
            return gated_mlp(heads.hidden, wide)
        if not 0 < chosen <= count:
            raise config.bad("moe_topk", f"at most the {count} experts")
        return moe(
            heads.hidden,
            Experts(count, chosen, size),
            router=Router("gate.wg"),
            shared=Shared(beside * size, "shared_mlp"),
        )

    return decoder(
        config,
        lambda _: attention,
        lambda i: sparse(experts[i] if i >= skipped else 1, top_k[i], width[i], shared[i]),
    )


def dbrx(config: Fields) -> Decoder:
    """DBRX: fused QKV and experts stored as one tensor per projection."""
    hidden, count = config.size("d_model"), config.size("n_heads")
    options, experts = config.object("attn_config"), config.object("ffn_config")
    kv = options.size("kv_n_heads", default=1)
    if count % kv:
        raise options.bad("kv_n_heads", f"a divisor of the {count} attention heads")
    at = "norm_attn_norm.attn"
    attention = gqa_attention(
        Heads(hidden, count, kv, hidden // count), fused("Wqkv", "out_proj", at=at)
    )
    number, top_k = experts_of(experts, "moe_num_experts", "moe_top_k")
    sparse = moe(
        hidden,
        Experts(number, top_k, experts.size("ffn_hidden_size"), MlpNames("w1", "v1", "w2")),
        router=Router("router.layer"),
        at="ffn",
    )
    layer = Layer(
        attention, sparse, norms(hidden, "norm_attn_norm.norm_1", "norm_attn_norm.norm_2")
    )
    return Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        max_context=config.size("max_seq_len"),
        layers=(layer,) * num_layers(config, "n_layers"),
        outer=norms(hidden, "transformer.norm_f"),
        tie_embeddings=config.flag("tie_word_embeddings", False),
        prefix="transformer.blocks",
        embedding="transformer.wte",
    )


def grok1(config: Fields) -> Decoder:
    """Grok 1 and 2. Grok 2 has a dense MLP in parallel with the experts."""
    heads = heads_of(config)
    attention = gqa_attention(heads, Projections(at="attn"))
    count, top_k = experts_of(config, config.name_of("num_experts", "num_local_experts"))
    width = config.size(config.name_of("moe_intermediate_size", "intermediate_size"))
    names = MlpNames("linear", "linear_v", "linear_1")
    sparse = moe(heads.hidden, Experts(count, top_k, width, names), at="moe_block")
    if config.flag("residual_moe", False):
        dense = config.size("intermediate_size")
        beside = gated_tensors(heads.hidden, dense, "mlp", "shared_experts", "shared_experts.")
        sparse = replace(sparse, shared_width=dense, tensors=sparse.tensors + beside)
    around = norms(heads.hidden, "pre_attn_norm", "post_attn_norm", "pre_moe_norm",
                   "post_moe_norm")  # fmt: skip
    # Grok 2's file has the model_type of another class, whose head is not tied
    tied = config.text("model_type", "") != "git"
    read = uniform(config, attention, sparse, layer_norms=around, tie=tied)
    return replace(read, prefix="transformer.decoder_layer", embedding="transformer.in_out_embed")


def arctic(config: Fields) -> Decoder:
    """Every n-th layer has experts, in parallel with a dense MLP of the hidden size."""
    heads, layers = heads_of(config), num_layers(config)
    step = config.size("moe_layer_frequency", default=2)
    residual = config.flag("use_residual", True)
    width = config.size("intermediate_size")
    experts, top_k = experts_of(config, "num_local_experts")
    sparse = moe(heads.hidden, Experts(experts, top_k, width, W123), at="block_sparse_moe")
    beside: tuple[Tensor, ...] = ()
    if residual:
        beside = norms(heads.hidden, "residual_layernorm")
        dense = gated_tensors(
            heads.hidden, heads.hidden, "residual_mlp", "shared_experts", "shared_experts.",
            names=W123,
        )  # fmt: skip
        sparse = replace(sparse, shared_width=heads.hidden, tensors=sparse.tensors + dense)
    mlp = gated_mlp(heads.hidden, width, at="block_sparse_moe.mlp", names=W123)
    routed = [(i + 1) % step == 0 for i in range(layers)]
    plain, attention = norms(heads.hidden, *PRE_NORMS), gqa_attention(heads)
    return decoder(
        config,
        lambda _: attention,
        lambda i: sparse if routed[i] else mlp,
        layer_norms=lambda i: plain + beside if routed[i] else plain,
    )


def mellum(config: Fields) -> Decoder:
    """Mellum MoE: three layers of four have a sliding window."""
    heads = heads_of(config, dim_default=128)
    slides = windows(config, num_layers(config), lambda i: (i + 1) % 4 != 0)
    attention = cache(lambda window: gqa_attention(heads, qk_norm=QkNorm(), window=window))
    count, top_k = experts_of(config, config.name_of("num_local_experts", "num_experts"))
    sparse: Moe = moe(heads.hidden, Experts(count, top_k, config.size("moe_intermediate_size")))
    return decoder(config, lambda i: attention(slides[i]), lambda _: sparse)


def cohere2_moe(config: Fields) -> Decoder:
    """Command A MoE: most layers have a sliding window; experts after the first layers."""
    heads, layers = heads_of(config, dim_default=128), num_layers(config)
    bias = config.flag("attention_bias", False)
    pattern = config.size("sliding_window_pattern", default=4)
    slides = windows(config, layers, lambda i: (i + 1) % pattern != 0)
    projections = Projections(bias=bias, o_bias=bias)
    attention = cache(lambda window: gqa_attention(heads, projections, window=window))
    width = config.size("intermediate_size")
    count, top_k = experts_of(config, "num_experts")
    shared = config.size("num_shared_experts", default=0, lo=0, hi=MAX_EXPERTS)
    sparse = moe(heads.hidden, Experts(count, top_k, width), shared=Shared(shared * width))
    first = config.size("first_k_dense_replace", default=0, lo=0)
    dense_width = config.size("prefix_dense_intermediate_size", default=width)
    dense = gated_mlp(heads.hidden, dense_width)
    return decoder(
        config,
        lambda i: attention(slides[i]),
        lambda i: sparse if i >= first else dense,
        layer_norms=norms(heads.hidden, "input_layernorm"),
        tie=True,
    )


def klear(config: Fields) -> Decoder:
    """Klear: experts in most layers, and a weight of the shared ones from the input."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    projections = Projections(bias=bias, o_bias=bias)
    attention = gqa_attention(heads, projections, qk_norm=QkNorm())
    count, top_k = experts_of(config, "num_experts")
    width = config.size("moe_intermediate_size")
    shared = config.size("n_shared_experts", default=1, lo=0, hi=MAX_EXPERTS)
    weighing = linear(
        "mlp.coefficient", 2, heads.hidden, "router", "replicated", "shared_expert_gate", bias=True
    )
    sparse = moe(
        heads.hidden,
        Experts(count, top_k, width),
        router=Router(correction="gate.e_score_correction_bias"),
        shared=Shared(shared * width) if shared else None,
        extra=weighing if shared else (),
    )
    dense = gated_mlp(heads.hidden, config.size("intermediate_size"))
    alone, step = (
        config.items("mlp_only_layers", int),
        config.size("decoder_sparse_step", default=1),
    )
    return decoder(
        config,
        lambda _: attention,
        lambda i: dense if i in alone or (i + 1) % step else sparse,
    )


def k2_horizon(config: Fields) -> Decoder:
    """K2 Horizon: dense first layers, then routed and shared experts; an optional output gate.

    Models whose values come from routed experts (MoVA) are not supported.
    """
    for name in ("mova_num_experts", "num_values"):
        if config.size(name, default=0, lo=0):
            raise config.bad(name, "0: values from routed experts are not supported")
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    qk_norm = QkNorm(over_all=True) if config.flag("query_key_norm", False) else None
    made = gqa_attention(heads, Projections(bias=bias, o_bias=bias), qk_norm=qk_norm)
    if config.get("attention_gate_func") or config.flag("apply_attn_gate", False):
        made = with_gate(made, heads)
    dense = gated_mlp(heads.hidden, config.size("intermediate_size"))
    if not config.size("num_experts", default=0, lo=0):
        return decoder(config, lambda _: made, lambda _: dense)
    count, top_k = experts_of(config, "num_experts")
    width = config.size("moe_intermediate_size")
    shared = config.size("num_shared_experts", default=0, lo=0, hi=MAX_EXPERTS)
    sparse = moe(
        heads.hidden,
        Experts(count, top_k, width),
        router=Router(correction="gate.bias" if config.flag("moe_gate_bias", False) else ""),
        shared=Shared(shared * width) if shared else None,
    )
    alone, step = (
        config.items("mlp_only_layers", int),
        config.size("decoder_sparse_step", default=1),
    )
    return decoder(
        config, lambda _: made, lambda i: dense if i in alone or (i + 1) % step else sparse
    )
