"""Feed-forward parts of a layer, with their tensors."""

from __future__ import annotations

import msgspec

from shardwise.architecture.tensor import Tensor


class Mlp(msgspec.Struct, frozen=True):
    """Dense MLP: gated (gate, up, down) or plain (up, down)."""

    width: int
    gated: bool = True
    tensors: tuple[Tensor, ...] = ()


class Moe(msgspec.Struct, frozen=True):
    """Mixture of experts: a router picks `top_k` of `num_experts` for each token.

    Attributes:
        expert_width: Intermediate size of one routed expert.
        shared_width: Intermediate size of all shared experts together; 0: none.
        expert_input: Input and output features of a routed expert: the hidden size, or less if
            experts work in a latent space (Nemotron 3).
        gated: Whether experts have a gate matrix.
    """

    num_experts: int
    top_k: int
    expert_width: int
    expert_input: int
    shared_width: int = 0
    gated: bool = True
    tensors: tuple[Tensor, ...] = ()


class NoFeedForward(msgspec.Struct, frozen=True):
    """A block without a feed-forward part."""

    tensors: tuple[Tensor, ...] = ()


FeedForward = Mlp | Moe | NoFeedForward
