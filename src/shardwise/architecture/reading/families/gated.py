"""Gated attention (Beam, Muse), sinks with normalized heads (Flint), layers that run several times
(HRM, Ouro, Nanbeige).

Shapes: the modelling code of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import MAX_LAYERS, Fields
from shardwise.architecture.mixers import Attention
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    QkNorm,
    gqa_attention,
    heads_of,
    with_gate,
)
from shardwise.architecture.reading.common import decoder, max_context, num_layers, windows
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, Layer, linear, norms
from shardwise.architecture.reading.families.deepseek import sparse_layers
from shardwise.architecture.reading.families.llama import qwen_moe
from shardwise.architecture.reading.mlps import CORRECTED, Experts, experts_of, gated_mlp, moe
from shardwise.architecture.tensor import Tensor

_FOUR = (*PRE_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")


def beam(config: Fields) -> Decoder:
    """Reflection Beam: full attention in every sixth layer and the last; dense first layers."""
    config = config.with_defaults(sliding_window=512)
    heads, layers = heads_of(config, dim_default=128), num_layers(config)
    bias = config.flag("attention_bias", False)
    slides = windows(config, layers, lambda i: (i + 1) % 6 != 0 and i != layers - 1)

    @cache
    def attention(window: int) -> Attention:
        made = gqa_attention(
            heads, Projections(bias=bias, o_bias=bias), qk_norm=QkNorm(), window=window
        )
        bias_of_gate = Tensor("self_attn.gate_bias", heads.num, 1, "attention", "rows", heads.num)
        return with_gate(made, heads, extra=(bias_of_gate,))

    count, top_k = experts_of(config, config.name_of("num_experts", "num_local_experts"))
    width = config.size("moe_intermediate_size")
    sparse = moe(heads.hidden, Experts(count, top_k, width), router=CORRECTED)
    dense = gated_mlp(heads.hidden, config.size("intermediate_size"))
    routed = sparse_layers(config, layers, 3)
    return decoder(
        config,
        lambda i: attention(slides[i]),
        lambda i: sparse if routed[i] else dense,
        layer_norms=norms(heads.hidden, *_FOUR),
    )


def flint(config: Fields) -> Decoder:
    """Sinks, norms of queries and keys, a shared expert without a gate."""
    config = config.with_defaults(sliding_window=513)
    heads, layers = heads_of(config, dim_default=128), num_layers(config)
    bias = config.flag("attention_bias", False)
    slides = windows(config, layers, lambda i: not (i < 2 or i % 4 == 1 or i == layers - 1))

    @cache
    def attention(window: int) -> Attention:
        projections = Projections(bias=bias, o_bias=bias)
        return gqa_attention(heads, projections, qk_norm=QkNorm(), window=window, sinks=True)

    if config.get("mlp_only_layers") is None:
        config = Fields({**config.values, "mlp_only_layers": [0, 1]}, config.where, config.read)
    shared = config.size("shared_expert_intermediate_size", default=1024, lo=0)
    return decoder(config, lambda i: attention(slides[i]), qwen_moe(config, shared, weighed=False))


def muse_glimmer(config: Fields) -> Decoder:
    """Muse Glimmer: dense, with norms around each part."""
    heads = heads_of(config, dim_default=128)
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    return _muse(config, heads, lambda _: mlp, norms(heads.hidden, *_FOUR))


def muse_spark(config: Fields) -> Decoder:
    """Experts in a latent space, gates of the residuals instead of a norm behind attention."""
    heads, layers = heads_of(config, dim_default=64), num_layers(config)
    routed = sparse_layers(config.with_defaults(first_k_dense_replace=0), layers, 0)
    sparse = _latent_experts(config, heads.hidden)
    dense = gated_mlp(heads.hidden, config.size("intermediate_size"))
    beside = norms(heads.hidden, "input_layernorm", "pre_feedforward_layernorm",
                   "post_feedforward_layernorm", "post_attention_residual_gate",
                   "post_feedforward_residual_gate")  # fmt: skip
    return _muse(config, heads, lambda i: sparse if routed[i] else dense, beside)


def _muse(
    config: Fields,
    heads: Heads,
    feed_forward: Callable[[int], FeedForward],
    beside: tuple[Tensor, ...],
) -> Decoder:
    """Every fourth layer, counted from the last, has full attention."""
    config = config.with_defaults(sliding_window=2048)
    layers, bias = num_layers(config), config.flag("attention_bias", False)
    slides = windows(config, layers, lambda i: (layers - 1 - i) % 4 != 0)

    @cache
    def attention(window: int) -> Attention:
        made = gqa_attention(heads, Projections(bias=bias, o_bias=bias), window=window)
        return with_gate(made, heads)

    return decoder(config, lambda i: attention(slides[i]), feed_forward, layer_norms=beside)


def _latent_experts(config: Fields, hidden: int) -> FeedForward:
    count, top_k = experts_of(config, config.name_of("num_local_experts", "num_experts"))
    latent = config.size("moe_hidden_size", default=4096)
    extra = (
        *linear("mlp.pre_expert_proj", latent, hidden, "shared_experts", "replicated",
                "routed_expert_down_proj"),
        *norms(latent, "mlp.pre_expert_norm", "mlp.experts.post_expert_norm"),
        *linear("mlp.post_expert_proj", hidden, latent, "shared_experts", "replicated",
                "routed_expert_up_proj"),
    )  # fmt: skip
    width = config.size("moe_intermediate_size")
    return moe(hidden, Experts(count, top_k, width, input_size=latent), extra=extra)


def hrm_text(config: Fields) -> Decoder:
    """HRM: two stacks of layers that run repeatedly. The slow stack runs after every L_cycles runs
    of the fast one.

    Each run has its own cache; weights are stored once.
    """
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads")
    heads = Heads(hidden, count, count, config.size("head_dim", default=128))
    bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)
    slow, fast = config.size("H_cycles", default=2), config.size("L_cycles", default=3)
    # a file saved by transformers counts all runs in num_hidden_layers
    each = config.size("num_layers_per_stack", default=num_layers(config), hi=MAX_LAYERS)
    if each * slow * (fast + 1) > MAX_LAYERS:
        raise config.bad("H_cycles", f"at most {MAX_LAYERS} runs of layers in all")
    made = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    attention = with_gate(made, heads)
    mlp = gated_mlp(hidden, config.size("intermediate_size"), bias=mlp_bias)
    first = Layer(attention, mlp)
    again = Layer(
        replace(attention, tensors=reused(attention.tensors)),
        replace(mlp, tensors=reused(mlp.tensors)),
    )
    # in each cycle, the fast stack runs first and the slow stack last
    runs = [run in (0, fast) for run in range(slow * (fast + 1))]
    stacks = [layer for new in runs for layer in [first if new else again] * each]
    return Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        max_context=max_context(config),
        layers=tuple(stacks),
        outer=(Tensor("model.z_L_init", hidden, 1, "norm"),),
        tie_embeddings=config.flag("tie_word_embeddings", False),
        prefix="model.L_module.layers",
    )


def ouro(config: Fields) -> Decoder:
    """Ouro (arXiv:2510.25741): all layers run `total_ut_steps` times, each run with a cache.

    vLLM always runs all steps and ignores the exit gate.
    """
    names = (*PRE_NORMS, "input_layernorm_2", "post_attention_layernorm_2")
    steps = config.size("total_ut_steps", default=4, hi=64)
    hidden = config.size("hidden_size")
    gate = linear("model.early_exit_gate", 1, hidden, "mlp", "replicated", "exit_gate",
                  bias=True)  # fmt: skip
    read = _looped(config, steps, "total_ut_steps", names)
    return replace(read, outer=read.outer + gate)


def nanbeige(config: Fields) -> Decoder:
    """Nanbeige 4.2 (arXiv:2607.22083): Llama's layers run `num_loops` times, each with a cache."""
    for name in _NANBEIGE_REFUSED:
        if config.get(name):
            raise config.bad(name, "absent, null or false")
    trained = config.get("loop_loss_weights")
    loops = len(trained) + 1 if isinstance(trained, list) and trained else 0
    loops = loops or config.size("num_loops", hi=64)
    return _looped(config, loops, "num_loops", PRE_NORMS)


