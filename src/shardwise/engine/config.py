"""What the engine needs to know of a model, read from config.json or a GGUF header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shardwise.errors import InputError

FAMILIES: Final = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe")
ROPE_TYPES: Final = ("default", "linear", "llama3")
DTYPES: Final = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer as the engine runs it. Sizes in elements, unsharded."""

    family: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int  #: of one expert where num_experts > 0
    vocab_size: int
    max_context: int  #: tokens; never above the sliding window, which is not implemented
    norm_eps: float
    rope_theta: float
    rope_scaling: Mapping[str, Any]
    tie_embeddings: bool
    attention_bias: bool
    qk_norm: bool
    num_experts: int
    top_k: int  #: experts a token takes
    norm_topk: bool  #: the chosen experts' weights are scaled to sum to 1
    dtype: str  #: of the checkpoint: "fp32", "bf16", "fp16"
    eos_token_ids: tuple[int, ...]
    interleaved_rope: bool = False  #: q and k rows are stored in GGUF's llama order


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`. Raises InputError where it is absent or not an object."""
    try:
        value = json.loads(path.read_text())
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror}", remedy="check the path") from None
    except ValueError as e:
        raise InputError(f"{path} is not JSON: {e}", remedy="fetch the file again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object", remedy="fetch the file again")
    return value


def from_json(path: Path) -> ModelConfig:
    """The model that a Hugging Face config.json describes. Raises InputError, naming the field."""
    raw = read_json(path)
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise InputError(f"{path}: model_type is {family!r}", f"the engine runs {FAMILIES}")

    def number(key: str, default: int | None = None) -> int:
        value = raw.get(key) if raw.get(key) is not None else default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{path}: {key} is {value!r}", "allowed: an integer of 1 or more")
        return value

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    experts = raw.get("num_local_experts", raw.get("num_experts")) or 0
    moe = family in ("mixtral", "qwen3_moe")
    if family == "qwen3_moe" and (
        raw.get("decoder_sparse_step", 1) != 1 or raw.get("mlp_only_layers")
    ):
        raise InputError(f"{path}: some layers are dense", "allowed: experts in every layer")
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ROPE_TYPES:
        raise InputError(f"{path}: rope_type is {rope_type!r}", f"allowed: {ROPE_TYPES}")
    context = number("max_position_embeddings")
    if raw.get("sliding_window") and raw.get("use_sliding_window", True):
        context = min(context, number("sliding_window"))
    # instruct models name the end of a turn only in generation_config.json
    generation = path.with_name("generation_config.json")
    eos = raw.get("eos_token_id")
    if generation.exists():
        eos = read_json(generation).get("eos_token_id", eos)
    return ModelConfig(
        family=family,
        hidden_size=hidden,
        num_layers=number("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=number("num_key_value_heads", heads),
        head_dim=number("head_dim", hidden // heads),
        intermediate_size=number(
            "moe_intermediate_size" if family == "qwen3_moe" else "intermediate_size"
        ),
        vocab_size=number("vocab_size"),
        max_context=context,
        norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 10000.0))),
        rope_scaling=dict(rope) | {"rope_type": rope_type},
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        attention_bias=family == "qwen2" or bool(raw.get("attention_bias", False)),
        qk_norm=family.startswith("qwen3"),
        num_experts=number("num_local_experts", experts) if moe else 0,
        top_k=number("num_experts_per_tok") if moe else 0,
        norm_topk=family == "mixtral" or bool(raw.get("norm_topk_prob", False)),
        dtype=DTYPES.get(raw.get("dtype", raw.get("torch_dtype")) or "", "fp32"),
        eos_token_ids=tuple(eos if isinstance(eos, list) else [] if eos is None else [eos]),
    )


def from_gguf(fields: Mapping[str, Any], path: Path) -> ModelConfig:
    """The model that a GGUF file's key-value header describes."""
    arch = fields.get("general.architecture")
    if arch not in ("llama", "qwen2", "qwen3") or fields.get(f"{arch}.expert_count"):
        raise InputError(
            f"{path}: GGUF architecture {arch!r}",
            "allowed: dense llama, qwen2, qwen3",
            "use the safetensors checkpoint",
        )
    if f"{arch}.rope.scaling.type" in fields:
        raise InputError(f"{path}: scaled RoPE in GGUF", remedy="use the safetensors checkpoint")

    def value(key: str, default: Any = None) -> Any:
        found = fields.get(f"{arch}.{key}", default)
        if found is None:
            raise InputError(f"{path}: no {arch}.{key} in the header", remedy="fetch it again")
        return found

    hidden, heads = int(value("embedding_length")), int(value("attention.head_count"))
    eos = fields.get("tokenizer.ggml.eos_token_id")
    return ModelConfig(
        family=arch,
        hidden_size=hidden,
        num_layers=int(value("block_count")),
        num_heads=heads,
        num_kv_heads=int(value("attention.head_count_kv", heads)),
        head_dim=int(value("attention.key_length", hidden // heads)),
        intermediate_size=int(value("feed_forward_length")),
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        max_context=int(value("context_length")),
        norm_eps=float(value("attention.layer_norm_rms_epsilon")),
        rope_theta=float(value("rope.freq_base", 10000.0)),
        rope_scaling={"rope_type": "default"},
        tie_embeddings=False,
        attention_bias=arch == "qwen2",
        qk_norm=arch == "qwen3",
        num_experts=0,
        top_k=0,
        norm_topk=False,
        dtype="fp32",  # what quantized blocks are dequantized to
        eos_token_ids=() if eos is None else (int(eos),),
        interleaved_rope=arch == "llama",
    )
