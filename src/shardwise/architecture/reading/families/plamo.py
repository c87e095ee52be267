"""PLaMo 1 to 3 of Preferred Networks.

Shapes: the modeling_plamo.py files of the checkpoints, vllm/model_executor/models/plamo2.py and
plamo3.py.
"""

from __future__ import annotations

from functools import cache

from msgspec.structs import replace

from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Mamba2, Mixer
from shardwise.architecture.reading.attention import (
    Heads,
    QkNorm,
    fused,
    gqa_attention,
    heads_of,
)
from shardwise.architecture.reading.common import decoder, max_context, num_layers, uniform, windows
from shardwise.architecture.reading.decoder import Decoder, linear, norms
from shardwise.architecture.reading.mlps import FUSED, gated_mlp
from shardwise.architecture.reading.states import state_dtype, states, vectors
from shardwise.architecture.tensor import Tensor

_NORMS = ("pre_mixer_norm", "post_mixer_norm", "pre_mlp_norm", "post_mlp_norm")


def plamo(config: Fields) -> Decoder:
    """PLaMo-13B: one norm before attention and MLP, which run in parallel.

    `n_shared_head` query heads share a KV head; `num_key_value_heads` of the file is not used.
    """
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads")
    shared = config.size("n_shared_head", default=8)
    if count % shared:
        raise config.bad("n_shared_head", f"a divisor of the {count} attention heads")
    heads = Heads(hidden, count, count // shared, hidden // count)
    mlp = gated_mlp(hidden, config.size("intermediate_size"))
    context = max_context(config, default=4096)
    read = uniform(
        config, gqa_attention(heads), mlp, layer_norms=norms(hidden, "norm"), context=context
    )
    return replace(read, prefix="model.layers.layers")


def plamo2(config: Fields) -> Decoder:
    """PLaMo 2: Mamba layers with heads, and attention in one layer of `mamba_step`.

    vLLM keeps the whole KV cache in attention layers: it ignores attention_window_size.
    """
    dim = config.size("hidden_size_per_head", default=128)
    heads = replace(heads_of(config, dim_default=dim), dim=dim)
    over_all = QkNorm(over_all=True, q="q_weight", k="k_weight")
    attention: Mixer = gqa_attention(heads, fused("qkv_proj", at="mixer"), qk_norm=over_all)
    mamba = _mamba(config, heads.hidden, dim)
    layers, step = num_layers(config), config.size("mamba_step", default=2)
    if config.flag("mamba_enabled", True):
        if step < 2:
            raise config.bad("mamba_step", "a whole number above 1")
        alone = layers - 1 if layers <= step // 2 else None  # attention in the last layer only
        attends = [
            i == alone if alone is not None else i % step == step // 2 for i in range(layers)
        ]
    else:
        attends = [True] * layers
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"), names=FUSED)
    read = decoder(
        config,
        lambda i: attention if attends[i] else mamba,
        lambda _: mlp,
        layer_norms=norms(heads.hidden, *_NORMS),
        tie=True,
    )
    return replace(read, prefix="model.layers.layers")


def _mamba(config: Fields, hidden: int, dim: int) -> Mamba2:
    """Mamba with a step, B and C from normed low-rank projections of the convolved input."""
    count = config.size("mamba_num_heads", default=64)
    state = config.size("mamba_d_state", default=64)
    kernel = config.size("mamba_d_conv", default=4)
    inner, rank, at = count * dim, max(64, hidden // 16), "mixer"
    tensors = (
        *linear(f"{at}.in_proj", 2 * inner, hidden, "attention", "rows", "in_proj", units=count),
        Tensor(f"{at}.conv1d", inner, kernel, "attention", "rows", count),
        *linear(f"{at}.bcdt_proj", rank + 2 * state, inner, "attention", "cols", "bcdt_proj",
                units=count),
        *linear(f"{at}.dt_proj", count, rank, "attention", "rows", "dt_proj", units=count),
        *vectors(at, ("dt_bias", "A_log", "D"), count, count),
        *norms(rank, f"{at}.dt_norm_weight"),
        *norms(state, f"{at}.B_norm_weight", f"{at}.C_norm_weight"),
        *linear(f"{at}.out_proj", hidden, inner, "attention", "cols", "out_proj", units=count),
    )  # fmt: skip
    caches = states(inner, kernel, inner * state, (count, count), state_dtype(config))
    return Mamba2(count, dim, state, 1, kernel, tensors, caches)


def plamo3(config: Fields) -> Decoder:
    """PLaMo 3: norms of queries and keys, a sliding window except in one layer of eight."""
    heads, layers = heads_of(config, dim_default=128), num_layers(config)
    if not config.has("sliding_window"):
        window = config.size("window_size", default=2048)
        config = Fields(
            {**config.values, "sliding_window": window}, config.where, config.read, config.assumed
        )
    every = config.size("sliding_window_pattern", default=8)
    slides = windows(config, layers, lambda i: (i + 1) % every != 0)
    projections = fused("qkv_proj", at="mixer")
    attention = cache(
        lambda window: gqa_attention(heads, projections, qk_norm=QkNorm(), window=window)
    )
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"), names=FUSED)
    read = decoder(
        config,
        lambda i: attention(slides[i]),
        lambda _: mlp,
        layer_norms=norms(heads.hidden, *_NORMS),
        tie=True,
    )
    return replace(read, prefix="model.layers.layers")
