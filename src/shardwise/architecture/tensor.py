"""A weight tensor: its shape, how it is sharded, and how it is stored."""

from __future__ import annotations

from typing import Literal

import msgspec

from shardwise.architecture.formats import BF16, Format

#: Which dimension tensor parallelism divides. `rows` are outputs, `cols` inputs.
Cut = Literal["rows", "cols", "replicated"]
Part = Literal[
    "attention",  #: of any mixer, linear attention and state spaces too
    "mlp",
    "experts",
    "shared_experts",
    "router",
    "embedding",
    "lm_head",
    "norm",
]


class Tensor(msgspec.Struct, frozen=True):
    """A matrix of `rows` outputs x `cols` inputs (a vector has one column), `copies` times.

    Attributes:
        name: Name in the checkpoint within the layer, without ".weight": "self_attn.q_proj".
            "*" is the number of each copy. A fused tensor of the checkpoint is listed once for each
            part that is sharded differently, under the fused name.
        units: Pieces along the sharded dimension that are never split (heads, KV heads, state
            groups). Ranks beyond that number have copies. 0: every element can be a piece.
        copies: Number of equal tensors of this name, such as the routed experts of a layer.
        gemm: Name of its GEMM. Tensors with the same name are fused into one GEMM, as in engines
            ("qkv_proj", "gate_up_proj"). Empty: not multiplied.
        part: Part of the model, for tables of parameters.
        format: How its weights are stored.
        reused: Whether an earlier layer stores it (Zamba's shared block, models that run their
            layers several times).
    """

    name: str
    rows: int
    cols: int
    part: Part
    cut: Cut = "replicated"
    units: int = 0
    copies: int = 1
    gemm: str = ""
    format: Format = BF16
    reused: bool = False

    @property
    def parameters(self) -> int:
        """Weights in all copies, unsharded, without scales; 0 if an earlier layer stores them."""
        return 0 if self.reused else self.rows * self.cols * self.copies
