"""A Hugging Face config.json to an Architecture. A model_type not listed here is refused.

Field names and defaults: the configuration classes of Hugging Face transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shardwise.architecture.fields import Fields
from shardwise.architecture.model import Architecture, Mla, Moe
from shardwise.architecture.quantization import checkpoint_dtype
from shardwise.errors import InputError

SUPPORTED: Final = (
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "gpt_oss",
    "deepseek_v2",
    "deepseek_v3",
)
_QK_NORM: Final = ("qwen3", "qwen3_moe")
_MLA: Final = ("deepseek_v2", "deepseek_v3")
#: Families in which every layer's MLP is made of experts, `intermediate_size` wide each.
_ALL_MOE: Final = ("mixtral", "gpt_oss")
_MAX_LAYERS: Final = 10_000


def parse(values: Mapping[str, Any], model_id: str, where: str = "config.json") -> Architecture:
    """The Architecture that the config.json object `values` describes.

    `where` names the input in errors. Raises InputError for anything not understood.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where} holds a {type(values).__name__}", "allowed: a JSON object")
    config = Fields(values, where)
    family = _family(config)
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    layers = config.size("num_hidden_layers", hi=_MAX_LAYERS)
    bias = config.flag("attention_bias", family in ("qwen2", "gpt_oss"))
    sliding_window, num_sliding = _sliding(config, family, layers)
    dtype, block = checkpoint_dtype(config)
    return Architecture(
        id=model_id,
        family=family,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=_num_kv_heads(config, family, heads),
        head_dim=_head_dim(config, hidden, heads),
        intermediate_size=_dense_intermediate(config, family),
        vocab_size=config.size("vocab_size"),
        max_context=_max_context(config),
        tie_embeddings=config.flag("tie_word_embeddings", False),
        attention_bias=bias,
        # qwen2 has a bias on q, k and v only
        output_bias=bias and family != "qwen2",
        qk_norm=family in _QK_NORM,
        attention_sinks=family == "gpt_oss",
        moe=_moe(config, family, layers),
        mla=_mla(config) if family in _MLA else None,
        sliding_window=sliding_window,
        num_sliding_layers=num_sliding,
        checkpoint_dtype=dtype,
        quantization_block=block,
    )


def _family(config: Fields) -> str:
    listed = f"supported: {', '.join(SUPPORTED)}"
    family = config.text("model_type")
    if config.has("text_config"):
        raise InputError(
            f"{config.where}: {family[:60]!r} wraps a text model in text_config",
            listed,
            "give the config.json of the text model alone",
        )
    if family not in SUPPORTED:
        raise InputError(f"{config.where}: model_type {family[:60]!r} is not understood", listed)
    if config.flag("mlp_bias", False):
        raise config.bad("mlp_bias", "false (MLP biases are not understood)")
    return family


def _num_kv_heads(config: Fields, family: str, heads: int) -> int:
    # the first Llama models name no KV heads: every head has its own
    kv_heads = config.size("num_key_value_heads", default=heads if family == "llama" else None)
    if kv_heads > heads or heads % kv_heads:
        raise config.bad("num_key_value_heads", f"a divisor of the {heads} attention heads")
    return kv_heads


def _head_dim(config: Fields, hidden: int, heads: int) -> int:
    if not config.has("head_dim") and hidden % heads:
        raise InputError(
            f"{config.where}: hidden_size {hidden} is not a multiple of "
            f"num_attention_heads {heads}",
            remedy="give head_dim",
        )
    return config.size("head_dim", default=hidden // heads)


def _dense_intermediate(config: Fields, family: str) -> int:
    return 0 if family in _ALL_MOE else config.size("intermediate_size")


def _max_context(config: Fields) -> int:
    """Tokens, after rope scaling, as vLLM derives its max_model_len.

    YaRN (Peng et al. 2023) multiplies the length trained on; linear and dynamic scaling multiply
    max_position_embeddings; llama3 scaling is already counted in it.
    """
    longest = config.size("max_position_embeddings")
    rope = config.object("rope_scaling" if config.has("rope_scaling") else "rope_parameters")
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind == "yarn" and rope.has("original_max_position_embeddings"):
        return round(rope.size("original_max_position_embeddings") * rope.number("factor"))
    if kind in ("linear", "dynamic"):
        return round(longest * rope.number("factor"))
    return longest


def _sliding(config: Fields, family: str, layers: int) -> tuple[int, int]:
    """(window in tokens, layers that have it); (0, 0) for full attention everywhere."""
    if not config.has("sliding_window") or family in ("llama", *_MLA):
        return 0, 0
    window = config.size("sliding_window")
    kinds = config.items("layer_types", str)
    if kinds:
        if len(kinds) != layers or not set(kinds) <= {"sliding_attention", "full_attention"}:
            raise config.bad(
                "layer_types", f"{layers} times 'sliding_attention' or 'full_attention'"
            )
        sliding = kinds.count("sliding_attention")
    elif family == "gpt_oss":
        sliding = (layers + 1) // 2  # alternating, the first one slides
    elif family.startswith("qwen"):
        # Qwen keeps a window in the file that is off unless use_sliding_window says so
        used = config.flag("use_sliding_window", False)
        full = config.size("max_window_layers", default=layers, lo=0)
        sliding = max(layers - full, 0) if used else 0
    else:
        sliding = layers
    return (window, sliding) if sliding else (0, 0)


def _moe(config: Fields, family: str, layers: int) -> Moe | None:
    if family in _ALL_MOE:
        return _routed(config, "num_local_experts", "intermediate_size", layers)
    if family == "qwen3_moe":
        step = config.size("decoder_sparse_step", default=1)
        dense = set(config.items("mlp_only_layers", int))
        sparse = [i for i in range(layers) if i not in dense and (i + 1) % step == 0]
        # transformers 5 writes it under Mixtral's name
        experts = "num_experts" if config.has("num_experts") else "num_local_experts"
        return _routed(config, experts, "moe_intermediate_size", len(sparse))
    if family in _MLA and config.has("n_routed_experts"):
        first = config.size("first_k_dense_replace", default=0, lo=0)
        step = config.size("moe_layer_freq", default=1)
        sparse = [i for i in range(first, layers) if i % step == 0]
        return _routed(config, "n_routed_experts", "moe_intermediate_size", len(sparse))
    return None


def _routed(config: Fields, experts_field: str, width_field: str, num_moe: int) -> Moe | None:
    experts, width = config.size(experts_field, hi=1_000_000), config.size(width_field)
    top_k = config.size("num_experts_per_tok", hi=1_000_000)
    if top_k > experts:
        raise config.bad("num_experts_per_tok", f"at most the {experts} experts")
    shared = config.size("n_shared_experts", default=0, lo=0, hi=1_000_000)
    return Moe(experts, top_k, width, num_moe, shared * width) if num_moe else None


def _mla(config: Fields) -> Mla:
    return Mla(
        q_lora_rank=config.size("q_lora_rank", default=0),
        kv_lora_rank=config.size("kv_lora_rank"),
        qk_nope_head_dim=config.size("qk_nope_head_dim"),
        qk_rope_head_dim=config.size("qk_rope_head_dim"),
        v_head_dim=config.size("v_head_dim"),
    )
