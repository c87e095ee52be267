"""Latent attention with an indexer in other forms than DeepSeek's: A.X-K2, dots 3, Mistral Large 4.

Shapes: the modelling code of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import MAX_EXPERTS, Fields
from shardwise.architecture.mixers import Mla
from shardwise.architecture.reading.attention import mla, with_indexer
from shardwise.architecture.reading.common import (
    FULL,
    SLIDING,
    decoder,
    layer_types,
    num_layers,
    overrides,
)
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, linear, norm, norms
from shardwise.architecture.reading.families.deepseek import deepseek_moe, sparse_layers
from shardwise.architecture.reading.families.glm import choosing_layers
from shardwise.architecture.reading.mlps import (
    CORRECTED,
    Experts,
    Shared,
    experts_of,
    gated_mlp,
    moe,
)
from shardwise.architecture.tensor import Tensor

_INDEXED = "indexed_attention"


def axk2(config: Fields) -> Decoder:
    """A.X-K2: queries and an output gate from 2 x q_lora_rank features, norms with a gate."""
    config = config.with_defaults(
        q_lora_rank=384, index_n_heads=16, index_head_dim=128, index_topk=2048
    )
    hidden, layers = config.size("hidden_size"), num_layers(config)
    own = with_indexer(mla(config, bias=config.flag("attention_bias", False)), config)
    heads, rank = own.num_heads, own.q_lora_rank
    rows = heads * (own.qk_nope_head_dim + own.qk_rope_head_dim + own.v_head_dim)
    queries = linear("self_attn.q_gate_proj", rows, 2 * rank, "attention", "rows", "q_b_proj",
                     units=heads)  # fmt: skip
    tensors = tuple(t for t in own.tensors if t.name != "self_attn.q_b_proj") + queries
    attention = replace(own, tensors=tensors)
    narrow = config.size("gated_norm_rank", default=16)
    routed = sparse_layers(config, layers, 1)
    plain = norms(hidden, *PRE_NORMS) + _gate_of_norm("input_layernorm", hidden, narrow)
    gated = plain + _gate_of_norm("post_attention_layernorm", hidden, narrow)
    experts = deepseek_moe(config, correction_bias=True, dense_layers=1)
    return decoder(
        config,
        lambda _: attention,
        experts,
        layer_norms=lambda i: gated if routed[i] else plain,
    )


def _gate_of_norm(name: str, hidden: int, rank: int) -> tuple[Tensor, ...]:
    return (
        *linear(f"{name}.mlp.fc1", rank, hidden, "norm", "replicated", "hyper_connection"),
        *linear(f"{name}.mlp.fc2", hidden, rank, "norm", "replicated", "hyper_connection"),
    )


def dots3_note(config: Fields) -> Decoder:
    """dots 3: indexed and sliding layers; sliding layers have their own heads and latents."""
    config = config.with_defaults(
        q_lora_rank=1024, index_n_heads=64, index_head_dim=128, index_topk=2048
    )
    layers = num_layers(config)
    kinds = layer_types(config, layers, FULL, SLIDING, _INDEXED)
    slides = config.flag("use_sliding_window", True)
    kinds = kinds or [SLIDING if slides and i >= 2 and i % 4 != 1 else FULL for i in range(layers)]
    window = config.size(config.name_of("sliding_window", "sliding_window_size"), default=512)
    written = overrides(config, layers)
    narrow = next((written[i] for i in range(layers) if kinds[i] == SLIDING), written[0])
    full, sliding = _dots_mla(config), _dots_mla(_sliding_sizes(config, narrow))
    if config.flag("use_dsa", True):
        full = with_indexer(full, config)
    kept = tuple(replace(entry, window=window) for entry in sliding.caches)
    sliding = replace(sliding, caches=kept, window=window)
    experts = _dots_experts(config, layers)
    return decoder(config, lambda i: sliding if kinds[i] == SLIDING else full, experts)


def _dots_mla(config: Fields) -> Mla:
    """MLA with a norm of the rotary key and one output gate per head."""
    made = mla(config, bias=config.flag("attention_bias", False))
    gate = linear("self_attn.g_proj", made.num_heads, config.size("hidden_size"), "attention",
                  "rows", "g_proj", units=made.num_heads)  # fmt: skip
    rotated = norm("self_attn.k_rope_only_layernorm", made.qk_rope_head_dim)
    return replace(made, tensors=made.tensors + rotated + gate)


def _sliding_sizes(config: Fields, written: Fields) -> Fields:
    """The fields of a sliding layer: `written` for it alone, swa_…, or the class's defaults."""
    defaults = {
        "num_attention_heads": 64,
        "q_lora_rank": 1024,
        "kv_lora_rank": 1024,
        "head_dim": 256,
        "qk_nope_head_dim": 192,
        "v_head_dim": 128,
    }
    if config.has("per_layer_config"):  # it names what differs from the other layers
        defaults = {name: config.size(name, default=size) for name, size in defaults.items()}
    sizes = {
        name: written.size(name, default=config.size(f"swa_{name}", default=default))
        for name, default in defaults.items()
    }
    rope = config.size(
        "swa_qk_rope_head_dim", default=sizes["head_dim"] - sizes["qk_nope_head_dim"], lo=0
    )
    sizes["qk_rope_head_dim"] = written.size("qk_rope_head_dim", default=rope, lo=0)
    return Fields({**config.values, **sizes}, config.where, config.read)


