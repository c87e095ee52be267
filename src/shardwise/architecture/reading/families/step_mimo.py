"""Step 3 to 3.7 and MiMo: layers with different head counts, and experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Attention
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    QkNorm,
    gqa_attention,
    heads_of,
)
from shardwise.architecture.reading.common import SLIDING, decoder, num_layers, overrides, windows
from shardwise.architecture.reading.decoder import Decoder, linear, norms
from shardwise.architecture.reading.families.deepseek import (
    deepseek_moe,
    sparse_layers,
    with_mtp,
)
from shardwise.architecture.reading.mlps import (
    Experts,
    Router,
    Shared,
    experts_of,
    gated_mlp,
    moe,
)


def step3_5(config: Fields) -> Decoder:
    """Step 3.5 and 3.7: sliding layers with more heads, one gate per head."""
    layers, heads = num_layers(config), _step_heads(config)
    kinds = config.items("layer_types", str)[:layers] or ["full_attention"] * layers
    other = config.object("attention_other_setting")
    more = config.size(
        "num_sliding_attention_heads", default=other.size("num_attention_heads", default=heads.num)
    )
    written = overrides(config, layers)
    sliding = next((written[i] for i in range(layers) if kinds[i] == SLIDING), other)
    more = sliding.size("num_attention_heads", default=more)
    kv = other.size(other.name_of("num_attention_groups", "num_key_value_heads"), default=heads.kv)
    wide = replace(heads, num=more, kv=kv)
    window = config.size("sliding_window", default=512, lo=0)

    @cache
    def attention(kind: str) -> Attention:
        local = kind == SLIDING
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
        first = config.size("first_k_dense_replace", default=3, lo=0)
        entries = named.split(",") if isinstance(named, str) else (named or range(first, layers))
        numbers = {int(n) for n in entries if str(n).strip().isdecimal()}
        routed = [i in numbers for i in range(layers)]
    hidden = config.size("hidden_size")
    count, top_k = experts_of(
        config,
        config.name_of("moe_num_experts", "n_routed_experts", "num_experts"),
        config.name_of("moe_top_k", "num_experts_per_tok"),
    )
    config.has("num_local_experts")
    shared = config.size(config.name_of("share_expert_dim", "share_expert_dims"), default=0, lo=0)
    if config.size("n_shared_experts", default=1, lo=0) != 1:  # share_expert_dim is the size of all
        raise config.bad("n_shared_experts", "1")
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
    """Step3: factorized attention, one key for all heads, low-rank queries."""
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


def mimo_v2(config: Fields) -> Decoder:
    """MiMo-V2-Flash: keys wider than values, sliding layers with sinks and more KV heads."""
    layers = num_layers(config)
    pattern = config.items("hybrid_layer_pattern", int)
    local = [bool(n) for n in pattern] or [i > 0 and (i + 1) % 6 != 0 for i in range(layers)]
    if len(local) != layers:
        raise config.bad("hybrid_layer_pattern", f"{layers} times 0 (full) or 1 (sliding)")
    slides = windows(config, layers, lambda i: local[i])
    written = overrides(config, layers)
    full, sliding = _mimo_heads(
        config, next((written[i] for i in range(layers) if slides[i]), written[0])
    )
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


def _mimo_heads(config: Fields, layer: Fields) -> tuple[Heads, Heads]:
    """Heads of full and sliding layers. `layer`: fields of the file that apply only to sliding
    ones."""
    heads = heads_of(config, dim_default=192)
    heads = replace(heads, v_dim=config.size("v_head_dim", default=128))
    own = replace(
        heads,
        num=config.size("swa_num_attention_heads", default=heads.num),
        kv=layer.size(
            "num_key_value_heads",
            default=config.size("swa_num_key_value_heads", default=2 * heads.kv),
        ),
        dim=config.size("swa_head_dim", default=heads.dim),
        v_dim=config.size("swa_v_head_dim", default=heads.value),
    )
    return heads, own
