"""One weight tensor: its shape, how a layout cuts it, and how it is stored."""

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
        name: Name in the checkpoint without ".weight", from the layer on: "self_attn.q_proj".
            "*" stands for the number of each copy. A tensor that a checkpoint stores fused is
            here once for each part that is cut in its own way, under the fused name.
        units: Pieces along the cut dimension that are never split (heads, KV heads, state
            groups). Ranks beyond that number hold copies. 0: every element may be a piece.
        copies: Equal tensors of this name; the routed experts of a layer.
        gemm: Name of the matrix multiplication that it is part of; tensors of one name are fused
            into one GEMM, as engines do ("qkv_proj", "gate_up_proj"). Empty: not multiplied.
        part: What it belongs to in tables of parameters.
        format: How its weights are stored.
        reused: Multiplied once more here, stored in an earlier layer (Zamba's shared block,
            models that run their layers several times).
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
