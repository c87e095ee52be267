"""Dense families that differ from Llama in biases, norms and names."""

from __future__ import annotations

from functools import cache

from msgspec.structs import replace

from shardwise.architecture.fields import MAX_EXPERTS, Fields
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    QkNorm,
    fused,
    gqa_attention,
    heads_of,
    mla,
)
from shardwise.architecture.reading.common import decoder, max_context, num_layers, uniform, windows
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, norms
from shardwise.architecture.reading.families.llama import llama
from shardwise.architecture.reading.mlps import (
    FUSED,
    W123,
    Experts,
    Router,
    Shared,
    experts_of,
    gated_mlp,
    moe,
    plain_mlp,
)
from shardwise.architecture.tensor import Tensor

_POST = ("post_attention_layernorm", "post_feedforward_layernorm")


def internlm(config: Fields) -> Decoder:
    """InternLM: Llama with biases on all attention projections by default."""
    heads, bias = heads_of(config), config.flag("bias", True)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    return uniform(config, attention, gated_mlp(heads.hidden, config.size("intermediate_size")))


def internlm2(config: Fields) -> Decoder:
    """InternLM2: fused QKV with its own tensor names."""
    heads, bias = heads_of(config), config.flag("bias", False)
    attention = gqa_attention(heads, fused("wqkv", "wo", at="attention", bias=bias))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"), at="feed_forward", names=W123)
    layer_norms = norms(heads.hidden, "attention_norm", "ffn_norm")
    read = uniform(config, attention, mlp, layer_norms=layer_norms)
    return replace(read, embedding="model.tok_embeddings", head="output")


def internlm3(config: Fields) -> Decoder:
    """InternLM3: Llama with optional biases and stated head sizes."""
    heads, bias = heads_of(config), config.flag("bias", False)
    attention = gqa_attention(heads, Projections(bias=config.flag("qkv_bias", False), o_bias=bias))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"), bias=bias)
    return uniform(config, attention, mlp)


def baichuan(config: Fields) -> Decoder:
    """Baichuan: MHA. The 13B states its context as model_max_length."""
    heads = heads_of(config)
    attention = gqa_attention(heads, fused("W_pack"))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    name = config.name_of("model_max_length", "max_position_embeddings")
    return uniform(config, attention, mlp, context=max_context(config, name))


