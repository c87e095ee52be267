"""openPangu Embedded, Pro MoE and Ultra MoE.

Shapes: vllm/model_executor/models/openpangu.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Attention, Mixer
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    gqa_attention,
    heads_of,
    mla,
)
from shardwise.architecture.reading.common import decoder, num_layers
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, norms
from shardwise.architecture.reading.families.deepseek import deepseek_moe, with_mtp
from shardwise.architecture.reading.mlps import gated_mlp
from shardwise.architecture.tensor import Tensor


def open_pangu(config: Fields) -> Decoder:
    """openPangu: GQA with biases, GQA with learned sink tokens, or MLA; dense or with experts.

    `sandwich_norm`: two more norms in each layer.
    """
    for name in ("use_mhc", "use_mome"):
        if config.get(name):
            raise config.bad(name, "absent or false: openPangu 2.0 is not supported")
    beside: tuple[str, ...] = PRE_NORMS
    if config.flag("sandwich_norm", False):
        beside = (*PRE_NORMS, "pre_mlp_layernorm", "post_mlp_layernorm")
    count = config.name_of("num_nextn_predict_layers", "num_mtp_layers")
    config = config.with_defaults(num_nextn_predict_layers=config.get(count))
    read = decoder(
        config,
        _mixer(config),
        _feed_forward(config),
        layer_norms=norms(config.size("hidden_size"), *beside),
    )
    return with_mtp(config, read)


def _feed_forward(config: Fields) -> Callable[[int], FeedForward]:
    if config.has("n_routed_experts"):
        if not config.has("first_k_dense_replace"):
            raise config.bad("first_k_dense_replace", "the number of layers without experts")
        corrected = config.flag("router_enable_expert_bias", False)
        return deepseek_moe(config, correction_bias=corrected)
    bias = config.flag("mlp_bias", False)
    dense = gated_mlp(config.size("hidden_size"), config.size("intermediate_size"), bias=bias)
    return lambda _: dense


def _mixer(config: Fields) -> Callable[[int], Mixer]:
    needed = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank")
    if all(config.has(name) for name in needed):
        latent = mla(config.with_defaults(q_lora_rank=None))
        return lambda _: latent
    bias = config.flag(config.name_of("attention_bias", "bias"), False)
    projections = Projections(bias=config.flag("qkv_bias", bias), o_bias=bias)
    windows = _windows(config)
    sinks = config.size("param_sink_number", default=0, lo=0)
    if not sinks:
        heads = heads_of(config)
        plain = cache(lambda window: gqa_attention(heads, projections, window=window))
        return lambda i: plain(windows[i])
    held = cache(lambda window: _with_sinks(config, projections, sinks, window))
    return lambda i: held(windows[i])


def _windows(config: Fields) -> tuple[int, ...]:
    """Window of each layer: one for all, or a list that repeats over the layers."""
    given = config.get("interleaved_sliding_window")
    layers = num_layers(config)
    if isinstance(given, list) and given:
        sizes = config.items("interleaved_sliding_window", int)
    else:
        sizes = [config.size("interleaved_sliding_window", default=0, lo=0)]
    return tuple(max(0, sizes[i % len(sizes)]) for i in range(layers))


def _with_sinks(config: Fields, projections: Projections, sinks: int, window: int) -> Attention:
    """GQA with separate sizes of keys and values, and learned keys that every token attends to."""
    hidden, num = config.size("hidden_size"), config.size("num_attention_heads")
    kv = config.size("num_key_value_heads", default=num)
    dim = config.size("qk_nope_dim") + config.size("qk_rope_dim")
    heads = Heads(hidden, num, kv, dim, config.size("v_channels"))
    made = gqa_attention(heads, projections, window=window)
    values = config.flag("param_sink_with_value", False)
    learned = (
        *norms(dim, "self_attn.k_layernorm"),
        Tensor("self_attn.param_sink_key", kv * dim, sinks, "attention", "rows", kv),
        *(
            (
                Tensor(
                    "self_attn.param_sink_value", kv * heads.value, sinks, "attention", "rows", kv
                ),
            )
            if values
            else ()
        ),
    )
    return replace(made, tensors=made.tensors + learned)
