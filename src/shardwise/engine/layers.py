"""Sharded layers. Shapes are [num_tokens, features]."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.nn import functional

from shardwise.engine.collectives import Collectives
from shardwise.engine.config import ModelConfig


class Linear:
    """y = x W^T + b, W [out, in].

    On CPU the weight is packed once into oneDNN's blocked layout. On a Zen 5 core in fp32, this
    gives 245 instead of 104 GFLOP/s (functional.linear) at 512 rows, and 38 instead of 21 GB/s at
    one row.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.shape = tuple(weight.shape)
        self.bias = bias
        self._packed = weight.device.type == "cpu" and _is_packable(weight.dtype)
        if self._packed:
            # no hint of a row count, because it would choose a layout that is slow for others
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self._weight = weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x W^T + b for x of shape (tokens, in_features)."""
        if self._packed:
            y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self._weight, self.bias, "none", [], ""
            )
            return y
        return functional.linear(x, self._weight, self.bias)


def _is_packable(dtype: torch.dtype) -> bool:
    """Return whether oneDNN packs weights of `dtype` on this processor. In 16 bits, it needs
    AVX-512 or later."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True


class ColumnParallel:
    """Projections of the same input as one product, sharded along outputs: no communication."""

    def __init__(self, weights: list[torch.Tensor], biases: list[torch.Tensor]) -> None:
        self.linear = Linear(torch.cat(weights), torch.cat(biases) if biases else None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return this rank's slice of the output features; no communication."""
        return self.linear(x)


class RowParallel:
    """Projection sharded along inputs; the full-width partial outputs of all ranks are summed."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, collectives: Collectives
    ) -> None:
        self.linear = Linear(weight)
        self.bias = bias
        self.collectives = collectives

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return all output features, summed over ranks by an all-reduce."""
        y = self.collectives.all_reduce(self.linear(x))
        return y if self.bias is None else y + self.bias  # after the sum, so that it is added once


class VocabParallelEmbedding:
    """Rows [start, stop) of the table. Tokens of other ranks give 0, and all ranks are summed."""

    def __init__(self, weight: torch.Tensor, start: int, collectives: Collectives) -> None:
        self.weight, self.start, self.collectives = weight, start, collectives

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return embeddings of `tokens`, summed over the ranks' shards of the vocabulary."""
        local = tokens - self.start
        mine = (local >= 0) & (local < self.weight.shape[0])
        x = functional.embedding(local * mine, self.weight) * mine.unsqueeze(-1)
        return self.collectives.all_reduce(x)


class VocabParallelHead:
    """Logits of rows [start, stop) of the vocabulary on each rank, gathered on rank 0."""

    def __init__(self, weight: torch.Tensor, widths: list[int], collectives: Collectives) -> None:
        self.linear = Linear(weight)
        self.widths, self.collectives = widths, collectives

    def __call__(self, x: torch.Tensor) -> torch.Tensor | None:
        """Return logits over the whole vocabulary on rank 0; None on the others."""
        y = self.linear(x)
        y = functional.pad(y, (0, max(self.widths) - y.shape[1])).contiguous()
        parts = self.collectives.gather(y)
        if not parts:
            return None
        return torch.cat([part[:, :n] for part, n in zip(parts, self.widths, strict=False)], 1)


class GatedMlp:
    """down(silu(gate(x)) * up(x)), without the sum over ranks."""

    def __init__(self, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> None:
        self.gate_up = ColumnParallel([gate, up], [])
        self.down = Linear(down)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return down(silu(gate(x)) * up(x)), this rank's part of the sum."""
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(functional.silu(gate).mul_(up))


class ExpertMlp:
    """Top-k mixture of GatedMlp experts, each sharded over all ranks; the router is replicated."""

    def __init__(
        self, router: torch.Tensor, experts: list[GatedMlp], top_k: int, norm_topk: bool
    ) -> None:
        self.router, self.experts, self.top_k, self.norm_topk = router, experts, top_k, norm_topk

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of the weighted sum of the chosen experts."""
        scores = functional.linear(x, self.router).softmax(-1, dtype=torch.float32)
        weights, chosen = scores.topk(self.top_k, -1)
        if self.norm_topk:
            weights = weights / weights.sum(-1, keepdim=True)
        weights = weights.to(x.dtype)
        out = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            rows, place = torch.where(chosen == expert)
            out.index_add_(0, rows, self.experts[expert](x[rows]) * weights[rows, place, None])
        return out


class Rope:
    """Rotary position embedding (Su et al. 2021) in Hugging Face's layout: i pairs with i + d/2."""

    def __init__(self, config: ModelConfig, max_context: int, device: torch.device) -> None:
        frequencies = rope_frequencies(config)
        angles = torch.outer(torch.arange(max_context).float(), frequencies)
        cos, sin = angles.cos(), angles.sin()
        # rolling by half turns (x1, x2) into (x2, x1); the table has rotate_half's minus sign
        self._cos = torch.cat([cos, cos], -1).to(device)
        self._sin = torch.cat([-sin, sin], -1).to(device)

    def tables(
        self, positions: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin of each token, [num_tokens, 1, head_dim]."""
        cos, sin = self._cos[positions], self._sin[positions]
        return cos.unsqueeze(1).to(dtype), sin.unsqueeze(1).to(dtype)


def rotate(x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return `x` [num_tokens, heads, head_dim] rotated by its positions."""
    cos, sin = tables
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def rope_frequencies(config: ModelConfig) -> torch.Tensor:
    """Return radians per position of each pair, [head_dim / 2], scaled as in config.json."""
    d, scaling = config.head_dim, config.rope_scaling
    frequencies = 1.0 / config.rope_theta ** (torch.arange(0, d, 2).float() / d)
    if scaling["rope_type"] == "linear":
        frequencies /= scaling["factor"]
    if scaling["rope_type"] == "llama3":
        return _llama3(frequencies, scaling)
    return frequencies


def _llama3(frequencies: torch.Tensor, scaling: Mapping[str, float]) -> torch.Tensor:
    """Scale as Llama 3.1: long wavelengths by `factor`, short ones by 1, interpolated between.

    Source: Meta, llama-models, models/llama3/model.py, apply_scaling.
    """
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * math.pi / frequencies
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * frequencies / factor + smooth * frequencies