def qwen(config: Fields) -> Decoder:
    """The first Qwen: two MLPs of half of intermediate_size."""
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads")
    heads = Heads(hidden, count, count, config.size("kv_channels", default=hidden // count))
    no_bias = config.flag("no_bias", True)
    attention = gqa_attention(
        heads, replace(fused("c_attn", "c_proj", at="attn", bias=not no_bias), bias=True)
    )
    mlp = gated_mlp(hidden, config.size("intermediate_size") // 2, bias=not no_bias)
    longest = config.size("seq_length", default=config.size("max_position_embeddings"))
    read = uniform(
        config,
        attention,
        mlp,
        layer_norms=norms(hidden, "ln_1", "ln_2"),
        final_norm=norms(hidden, "transformer.ln_f"),
        context=longest,
    )
    return replace(read, prefix="transformer.h", embedding="transformer.wte")


def stablelm(config: Fields) -> Decoder:
    """StableLM: optional QKV biases and norms of queries and keys; norms with biases."""
    heads = heads_of(config)
    qk_norm = QkNorm(over_all=True, q="q_layernorm", k="k_layernorm")
    attention = gqa_attention(
        heads,
        Projections(bias=config.flag("use_qkv_bias", False)),
        qk_norm=qk_norm if config.flag("qk_layernorm", False) else None,
    )
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    used = PRE_NORMS[:1] if config.flag("use_parallel_residual", False) else PRE_NORMS
    return uniform(
        config,
        attention,
        mlp,
        layer_norms=norms(heads.hidden, *used, bias=True),
        final_norm=norms(heads.hidden, "model.norm", bias=True),
    )


def starcoder2(config: Fields) -> Decoder:
    """StarCoder2: sliding windows and a plain MLP with biases."""
    heads, bias = heads_of(config, kv_default=2), config.flag("use_bias", True)
    slides = windows(config, num_layers(config), lambda _: True)
    projections = Projections(bias=bias, o_bias=bias)
    attention = cache(lambda window: gqa_attention(heads, projections, window=window))
    mlp = plain_mlp(
        heads.hidden, config.size("intermediate_size"), names=("c_fc", "c_proj"), bias=bias
    )
    return decoder(
        config,
        lambda i: attention(slides[i]),
        lambda _: mlp,
        layer_norms=norms(heads.hidden, *PRE_NORMS, bias=True),
        final_norm=norms(heads.hidden, "model.norm", bias=True),
        tie=True,
    )


def exaone(config: Fields) -> Decoder:
    """EXAONE 3: Llama with its own tensor names."""
    heads = heads_of(config)
    attention = gqa_attention(heads, Projections(at="attn.attention", o="out_proj"))
    names = replace(W123, gate="c_fc_0", up="c_fc_1", down="c_proj")
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"), names=names)
    layers = config.size(config.name_of("num_layers", "num_hidden_layers"))
    read = uniform(
        Fields({**config.values, "num_hidden_layers": layers}, config.where, config.read),
        attention,
        mlp,
        layer_norms=norms(heads.hidden, "ln_1", "ln_2"),
        final_norm=norms(heads.hidden, "transformer.ln_f"),
    )
    return replace(read, prefix="transformer.h", embedding="transformer.wte")


def exaone4(config: Fields) -> Decoder:
    """Norms after each part; three sliding layers of four in the 32B."""
    heads, layers = heads_of(config), num_layers(config)
    pattern = config.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern and set(pattern) <= set("LG"):
        local = [pattern[i % len(pattern)] == "L" for i in range(layers)]
    else:
        step = config.size("sliding_window_pattern", default=4, lo=0)
        local = [bool(step) and (i + 1) % step != 0 for i in range(layers)]
    if layers and local:
        local[-1] = False
    slides = windows(config, layers, lambda i: local[i])
    attention = cache(lambda window: gqa_attention(heads, qk_norm=QkNorm(), window=window))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    layer_norms = norms(heads.hidden, *_POST)
    return decoder(config, lambda i: attention(slides[i]), lambda _: mlp, layer_norms=layer_norms)


def olmo(config: Fields) -> Decoder:
    """Norms without weights."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    return uniform(config, attention, mlp, layer_norms=(), final_norm=())


def olmo2(config: Fields) -> Decoder:
    """OLMo 2: norms after each part, full attention in all layers."""
    return _olmo(config, (0,) * num_layers(config))


def olmo3(config: Fields) -> Decoder:
    """OLMo 3: OLMo 2 in which three layers of four have a sliding window."""
    return _olmo(config, windows(config, num_layers(config), lambda i: (i + 1) % 4 != 0))


def _olmo(config: Fields, slides: tuple[int, ...]) -> Decoder:
    """Norms after each part and over all heads of queries and keys."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    projections = Projections(bias=bias, o_bias=bias)
    attention = cache(
        lambda window: gqa_attention(
            heads, projections, qk_norm=QkNorm(over_all=True), window=window
        )
    )
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    layer_norms = norms(heads.hidden, *_POST)
    return decoder(config, lambda i: attention(slides[i]), lambda _: mlp, layer_norms=layer_norms)


def cohere(config: Fields) -> Decoder:
    """Attention and MLP in parallel after one norm."""
    return _cohere(config, (0,) * num_layers(config), qk_norm=config.flag("use_qk_norm", False))


def cohere2(config: Fields) -> Decoder:
    """Command R7B: attention and MLP in parallel; most layers have a sliding window."""
    pattern = config.size("sliding_window_pattern", default=4)
    slides = windows(config, num_layers(config), lambda i: (i + 1) % pattern != 0)
    return _cohere(config, slides, qk_norm=False)


def _cohere(config: Fields, slides: tuple[int, ...], *, qk_norm: bool) -> Decoder:
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    projections = Projections(bias=bias, o_bias=bias)
    kind = QkNorm(over_all=True) if qk_norm else None
    attention = cache(lambda window: gqa_attention(heads, projections, qk_norm=kind, window=window))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    return decoder(
        config,
        lambda i: attention(slides[i]),
        lambda _: mlp,
        layer_norms=norms(heads.hidden, "input_layernorm"),
        tie=True,
        context=max_context(config, config.name_of("max_position_embeddings", "model_max_length")),
    )


def seed_oss(config: Fields) -> Decoder:
    """Seed-OSS: Llama with optional biases on QKV and on the output."""
    heads = heads_of(config, dim_default=128)
    projections = Projections(
        bias=config.flag("attention_bias", True), o_bias=config.flag("attention_out_bias", False)
    )
    mlp = gated_mlp(
        heads.hidden, config.size("intermediate_size"), bias=config.flag("mlp_bias", False)
    )
    return uniform(config, gqa_attention(heads, projections), mlp)


def arcee(config: Fields) -> Decoder:
    """Llama with a plain MLP (Arcee AFM, and Nemotron 4 with norms that have biases)."""
    return _plain(config, norm_bias=False)


def nemotron(config: Fields) -> Decoder:
    """Dense Nemotron: a plain MLP and norms with biases."""
    return _plain(config, norm_bias=True)


def jais2(config: Fields) -> Decoder:
    """Jais 2: Nemotron's layers with biases on all projections."""
    return _plain(config, norm_bias=True, bias=True)


def _plain(config: Fields, *, norm_bias: bool, bias: bool = False) -> Decoder:
    heads = heads_of(config)
    bias = config.flag("attention_bias", bias)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    mlp_bias = config.flag("mlp_bias", bias)
    mlp = plain_mlp(heads.hidden, config.size("intermediate_size"), bias=mlp_bias)
    return uniform(
        config,
        attention,
        mlp,
        layer_norms=norms(heads.hidden, *PRE_NORMS, bias=norm_bias),
        final_norm=norms(heads.hidden, "model.norm", bias=norm_bias),
    )


def apertus(config: Fields) -> Decoder:
    """A plain MLP whose activation has two parameters, norms of queries and keys."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias), qk_norm=QkNorm())
    mlp = plain_mlp(heads.hidden, config.size("intermediate_size"))
    beside = norms(heads.hidden, "attention_layernorm", "feedforward_layernorm")
    beside += (Tensor("mlp.act_fn.alpha", 2, 1, "norm"),)
    return uniform(config, attention, mlp, layer_norms=beside)


def smollm3(config: Fields) -> Decoder:
    """Llama in which every fourth layer has no positional encoding."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    used = config.flag("use_sliding_window", False)
    slides = windows(config, num_layers(config), lambda _: used) if used else ()
    projections = Projections(bias=bias, o_bias=bias)
    attention = cache(lambda window: gqa_attention(heads, projections, window=window))
    mlp = gated_mlp(
        heads.hidden, config.size("intermediate_size"), bias=config.flag("mlp_bias", False)
    )
    return decoder(config, lambda i: attention(slides[i] if slides else 0), lambda _: mlp, tie=True)


def tied_llama(config: Fields) -> Decoder:
    """Llama with tied embeddings by default (MiniCPM, Ernie 4.5, Granite)."""
    heads = heads_of(config)
    bias = config.flag(config.name_of("attention_bias", "use_bias"), False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    mlp_bias = config.flag(config.name_of("mlp_bias", "use_bias"), False)
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"), bias=mlp_bias)
    return uniform(config, attention, mlp, tie=True)


def xverse(config: Fields) -> Decoder:
    """XVERSE: Llama; the MoE has small experts in each layer and shared ones."""
    if not config.has("num_experts"):
        return llama(config)
    heads = heads_of(config)
    count, top_k = experts_of(config, "num_experts", "moe_top_k")
    width = config.size("intermediate_size")
    shared = config.size("num_shared_experts", default=0, lo=0, hi=MAX_EXPERTS)
    experts = moe(
        heads.hidden,
        Experts(count, top_k, width),
        router=Router("router"),
        shared=Shared(shared * width) if shared else None,
    )
    return uniform(config, gqa_attention(heads), experts)


def step1(config: Fields) -> Decoder:
    """Step 1: Llama with ALiBi instead of rotary positions."""
    groups = config.name_of("num_attention_groups", "num_key_value_heads")
    heads = heads_of(config, kv=groups, kv_default=1)
    bias = config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    mlp_bias = config.flag("mlp_bias", False)
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"), bias=mlp_bias)
    longest = config.name_of("max_position_embeddings", "max_seq_len")
    return uniform(config, attention, mlp, tie=True, context=max_context(config, longest))


def minicpm(config: Fields) -> Decoder:
    """MiniCPM: dense, or with experts of the MLP's size in each layer (MiniCPM-MoE-8x2B)."""
    if not config.has("num_experts") or config.size("num_experts", lo=0) == 0:
        return tied_llama(config)
    count, top_k = experts_of(config, "num_experts")
    heads = heads_of(config)
    experts = Experts(count, top_k, config.size("intermediate_size"), names=W123)
    return uniform(config, gqa_attention(heads), moe(heads.hidden, experts), tie=True)


def telechat2(config: Fields) -> Decoder:
    """TeleChat 1 and 2: keys and values in one tensor; biases on both output projections only."""
    config = config.with_defaults(
        num_hidden_layers=config.get("n_layer"),
        num_attention_heads=config.get("n_head"),
        intermediate_size=config.get("ffn_hidden_size"),
    )
    heads = heads_of(config)
    names = Projections("self_attention", "query", "key_value", "key_value", "dense", o_bias=True)
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    bias = Tensor("mlp.down_proj.bias", heads.hidden, 1, "mlp")
    longest = config.name_of("max_position_embeddings", "seq_length", "training_seqlen")
    extra = norms(heads.hidden, "transformer.word_embeddings_layernorm")
    embed_norm = config.flag("embed_layernorm", False)
    read = uniform(
        config,
        gqa_attention(heads, names),
        replace(mlp, tensors=(*mlp.tensors, bias)),
        final_norm=norms(heads.hidden, "transformer.ln_f") + (extra if embed_norm else ()),
        tie=True,
        context=max_context(config, longest),
    )
    return replace(read, prefix="transformer.h", embedding="transformer.word_embeddings")


def granite_swa(config: Fields) -> Decoder:
    """Granite with sliding-window layers."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    slides = windows(config, num_layers(config), lambda i: (i + 1) % 4 != 0)
    projections = Projections(bias=bias, o_bias=bias)
    attention = cache(lambda window: gqa_attention(heads, projections, window=window, sinks=True))
    mlp = gated_mlp(
        heads.hidden, config.size("intermediate_size"), bias=config.flag("mlp_bias", False)
    )
    return decoder(config, lambda i: attention(slides[i]), lambda _: mlp, tie=True)


def minicpm3(config: Fields) -> Decoder:
    """MLA in a dense model (MiniCPM3, Youtu)."""
    values = dict(config.values)
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    values.setdefault("v_head_dim", hidden // heads)
    attention = mla(
        Fields(values, config.where, config.read), bias=config.flag("attention_bias", False)
    )
    mlp = gated_mlp(hidden, config.size("intermediate_size"))
    return uniform(config, attention, mlp, tie=True)


def hunyuan(config: Fields) -> Decoder:
    """Hunyuan dense: Llama with norms of queries and keys."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    used = config.flag("use_qk_norm", True)
    qk_norm = QkNorm(q="query_layernorm", k="key_layernorm") if used else None
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias), qk_norm=qk_norm)
    mlp = gated_mlp(
        heads.hidden, config.size("intermediate_size"), bias=config.flag("mlp_bias", False)
    )
    return uniform(config, attention, mlp)


def mimo(config: Fields) -> Decoder:
    """Qwen2 with a draft layer."""
    from shardwise.architecture.reading.families.deepseek import with_mtp
    from shardwise.architecture.reading.families.llama import qwen2

    return with_mtp(config, qwen2(config))


def cwm(config: Fields) -> Decoder:
    """CWM: Llama in which three layers of four have a sliding window."""
    heads = heads_of(config, dim_default=128)
    slides = windows(config, num_layers(config), lambda i: i % 4 != 0)
    attention = cache(lambda window: gqa_attention(heads, window=window))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    return decoder(config, lambda i: attention(slides[i]), lambda _: mlp)


def vaultgemma(config: Fields) -> Decoder:
    """VaultGemma: Gemma 2 without the norms after attention and MLP."""
    heads = heads_of(config, dim_default=256)
    slides = windows(config, num_layers(config), lambda i: i % 2 == 0)
    attention = cache(lambda window: gqa_attention(heads, window=window))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    beside = norms(heads.hidden, "input_layernorm", "pre_feedforward_layernorm")
    return decoder(
        config, lambda i: attention(slides[i]), lambda _: mlp, layer_norms=beside, tie=True
    )


def bitnet(config: Fields) -> Decoder:
    """BitNet: an additional norm within attention and within the MLP."""
    heads = heads_of(config)
    beside = norms(heads.hidden, *PRE_NORMS, "self_attn.attn_sub_norm")
    beside += norms(config.size("intermediate_size"), "mlp.ffn_sub_norm")
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    return uniform(config, gqa_attention(heads), mlp, layer_norms=beside, tie=True)


def phi3(config: Fields) -> Decoder:
    """Phi-3: Llama with fused projections in the checkpoint."""
    heads = heads_of(config)
    slides = windows(config, num_layers(config), lambda _: True)
    projections = fused("qkv_proj")
    attention = cache(lambda window: gqa_attention(heads, projections, window=window))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"), names=FUSED)
    return decoder(config, lambda i: attention(slides[i]), lambda _: mlp)


def phi4_multimodal(config: Fields) -> Decoder:
    """Text model of Phi-4 multimodal: Phi-3 with tied embeddings."""
    return replace(phi3(config), tie_embeddings=config.flag("tie_word_embeddings", True))


def phi(config: Fields) -> Decoder:
    """Phi 1 and 2: attention and MLP in parallel, a head with a bias."""
    heads = heads_of(config)
    projections = Projections(o="dense", bias=True, o_bias=True)
    kind = QkNorm(bias=True, q="q_layernorm", k="k_layernorm")
    qk_norm = kind if config.flag("qk_layernorm", False) else None
    attention = gqa_attention(heads, projections, qk_norm=qk_norm)
    mlp = plain_mlp(heads.hidden, config.size("intermediate_size"), names=("fc1", "fc2"), bias=True)
    read = uniform(
        config,
        attention,
        mlp,
        layer_norms=norms(heads.hidden, "input_layernorm", bias=True),
        final_norm=norms(heads.hidden, "model.final_layernorm", bias=True),
    )
    return replace(read, lm_head_bias=True)


def phi3small(config: Fields) -> Decoder:
    """Layers alternate between dense and block-sparse attention, with the same cache."""
    heads = heads_of(config)
    projections = Projections("self_attn", *("query_key_value",) * 3, "dense", True, True)
    width = config.size("ff_intermediate_size")
    mlp = gated_mlp(heads.hidden, width, names=FUSED, bias=True)
    return uniform(
        config,
        gqa_attention(heads, projections),
        mlp,
        layer_norms=norms(heads.hidden, *PRE_NORMS, bias=True),
        final_norm=norms(heads.hidden, "model.final_layernorm", bias=True),
        tie=True,
    )
