"""Mixtures of experts that differ from Mixtral and DeepSeek in names, routers and norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from shardwise.architecture.feed_forward import FeedForward, Moe
from shardwise.architecture.fields import MAX_EXPERTS, Fields
from shardwise.architecture.mixers import Attention
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    QkNorm,
    fused,
    gqa_attention,
    heads_of,
    mla,
)
from shardwise.architecture.reading.common import decoder, num_layers, uniform, windows
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, Layer, linear, norms
from shardwise.architecture.reading.families.deepseek import (
    deepseek_moe,
    sparse_layers,
    with_mtp,
)
from shardwise.architecture.reading.mlps import (
    CORRECTED,
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
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    attention = gqa_attention(
        heads, Projections(bias=bias, o_bias=bias), qk_norm=QkNorm(over_all=True)
    )
    count, top_k = experts_of(config, "num_experts")
    sparse = moe(heads.hidden, Experts(count, top_k, config.size("intermediate_size")))
    return uniform(config, attention, sparse)


def flex_olmo(config: Fields) -> Decoder:
    read = olmoe(config)
    beside = norms(read.hidden_size, "post_attention_layernorm", "post_feedforward_layernorm")
    return replace(read, layers=tuple(replace(layer, norms=beside) for layer in read.layers))


def phimoe(config: Fields) -> Decoder:
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
    """Granite's experts, the shared MLP beside them, or that MLP alone."""
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
    # it stands beside the experts, not among them
    beside = gated_tensors(
        hidden, shared, "shared_mlp", "shared_experts", "shared_experts.", names=_GRANITE
    )
    return replace(sparse, shared_width=shared, tensors=sparse.tensors + beside)


def granitemoe(config: Fields) -> Decoder:
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    return uniform(config, attention, granite_experts(config))


def granitemoe_swa(config: Fields) -> Decoder:
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    slides = windows(config, num_layers(config), lambda i: (i + 1) % 4 != 0)
    projections = Projections(bias=bias, o_bias=bias)
    attention = cache(lambda window: gqa_attention(heads, projections, window=window, sinks=True))
    sparse = granite_experts(config)
    return decoder(config, lambda i: attention(slides[i]), lambda _: sparse)


def dots1(config: Fields) -> Decoder:
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
    heads, bias = heads_of(config, dim_default=128), config.flag("attention_bias", False)
    qk_norm = QkNorm() if config.flag("use_qk_norm", False) else None
    attention = gqa_attention(heads, Projections(bias=bias), qk_norm=qk_norm)
    return decoder(config, lambda _: attention, deepseek_moe(config, correction_bias=True))


def hy_v3(config: Fields) -> Decoder:
    """Hunyuan 3: DeepSeek's experts behind attention with normed queries and keys."""
    heads, bias = heads_of(config, dim_default=128), config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias), qk_norm=QkNorm())
    experts = deepseek_moe(config, correction_bias=True, dense_layers=1)
    return with_mtp(config, decoder(config, lambda _: attention, experts))