def _dots_experts(config: Fields, layers: int) -> Callable[[int], FeedForward]:
    hidden = config.size("hidden_size")
    count, top_k = experts_of(config, config.name_of("n_routed_experts", "num_local_experts"))
    name = config.name_of("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size")
    shared = config.size(name, default=1536, lo=0)
    shared *= config.size("n_shared_experts", default=1, lo=0, hi=MAX_EXPERTS)
    sparse = moe(
        hidden,
        Experts(count, top_k, config.size("moe_intermediate_size")),
        router=CORRECTED,
        shared=Shared(shared),
    )
    dense = gated_mlp(hidden, config.size("intermediate_size"), bias=config.flag("mlp_bias", False))
    routed = sparse_layers(config, layers, 1)
    return lambda i: sparse if routed[i] else dense


def mistral_large4(config: Fields) -> Decoder:
    """Mistral Large 4: queries of full rank, layers without positions, shared latents."""
    config = config.with_defaults(
        index_n_heads=32, index_head_dim=128, index_topk=2048, first_k_dense_replace=1
    )
    config = Fields({**config.values, "q_lora_rank": None}, config.where, config.read)
    layers = num_layers(config)
    every = config.size("no_rope_layer_interval", default=4)
    rotated = config.items("no_rope_layers", int) or [
        int((i + 1) % every != 0) for i in range(layers)
    ]
    sources = config.items("kv_source_layers", int) or list(range(layers))
    if len(rotated) != layers or len(sources) != layers:
        name = "no_rope_layers" if len(rotated) != layers else "kv_source_layers"
        raise config.bad(name, f"{layers} whole numbers, one a layer")
    choosing = choosing_layers(_with_pattern(config), layers)

    @cache
    def attention(rotates: bool, owns: bool, chooses: bool) -> Mla:
        return _mistral_mla(config, rotates=rotates, owns=owns, chooses=chooses)

    return decoder(
        config,
        lambda i: attention(bool(rotated[i]), sources[i] == i, choosing[i]),
        deepseek_moe(config, correction_bias=False, dense_layers=1),
    )


def _with_pattern(config: Fields) -> Fields:
    """Convert index_topk_pattern, a letter per layer, to indexer_types."""
    pattern = config.get("index_topk_pattern")
    if not isinstance(pattern, str) or config.has("indexer_types"):
        return config
    kinds = [{"F": "full", "S": "shared"}.get(letter, letter) for letter in pattern]
    return config.with_defaults(indexer_types=kinds)


def _mistral_mla(config: Fields, *, rotates: bool, owns: bool, chooses: bool) -> Mla:
    nope, rope = config.size("qk_nope_head_dim"), config.size("qk_rope_head_dim", lo=0)
    sizes = {"qk_nope_head_dim": nope, "qk_rope_head_dim": rope}
    if not rotates:
        sizes = {"qk_nope_head_dim": nope + rope, "qk_rope_head_dim": 0}
    own = Fields({**config.values, **sizes}, config.where, config.read)
    made = mla(own, bias=config.flag("attention_bias", False))
    heads, hidden = made.num_heads, config.size("hidden_size")
    full = with_indexer(made, own, source=hidden)
    scaling = _scaling("self_attn.softmax_scaling", heads)
    at = "self_attn.indexer"
    beside = norm(f"{at}.q_input_norm", hidden, bias=True)
    beside += _scaling(f"{at}.softmax_scaling", config.size("index_n_heads"))
    tensors = (full.tensors + beside if chooses else made.tensors) + scaling
    caches = full.caches if chooses else made.caches
    if not owns:  # keys and values are those of an earlier layer
        tensors = tuple(t for t in tensors if ".kv_a_" not in t.name)
        caches = tuple(entry for entry in caches if entry.name != "latent")
    return replace(made, tensors=tensors, caches=caches, indexer=full.indexer)


def _scaling(name: str, heads: int) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(f"{name}.{part}", heads, 1, "attention", "rows", heads) for part in ("scale", "bias")
    )
