"""Show one layer under tensor parallelism, with real values of a small run.

All ranks of the layer are computed one after another in fp32, so that every partial output can be
shown with the sum. `tests/engine/test_explain.py` compares the sum with the unsharded result.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from torch.nn import functional

from shardwise.engine import sharding
from shardwise.engine.attention import LayerCache, prepare
from shardwise.engine.checkpoint import Checkpoint, open_checkpoint
from shardwise.engine.collectives import AloneCollectives
from shardwise.engine.layers import Rope
from shardwise.engine.model import DecoderLayer, ShardReader
from shardwise.engine.scheduler import Segment, StepPlan
from shardwise.errors import InputError

SHOWN = 4  #: number of values shown of each output


class Cut(msgspec.Struct, frozen=True):
    """One weight of the layer, and each rank's shard."""

    name: str
    shape: tuple[int, ...]
    how: str  #: "rows", "columns", "whole", "rows, replicated"
    ranges: list[tuple[int, int]]  #: one per rank


class Sum(msgspec.Struct, frozen=True):
    """An all-reduce: each rank's partial output, their sum, and the unsharded output."""

    part: str  #: "attention" or "mlp"
    shape: tuple[int, int]  #: of every partial output, and of the message
    partials: list[list[float]]  #: first values of the last token, one list per rank
    total: list[float]
    unsharded: list[float]
    relative_error: float  #: largest difference in the whole output, divided by its largest value


class Explanation(msgspec.Struct, frozen=True):
    """The sharded weights of a layer and its two all-reduces."""

    layer: int
    tp_size: int
    num_tokens: int
    heads_per_rank: int
    kv_heads: list[tuple[int, int]]  #: range of KV heads on each rank
    cuts: list[Cut]
    sums: list[Sum]


def explain(path: Path, tp_size: int, layer: int, prompt: list[int], random: bool) -> Explanation:
    """Run `prompt` through `layer` on `tp_size` ranks and on one. Raises InputError.

    The layer's input is the normalized embedding of the prompt, as for layer 0.
    """
    checkpoint = open_checkpoint(path, random)
    config = checkpoint.config
    sharding.check_tp_size(config, tp_size)
    checkpoint.check()
    if not 0 <= layer < config.num_layers:
        raise InputError(f"layer is {layer}", f"allowed: 0 to {config.num_layers - 1}")
    if not prompt or len(prompt) > config.max_context:
        raise InputError(
            f"the prompt has {len(prompt)} tokens", f"allowed: 1 to {config.max_context}"
        )
    if not all(0 <= token < config.vocab_size for token in prompt):
        raise InputError(
            "a token is outside the vocabulary", f"allowed: 0 to {config.vocab_size - 1}"
        )
    shards = [_layer(checkpoint, tp_size, rank, layer) for rank in range(tp_size)]
    whole = _layer(checkpoint, 1, 0, layer)
    with torch.inference_mode():
        x = _reader(checkpoint, 1, 0)("model.embed_tokens.weight")[torch.tensor(prompt)]
        run_attention = _attention_of(checkpoint, prompt)
        attended, attention = _compare("attention", x, whole, shards, run_attention)
        _, mlp = _compare("mlp", attended, whole, shards, _mlp)
    return Explanation(
        layer=layer,
        tp_size=tp_size,
        num_tokens=len(prompt),
        heads_per_rank=config.num_heads // tp_size,
        kv_heads=[sharding.kv_head_range(config.num_kv_heads, tp_size, r) for r in range(tp_size)],
        cuts=[_cut(w, checkpoint, tp_size) for w in sharding.layer_weights(config, "")],
        sums=[attention, mlp],
    )


def _reader(checkpoint: Checkpoint, tp_size: int, rank: int) -> ShardReader:
    return ShardReader(checkpoint, tp_size, rank, torch.float32, torch.device("cpu"))


def _layer(checkpoint: Checkpoint, tp_size: int, rank: int, index: int) -> DecoderLayer:
    """A layer of one rank whose outputs stay partial, without an all-reduce."""
    return DecoderLayer(_reader(checkpoint, tp_size, rank), index, AloneCollectives())


def _attention_of(
    checkpoint: Checkpoint, prompt: list[int]
) -> Callable[[DecoderLayer, torch.Tensor], torch.Tensor]:
    """Return the attention of one layer over the prompt, with a separate cache."""
    config, device = checkpoint.config, torch.device("cpu")
    plan = StepPlan(prompt, [Segment(len(prompt), len(prompt), (0,), True)])
    inputs = prepare(plan, len(prompt), torch.float32, device)
    tables = Rope(config, len(prompt), device).tables(inputs.positions, torch.float32)

    def run(layer: DecoderLayer, x: torch.Tensor) -> torch.Tensor:
        shape = (len(prompt), layer.attention.num_kv_heads, config.head_dim)
        cache = LayerCache(1, shape, torch.float32, device)
        normed = functional.rms_norm(x, x.shape[-1:], layer.input_norm, layer.eps)
        y = layer.attention(normed, tables, cache, inputs)
        bias = (
            layer.attention.output.bias
        )  # the bias is added to the sum, not to a rank's partial output
        return y if bias is None else y - bias

    return run


def _mlp(layer: DecoderLayer, x: torch.Tensor) -> torch.Tensor:
    return layer.mlp(functional.rms_norm(x, x.shape[-1:], layer.mlp_norm, layer.eps))


def _compare(
    part: str,
    x: torch.Tensor,
    whole: DecoderLayer,
    shards: list[DecoderLayer],
    run: Callable[[DecoderLayer, torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, Sum]:
    """Return x + the part's output, and how the partial outputs add up to it."""
    unsharded = run(whole, x)
    partials = [run(shard, x) for shard in shards]
    total = torch.stack(partials).sum(0)
    error = (total - unsharded).abs().max() / unsharded.abs().max()
    found = Sum(
        part=part,
        shape=(x.shape[0], x.shape[1]),
        partials=[p[-1, :SHOWN].tolist() for p in partials],
        total=total[-1, :SHOWN].tolist(),
        unsharded=unsharded[-1, :SHOWN].tolist(),
        relative_error=float(error),
    )
    return x + unsharded, found


def _cut(weight: sharding.Weight, checkpoint: Checkpoint, tp_size: int) -> Cut:
    config = checkpoint.config
    shards = [sharding.shard(weight, config, tp_size, rank) for rank in range(tp_size)]
    how = "whole"
    if weight.axis != "none":
        how = "columns" if weight.dim == 1 else "rows"
        if weight.axis == "kv_heads" and tp_size > config.num_kv_heads:
            how += ", replicated"
    return Cut(weight.name, weight.shape, how, [(s.start, s.stop) for s in shards])
