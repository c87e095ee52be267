"""Sharding of weights: pure arithmetic, without torch.

Megatron-LM's scheme (Shoeybi et al. 2019, section 3): q, k, v, gate and up are sharded by rows of
the stored (out, in) matrix (column-parallel in the paper's y = xA), output and down by columns
(row-parallel), embedding and lm_head by rows of the vocabulary. An all-reduce after attention and
one after the MLP sum the partial outputs. KV heads are replicated if tp_size exceeds their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from shardwise.engine.config import ModelConfig
from shardwise.errors import InputError

Axis = Literal["none", "heads", "kv_heads", "intermediate", "vocab"]


class Weight(msgspec.Struct, frozen=True):
    """One tensor of the checkpoint: Hugging Face name, full shape, and sharded dimension."""

    name: str
    shape: tuple[int, ...]
    axis: Axis = "none"
    dim: int = 0  #: the sharded dimension; 1 means row-parallel


class Shard(msgspec.Struct, frozen=True):
    """Elements [start, stop) of `weight` along its dim; all of it if the dim is None."""

    weight: Weight
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the shard."""
        shape = list(self.weight.shape)
        shape[self.weight.dim] = self.stop - self.start
        return tuple(shape)


def even_range(size: int, tp_size: int, tp_rank: int) -> tuple[int, int]:
    """Return rank `tp_rank`'s contiguous part of range(size). Lengths differ by at most 1."""
    return size * tp_rank // tp_size, size * (tp_rank + 1) // tp_size


def kv_head_range(num_kv_heads: int, tp_size: int, tp_rank: int) -> tuple[int, int]:
    """Return the KV heads of a rank: a shard of them, or the one used by its query heads."""
    if tp_size <= num_kv_heads:
        return even_range(num_kv_heads, tp_size, tp_rank)
    head = tp_rank * num_kv_heads // tp_size
    return head, head + 1


def allowed_tp_sizes(config: ModelConfig) -> list[int]:
    """Return every tp_size with whole heads per rank, and with the KV heads of its query heads."""
    heads, kv = config.num_heads, config.num_kv_heads
    return [n for n in range(1, heads + 1) if heads % n == 0 and (kv % n == 0 or n % kv == 0)]


def check_tp_size(config: ModelConfig, tp_size: int) -> None:
    """Raise InputError if `tp_size` cannot shard the model."""
    allowed = allowed_tp_sizes(config)
    if tp_size not in allowed:
        raise InputError(
            f"tensor_parallel_size is {tp_size} for {config.num_heads} heads and "
            f"{config.num_kv_heads} KV heads",
            f"allowed: {', '.join(map(str, allowed))}",
        )


def weights(config: ModelConfig) -> Iterator[Weight]:
    """Return every tensor of the checkpoint in layer order, with its Hugging Face name."""
    h = config.hidden_size
    yield Weight("model.embed_tokens.weight", (config.vocab_size, h), "vocab")
    for layer in range(config.num_layers):
        yield from layer_weights(config, f"model.layers.{layer}.")
    yield Weight("model.norm.weight", (h,))
    if not config.tie_embeddings:
        yield Weight("lm_head.weight", (config.vocab_size, h), "vocab")


def layer_weights(config: ModelConfig, prefix: str) -> Iterator[Weight]:
    """Return the tensors of one decoder layer; `prefix` begins their names."""
    h, d = config.hidden_size, config.head_dim
    q, kv = config.num_heads * d, config.num_kv_heads * d
    attention = f"{prefix}self_attn."
    yield Weight(f"{prefix}input_layernorm.weight", (h,))
    projections: tuple[tuple[str, int, Axis], ...] = (
        ("q_proj", q, "heads"),
        ("k_proj", kv, "kv_heads"),
        ("v_proj", kv, "kv_heads"),
    )
    for name, rows, axis in projections:
        yield Weight(f"{attention}{name}.weight", (rows, h), axis)
        if config.attention_bias:
            yield Weight(f"{attention}{name}.bias", (rows,), axis)
    if config.qk_norm:
        yield Weight(f"{attention}q_norm.weight", (d,))
        yield Weight(f"{attention}k_norm.weight", (d,))
    yield Weight(f"{attention}o_proj.weight", (h, q), "heads", 1)
    if config.output_bias:
        yield Weight(f"{attention}o_proj.bias", (h,))
    yield Weight(f"{prefix}post_attention_layernorm.weight", (h,))
    if config.num_experts:
        yield Weight(f"{prefix}{router_name(config)}", (config.num_experts, h))
        for expert in range(config.num_experts):
            yield from mlp_weights(config, prefix, expert)
    else:
        yield from mlp_weights(config, prefix)


def router_name(config: ModelConfig) -> str:
    """Return the name of the router's weight in a layer."""
    block = "block_sparse_moe" if config.family == "mixtral" else "mlp"
    return f"{block}.gate.weight"


def mlp_weights(config: ModelConfig, prefix: str, expert: int | None = None) -> list[Weight]:
    """Return gate, up and down of the dense MLP or of one expert, sharded over all ranks."""
    h, size = config.hidden_size, config.intermediate_size
    block, gate, up, down = "mlp", "gate_proj", "up_proj", "down_proj"
    if config.family == "mixtral":
        block, gate, up, down = "block_sparse_moe", "w1", "w3", "w2"
    if expert is not None:
        block = f"{block}.experts.{expert}"
    return [
        Weight(f"{prefix}{block}.{gate}.weight", (size, h), "intermediate"),
        Weight(f"{prefix}{block}.{up}.weight", (size, h), "intermediate"),
        Weight(f"{prefix}{block}.{down}.weight", (h, size), "intermediate", 1),
    ]


def shard(weight: Weight, config: ModelConfig, tp_size: int, tp_rank: int) -> Shard:
    """Return the shard of `weight` of `tp_rank` out of `tp_size`. Heads are never split."""
    size = weight.shape[weight.dim]
    if weight.axis == "none":
        return Shard(weight, 0, size)
    if weight.axis == "heads":
        start, stop = even_range(config.num_heads, tp_size, tp_rank)
        return Shard(weight, start * config.head_dim, stop * config.head_dim)
    if weight.axis == "kv_heads":
        start, stop = kv_head_range(config.num_kv_heads, tp_size, tp_rank)
        return Shard(weight, start * config.head_dim, stop * config.head_dim)
    start, stop = even_range(size, tp_size, tp_rank)
    return Shard(weight, start, stop)


def elements_per_rank(config: ModelConfig, tp_size: int) -> int:
    """Return the weight elements of the fullest rank."""

    def elements(tp_rank: int) -> int:
        total = 0
        for weight in weights(config):
            size = 1
            for n in shard(weight, config, tp_size, tp_rank).shape:
                size *= n
            total += size
        return total

    return max(elements(rank) for rank in range(tp_size))


def kv_elements_per_token(config: ModelConfig, tp_size: int) -> int:
    """Return the KV cache elements per token on one rank: K and V of all layers."""
    heads = max(
        stop - start
        for start, stop in (kv_head_range(config.num_kv_heads, tp_size, r) for r in range(tp_size))
    )
    return 2 * config.num_layers * heads * config.head_dim