def iquest_loop_coder(config: Fields) -> Decoder:
    """IQuest LoopCoder: all layers run `loop_num` times.

    Later runs attend to the first run's cache and to a window of their own, mixed by a gate of each
    head. Only the first run keeps the whole cache; the window's reads are not counted as time.
    """
    loops = config.size("loop_num", default=2, hi=64)
    window = config.size("loop_window_size", default=64)
    read = _looped(config, loops, "loop_num", PRE_NORMS)
    heads, layers = heads_of(config), num_layers(config)
    gate = (
        Tensor("gate_projections.weight", heads.num, heads.dim, "attention", "rows", heads.num),
        Tensor("gate_projections.bias", heads.num, 1, "attention", "rows", heads.num),
    )
    made: dict[int, Layer] = {}

    def later(layer: Layer, loop: int) -> Layer:
        caches = tuple(replace(entry, window=window) for entry in layer.mixer.caches)
        own = gate if loop == 1 else reused(gate)
        mixer = replace(layer.mixer, tensors=layer.mixer.tensors + own, caches=caches)
        return made.setdefault(loop, replace(layer, mixer=mixer))

    runs = tuple(
        later(layer, i // layers) if i >= layers else layer for i, layer in enumerate(read.layers)
    )
    return replace(read, layers=runs)


#: Options of the class that no published model uses.
_NANBEIGE_REFUSED = (
    "qk_layernorm",
    "enable_hyper_connection",
    "enable_mhc",
    "enable_double_loop_split",
    "enable_depth_attention",
    "emb_neighbor_num",
    "insert_ngram_layer_idx",
)


def _looped(config: Fields, steps: int, field: str, names: tuple[str, ...]) -> Decoder:
    """Return all layers `steps` times, each time with a cache."""
    heads, layers = heads_of(config), num_layers(config)
    if layers * steps > MAX_LAYERS:
        raise config.bad(field, f"at most {MAX_LAYERS} runs of layers in all")
    bias = config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    first = Layer(attention, mlp, norms(heads.hidden, *names))
    again = Layer(
        replace(attention, tensors=reused(attention.tensors)),
        replace(mlp, tensors=reused(mlp.tensors)),
        reused(first.norms),
    )
    return Decoder(
        hidden_size=heads.hidden,
        vocab_size=config.size("vocab_size"),
        max_context=max_context(config),
        layers=(first,) * layers + (again,) * (layers * (steps - 1)),
        outer=norms(heads.hidden, "model.norm"),
        tie_embeddings=config.flag("tie_word_embeddings", False),
    )


def reused(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the tensors of a repeated layer."""
    return tuple(replace(tensor, reused=True) for tensor in tensors)