def exaone_moe(config: Fields) -> Decoder:
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
    heads, bias = heads_of(config), config.flag("use_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    layers = num_layers(config)
    first = config.size("moe_layer_start_index", default=1, lo=0)
    last = config.size("moe_layer_end_index", default=layers - 1, lo=-1)
    last = layers - 1 if last < 0 else last
    step = config.size("moe_layer_interval", default=1)
    count, top_k = experts_of(config, "moe_num_experts", "moe_k")
    width = config.size("moe_intermediate_size")
    shared = config.size("moe_num_shared_experts", default=0, lo=0, hi=MAX_EXPERTS)
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
    read = decoder(config, lambda _: attention, _bailing_experts(config))
    return with_mtp(config, replace(read, embedding="model.word_embeddings"))


def _bailing_experts(config: Fields) -> Callable[[int], FeedForward]:
    shared_width = config.size("moe_shared_expert_intermediate_size", default=0, lo=0)
    config.has("moe_router_enable_expert_bias")
    corrected = config.flag("moe_router_enable_expert_bias", False)
    experts = deepseek_moe(config, correction_bias=corrected)
    width = config.size("moe_intermediate_size")
    if shared_width and shared_width != width:
        raise config.bad("moe_shared_expert_intermediate_size", f"moe_intermediate_size {width}")
    return experts


def hunyuan_moe(config: Fields) -> Decoder:
    """Hunyuan-A13B and -Large: sizes of experts as one number or one for each layer."""
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
    heads = heads_of(config)
    attention = gqa_attention(heads, Projections(at="attn"))
    count, top_k = experts_of(config, config.name_of("num_experts", "num_local_experts"))
    width = config.size(config.name_of("moe_intermediate_size", "intermediate_size"))
    names = MlpNames("linear", "linear_v", "linear_1")
    sparse = moe(heads.hidden, Experts(count, top_k, width, names), at="moe_block")
    beside = norms(heads.hidden, "pre_attn_norm", "post_attn_norm", "pre_moe_norm",
                   "post_moe_norm")  # fmt: skip
    read = uniform(config, attention, sparse, layer_norms=beside, tie=True)
    return replace(read, prefix="transformer.decoder_layer", embedding="transformer.in_out_embed")


def arctic(config: Fields) -> Decoder:
    """Every n-th layer has experts, with a dense MLP of the hidden size beside them."""
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


def longcat_flash(config: Fields) -> Decoder:
    """Two attentions and two MLPs in a layer, with experts beside the first pair.

    Each pair is a layer here, so that there are twice as many. Experts that only pass their input
    on have no weights; the router sees them.
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
        outer=norms(hidden, "model.norm"),
        tie_embeddings=config.flag("tie_word_embeddings", False),
    )


def mimo_v2(config: Fields) -> Decoder:
    """MiMo-V2-Flash: keys wider than values, sliding layers with sinks and more KV heads."""
    layers = num_layers(config)
    full, sliding = _mimo_heads(config)
    pattern = config.items("hybrid_layer_pattern", int)
    local = [bool(n) for n in pattern] or [i > 0 and (i + 1) % 6 != 0 for i in range(layers)]
    if len(local) != layers:
        raise config.bad("hybrid_layer_pattern", f"{layers} times 0 (full) or 1 (sliding)")
    if config.has("sliding_window_size") and not config.has("sliding_window"):
        config = Fields(
            {**config.values, "sliding_window": config.size("sliding_window_size")},
            config.where,
            config.read,
        )
    slides = windows(config, layers, lambda i: local[i])
    bias = config.flag("attention_bias", False)
    sinks = config.flag("add_swa_attention_sink_bias", True)
    full_sinks = config.flag("add_full_attention_sink_bias", False)

    @cache
    def attention(window: int) -> Attention:
        heads = sliding if window else full
        on = sinks if window else full_sinks
        return gqa_attention(heads, Projections(bias=bias), window=window, sinks=on)

    experts = deepseek_moe(config, correction_bias=True, dense_layers=1)
    return decoder(config, lambda i: attention(slides[i]), experts)


def _mimo_heads(config: Fields) -> tuple[Heads, Heads]:
    heads = heads_of(config, dim_default=192)
    heads = replace(heads, v_dim=config.size("v_head_dim", default=128))
    own = replace(
        heads,
        num=config.size("swa_num_attention_heads", default=heads.num),
        kv=config.size("swa_num_key_value_heads", default=heads.kv),
        dim=config.size("swa_head_dim", default=heads.dim),
        v_dim=config.size("swa_v_head_dim", default=heads.value),
    )
    return heads, own


def afmoe(config: Fields) -> Decoder:
    """Arcee Trinity: gated attention that slides in three layers of four, four norms."""
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


def step3_5(config: Fields) -> Decoder:
    """Step 3.5 and 3.7: sliding layers with more heads, a gate for each head."""
    layers, heads = num_layers(config), _step_heads(config)
    kinds = config.items("layer_types", str)[:layers] or ["full_attention"] * layers
    other = config.object("attention_other_setting")
    more = config.size(
        "num_sliding_attention_heads", default=other.size("num_attention_heads", default=heads.num)
    )
    kv = other.size(other.name_of("num_attention_groups", "num_key_value_heads"), default=heads.kv)
    wide = replace(heads, num=more, kv=kv)
    window = config.size("sliding_window", default=512, lo=0)

    @cache
    def attention(kind: str) -> Attention:
        local = kind == "sliding_attention"
        own = wide if local else heads
        made = gqa_attention(own, qk_norm=QkNorm(), window=window if local else 0)
        gate = linear("self_attn.g_proj", own.num, own.hidden, "attention", "rows", "g_proj",
                      units=own.num)  # fmt: skip
        return replace(made, tensors=made.tensors + gate)

    read = decoder(config, lambda i: attention(kinds[i]), _step_experts(config, layers))
    count = config.size("num_nextn_predict_layers", default=0, lo=0, hi=64)
    if not count:
        return read
    drafted = with_mtp(config, read)
    dense = gated_mlp(heads.hidden, config.size("intermediate_size"))
    drafts = tuple(replace(layer, feed_forward=dense) for layer in drafted.drafts)
    return replace(drafted, drafts=drafts)


def _step_heads(config: Fields) -> Heads:
    kv = config.name_of("num_attention_groups", "num_key_value_heads")
    return heads_of(config, kv=kv, dim_default=128)


def _step_experts(config: Fields, layers: int) -> Callable[[int], FeedForward]:
    named = config.get("moe_layers_enum")
    if config.has("mlp_layer_types"):
        routed = sparse_layers(config, layers, 0)
    else:
        entries = named.split(",") if isinstance(named, str) else (named or range(3, layers))
        numbers = {int(n) for n in entries if str(n).strip().isdecimal()}
        routed = [i in numbers for i in range(layers)]
    hidden = config.size("hidden_size")
    count, top_k = experts_of(
        config,
        config.name_of("moe_num_experts", "n_routed_experts"),
        config.name_of("moe_top_k", "num_experts_per_tok"),
    )
    config.has("num_local_experts")
    shared = config.size(config.name_of("share_expert_dim", "share_expert_dims"), default=0, lo=0)
    corrected = config.flag("use_moe_router_bias", True)
    sparse = moe(
        hidden,
        Experts(count, top_k, config.size("moe_intermediate_size"), at="moe"),
        router=Router("moe.gate", correction="moe.router_bias" if corrected else ""),
        shared=Shared(shared, "share_expert") if shared else None,
        at="",
    )
    dense = gated_mlp(hidden, config.size("intermediate_size"))
    return lambda i: sparse if i >= layers or routed[i] else dense


def step3(config: Fields) -> Decoder:
    """Step3: factorized attention, one key for all heads, queries through a small space."""
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    kv, dim = config.size("num_attention_groups", default=1), config.size("head_dim", default=256)
    rank = config.size("share_q_dim", default=2048)
    at = "self_attn"
    own = gqa_attention(Heads(hidden, heads, kv, dim))
    low = (
        *linear(f"{at}.q_proj", rank, hidden, "attention", "replicated", "qkv_proj"),
        *norms(rank, f"{at}.inter_norm"),
        *linear(f"{at}.wq", heads * dim, rank, "attention", "rows", "wq", units=heads),
    )
    attention = replace(own, tensors=low + own.tensors[1:])
    listed = config.get("moe_layers_enum")
    if listed is not None and not isinstance(listed, str):
        raise config.bad("moe_layers_enum", "layer numbers with commas between")
    routed = {int(n) for n in (listed or "").split(",") if n.strip().isdecimal()}
    count, top_k = experts_of(config, "moe_num_experts", "moe_top_k")
    shared = config.size("share_expert_dim", default=0, lo=0)
    sparse = moe(
        hidden,
        Experts(count, top_k, config.size("moe_intermediate_size"), at="moe"),
        router=Router("moe.gate"),
        shared=Shared(shared, "share_expert"),
        at="",
    )
    dense = gated_mlp(hidden, config.size("intermediate_size"))
    if not config.has("max_position_embeddings"):
        length = config.size(config.name_of("max_seq_len", "max_position_embedding"), 65536)
        config = Fields(
            {**config.values, "max_position_embeddings": length}, config.where, config.read
        )
    return decoder(
        config, lambda _: attention, lambda i: sparse if not routed or i in routed else dense
    )


def laguna(config: Fields) -> Decoder:
    """Poolside Laguna: a gate for each head, one shared expert."""
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
        shared=Shared(config.size("shared_expert_intermediate_size", default=0, lo=0)),
    )
    dense = gated_mlp(heads.hidden, config.size("intermediate_size"))
    routed = sparse_layers(config, num_layers(config), 1)
    return decoder(config, lambda i: attention(slides[i]), lambda i: sparse if routed[i] else dense)


def mellum(config: Fields) -> Decoder:
    heads = heads_of(config, dim_default=128)
    slides = windows(config, num_layers(config), lambda i: (i + 1) % 4 != 0)
    attention = cache(lambda window: gqa_attention(heads, qk_norm=QkNorm(), window=window))
    count, top_k = experts_of(config, config.name_of("num_local_experts", "num_experts"))
    sparse: Moe = moe(heads.hidden, Experts(count, top_k, config.size("moe_intermediate_size")))
    return decoder(config, lambda i: attention(slides[i]), lambda _: sparse)


def cohere2_moe(config: Fields) -> Decoder:
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


def axk1(config: Fields) -> Decoder:
    """A.X-K1: DeepSeek-V3 with one more norm behind the MLP."""
    attention = mla(config, bias=config.flag("attention_bias", False))
    beside = norms(config.size("hidden_size"), *PRE_NORMS, "mlp.post_mlp_layernorm")
    experts = deepseek_moe(config, correction_bias=True, dense_layers=1)
    return decoder(config, lambda _: attention, experts, layer_norms=beside)
