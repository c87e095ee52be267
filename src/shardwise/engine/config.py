"""Model configuration of the engine: architecture and inference settings.

Shapes come from `shardwise.architecture`, which reads config.json. The fields of a GGUF header are
renamed to those of config.json first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from shardwise.architecture.feed_forward import Moe
from shardwise.architecture.mixers import Attention
from shardwise.architecture.model import Model
from shardwise.architecture.reading.parse import parse
from shardwise.errors import InputError
from shardwise.files import read_utf8

FAMILIES: Final = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe")
#: Fields of each kind of RoPE scaling.
ROPE_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}
DTYPES: Final = ("fp32", "bf16", "fp16")


class ModelConfig(msgspec.Struct, frozen=True):
    """A decoder-only transformer that the engine runs. Sizes in elements, before sharding."""

    family: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int  #: of one expert if num_experts > 0
    vocab_size: int
    max_context: int  #: tokens; at most the sliding window, because sliding is not implemented
    sliding_window: int  #: tokens; 0: none
    norm_eps: float
    rope_theta: float
    rope_scaling: Mapping[str, Any]
    tie_embeddings: bool
    attention_bias: bool  #: on q, k, v
    output_bias: bool  #: on the attention output
    qk_norm: bool
    num_experts: int
    top_k: int  #: experts per token
    norm_topk: bool  #: whether the weights of the chosen experts are normalized to sum to 1
    dtype: str  #: of the checkpoint: one of DTYPES
    eos_token_ids: tuple[int, ...]
    interleaved_rope: bool = False  #: whether q and k rows are in GGUF's llama order

    @property
    def context_limit(self) -> str:
        """Describe what limits a sequence to max_context."""
        if self.sliding_window == self.max_context:
            return "the model's sliding window, which this engine does not slide"
        return "the model's context"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from `path`. Raises InputError if it is missing or not an object."""
    try:
        value = json.loads(read_utf8(path))
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror}", remedy="check the path") from None
    except ValueError as e:
        raise InputError(f"{path} is not JSON: {e}", remedy="fetch the file again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object", remedy="fetch the file again")
    return value


def from_json(path: Path) -> ModelConfig:
    """Return the model of a Hugging Face config.json. Raises InputError, naming the field."""
    values = read_json(path)
    # instruct models have the end-of-turn token only in generation_config.json
    generation = path.with_name("generation_config.json")
    if generation.exists():
        eos = read_json(generation).get("eos_token_id", values.get("eos_token_id"))
        values = values | {"eos_token_id": eos}
    return _from_values(values, str(path))


def _from_values(values: Mapping[str, Any], where: str) -> ModelConfig:
    if values.get("model_type") not in FAMILIES:
        raise InputError(
            f"{where}: model_type is {values.get('model_type')!r}", f"the engine runs {FAMILIES}"
        )
    arch = parse(values, "", where)
    attention, width = _require_runnable(arch, where)
    rope, theta = _rope(values, where)
    eos = values.get("eos_token_id")
    moe = arch.moe
    names = {tensor.name for tensor in attention.tensors}
    return ModelConfig(
        family=arch.family,
        hidden_size=arch.hidden_size,
        num_layers=arch.num_layers,
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        intermediate_size=width,
        vocab_size=arch.vocab_size,
        max_context=min(arch.max_context, attention.window or arch.max_context),
        sliding_window=attention.window,
        norm_eps=_positive(values.get("rms_norm_eps", 1e-6), "rms_norm_eps", where),
        rope_theta=theta,
        rope_scaling=rope,
        tie_embeddings=arch.tie_embeddings,
        attention_bias="self_attn.q_proj.bias" in names,
        output_bias="self_attn.o_proj.bias" in names,
        qk_norm="self_attn.q_norm" in names,
        num_experts=moe.num_experts if moe else 0,
        top_k=moe.top_k if moe else 0,
        norm_topk=arch.family == "mixtral" or bool(values.get("norm_topk_prob", False)),
        dtype=arch.checkpoint_dtype,
        eos_token_ids=tuple(eos if isinstance(eos, list) else [] if eos is None else [eos]),
    )


def _require_runnable(arch: Model, where: str) -> tuple[Attention, int]:
    """Return the attention and feed-forward width shared by all layers. Raises InputError."""
    if arch.checkpoint_dtype not in DTYPES:
        raise InputError(
            f"{where}: the checkpoint is {arch.checkpoint_dtype}",
            f"the engine runs {', '.join(DTYPES)}",
            "use the unquantized checkpoint",
        )
    widths = {
        part.expert_width if isinstance(part, Moe) else getattr(part, "width", 0)
        for part in (group.feed_forward for group in arch.groups)
    }
    mixers = [group.mixer for group in arch.groups if isinstance(group.mixer, Attention)]
    # up to the window's length, layers with and without a sliding window are equal
    window = min((mixer.window for mixer in mixers if mixer.window), default=0)
    alike = {replace(mixer, window=window, caches=()) for mixer in mixers}
    if len(mixers) < len(arch.groups) or len(alike) > 1 or len(widths) > 1:
        raise InputError(f"{where}: its layers differ", "allowed: layers that are all alike")
    return alike.pop(), widths.pop()


def _rope(values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], float]:
    """Return the RoPE scaling with its rope_type, and theta."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_FIELDS:
        raise InputError(f"{where}: rope_type is {kind!r}", f"allowed: {', '.join(ROPE_FIELDS)}")
    needed = {name: _positive(rope.get(name), name, where) for name in ROPE_FIELDS[kind]}
    theta = rope.get("rope_theta", values.get("rope_theta", 10000.0))
    return needed | {"rope_type": kind}, _positive(theta, "rope_theta", where)


def _positive(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"{where}: {name} is {value!r}", "allowed: a number above 0")
    return float(value)


#: GGUF header -> config.json; llama.cpp, gguf-py/gguf/constants.py
_GGUF_FIELDS: Final = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}


def from_gguf(fields: Mapping[str, Any], path: Path, tied: bool) -> ModelConfig:
    """Return the model of a GGUF header; `tied`: the file has no separate lm_head."""
    kind = fields.get("general.architecture")
    if kind not in ("llama", "qwen2", "qwen3") or fields.get(f"{kind}.expert_count"):
        raise InputError(
            f"{path}: GGUF architecture {kind!r}",
            "allowed: dense llama, qwen2, qwen3",
            "use the safetensors checkpoint",
        )
    if f"{kind}.rope.scaling.type" in fields:
        raise InputError(f"{path}: scaled RoPE in GGUF", remedy="use the safetensors checkpoint")
    values: dict[str, Any] = {
        name: fields[key]
        for name, part in _GGUF_FIELDS.items()
        if (key := f"{kind}.{part}") in fields
    }
    values |= {
        "model_type": kind,
        "vocab_size": len(fields.get("tokenizer.ggml.tokens", ())),
        "tie_word_embeddings": tied,
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
        "dtype": "float32",  # dtype of dequantized blocks
    }
    found = _from_values(values, str(path))
    return found if kind != "llama" else msgspec.structs.replace(found, interleaved_rope=True)
