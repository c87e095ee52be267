"""One rank's shard of a decoder-only transformer."""

from __future__ import annotations

import torch
from torch.nn import functional

from shardwise.engine import sharding
from shardwise.engine.attention import LayerCache, StepInputs, attend
from shardwise.engine.checkpoint import Checkpoint
from shardwise.engine.collectives import Collectives
from shardwise.engine.config import ModelConfig
from shardwise.engine.layers import (
    ColumnParallel,
    ExpertMlp,
    GatedMlp,
    Rope,
    RowParallel,
    VocabParallelEmbedding,
    VocabParallelHead,
    rotate,
)

Tables = tuple[torch.Tensor, torch.Tensor]


class ShardReader:
    """Reads a rank's shard of each weight to its device in its dtype."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tp_size: int,
        tp_rank: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.config, self.tp_size, self.tp_rank = checkpoint.config, tp_size, tp_rank
        self.dtype, self.device = dtype, device
        self._checkpoint = checkpoint
        self._weights = {weight.name: weight for weight in sharding.weights(self.config)}

    def __call__(self, name: str) -> torch.Tensor:
        """Return this rank's shard of the tensor `name`, on its device in its dtype."""
        shard = sharding.shard(self._weights[name], self.config, self.tp_size, self.tp_rank)
        return self._checkpoint.read(shard).to(self.device, self.dtype)

    def optional(self, name: str) -> torch.Tensor | None:
        """Return this rank's shard of `name`, or None if the model has no such tensor."""
        return self(name) if name in self._weights else None


class Attention:
    """Grouped-query attention over this rank's heads; output summed over ranks."""

    def __init__(self, read: ShardReader, prefix: str, collectives: Collectives) -> None:
        config = read.config
        names = [f"{prefix}{part}_proj" for part in "qkv"]
        biases = [read.optional(f"{name}.bias") for name in names]
        self.qkv = ColumnParallel(
            [read(f"{name}.weight") for name in names], [b for b in biases if b is not None]
        )
        self.output = RowParallel(
            read(f"{prefix}o_proj.weight"), read.optional(f"{prefix}o_proj.bias"), collectives
        )
        self.q_norm = read.optional(f"{prefix}q_norm.weight")
        self.k_norm = read.optional(f"{prefix}k_norm.weight")
        self.num_heads = config.num_heads // read.tp_size
        first, last = sharding.kv_head_range(config.num_kv_heads, read.tp_size, read.tp_rank)
        self.num_kv_heads = last - first
        self.head_dim, self.eps = config.head_dim, config.norm_eps

    def __call__(
        self, x: torch.Tensor, tables: Tables, cache: LayerCache, inputs: StepInputs
    ) -> torch.Tensor:
        """Return attention of a step's tokens, `x` of shape (tokens, hidden), over the cache."""
        heads, kv_heads = self.num_heads, self.num_kv_heads
        qkv = self.qkv(x).view(-1, heads + 2 * kv_heads, self.head_dim)
        qk, v = qkv.split([heads + kv_heads, kv_heads], 1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split([heads, kv_heads], 1)
            q = functional.rms_norm(q, (self.head_dim,), self.q_norm, self.eps)
            k = functional.rms_norm(k, (self.head_dim,), self.k_norm, self.eps)
            qk = torch.cat([q, k], 1)
        q, k = rotate(qk, tables).split([heads, kv_heads], 1)
        cache.write(inputs.slots, k, v)
        return self.output(attend(q, cache, inputs).view(x.shape[0], -1))


class Mlp:
    """Gated MLP or experts over this rank's shard of the intermediate size; summed over ranks."""

    def __init__(self, read: ShardReader, prefix: str, collectives: Collectives) -> None:
        config = read.config
        self.collectives = collectives
        self.local: GatedMlp | ExpertMlp
        if config.num_experts:
            experts = [
                GatedMlp(*(read(w.name) for w in sharding.mlp_weights(config, prefix, e)))
                for e in range(config.num_experts)
            ]
            router = read(prefix + sharding.router_name(config))
            self.local = ExpertMlp(router, experts, config.top_k, config.norm_topk)
        else:
            self.local = GatedMlp(*(read(w.name) for w in sharding.mlp_weights(config, prefix)))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the MLP, summed over ranks by an all-reduce."""
        return self.collectives.all_reduce(self.local(x))


class DecoderLayer:
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, read: ShardReader, index: int, collectives: Collectives) -> None:
        prefix = f"model.layers.{index}."
        self.eps = read.config.norm_eps
        self.input_norm = read(f"{prefix}input_layernorm.weight")
        self.attention = Attention(read, f"{prefix}self_attn.", collectives)
        self.mlp_norm = read(f"{prefix}post_attention_layernorm.weight")
        self.mlp = Mlp(read, prefix, collectives)

    def __call__(
        self, x: torch.Tensor, tables: Tables, cache: LayerCache, inputs: StepInputs
    ) -> torch.Tensor:
        """Return one layer with both residuals, for `x` of shape (tokens, hidden)."""
        normed = functional.rms_norm(x, x.shape[-1:], self.input_norm, self.eps)
        x = x + self.attention(normed, tables, cache, inputs)
        return x + self.mlp(functional.rms_norm(x, x.shape[-1:], self.mlp_norm, self.eps))


class ShardedModel:
    """Embedding, layers and head: the part of a forward pass of `tp_rank` out of `tp_size`."""

    def __init__(self, read: ShardReader, max_context: int, collectives: Collectives) -> None:
        config: ModelConfig = read.config
        self.config, self.dtype, self.device = config, read.dtype, read.device
        ranges = [
            sharding.even_range(config.vocab_size, read.tp_size, r) for r in range(read.tp_size)
        ]
        embedding = read("model.embed_tokens.weight")
        self.embed = VocabParallelEmbedding(embedding, ranges[read.tp_rank][0], collectives)
        self.layers = [DecoderLayer(read, i, collectives) for i in range(config.num_layers)]
        self.norm = read("model.norm.weight")
        head = embedding if config.tie_embeddings else read("lm_head.weight")
        self.head = VocabParallelHead(head, [stop - start for start, stop in ranges], collectives)
        self.rope = Rope(config, max_context, read.device)

    def forward(self, inputs: StepInputs, caches: list[LayerCache]) -> torch.Tensor | None:
        """Return logits [wanted rows, vocab_size] on rank 0; None on others or without any."""
        x = self.embed(inputs.tokens)
        tables = self.rope.tables(inputs.positions, self.dtype)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, tables, cache, inputs)
        if not len(inputs.logit_rows):
            return None
        x = functional.rms_norm(x[inputs.logit_rows], x.shape[-1:], self.norm, self.config.norm_eps)
        return self.head(x)
