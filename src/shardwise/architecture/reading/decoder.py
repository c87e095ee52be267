"""The result of a family function, and the small tensors that every family has."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.mixers import Mixer
from shardwise.architecture.tensor import Cut, Part, Tensor


class Layer(msgspec.Struct, frozen=True, eq=False):
    """One layer. `norms`: its tensors outside the mixer and the feed-forward.

    `number`: layer number in the checkpoint's names, if it differs from the position (a layer with
    two mixers is read as two layers).
    """

    mixer: Mixer
    feed_forward: FeedForward
    norms: tuple[Tensor, ...] = ()
    number: int | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layer) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)

    @property
    def _parts(self) -> tuple[Mixer, FeedForward, tuple[Tensor, ...]]:
        return self.mixer, self.feed_forward, self.norms


class Decoder(msgspec.Struct, frozen=True):
    """A decoder as read by a family function, before formats are assigned to its tensors.

    Attributes:
        layers: In order. Equal layers may be one object.
        drafts: Layers of multi-token prediction heads, in order.
        outer: Tensors outside the layers, except embedding and lm_head: the final norm.
        lm_head_bias: Whether the head has a bias.
        head: Name of the LM head in the checkpoint.
        prefix: Name of the layers in the checkpoint: "model.layers".
        draft_prefix: Name of the drafts in the checkpoint; empty: numbered after the layers.
        extra_embedding_rows: Rows of the embedding beyond those of the head.
    """

    hidden_size: int
    vocab_size: int
    max_context: int
    layers: tuple[Layer, ...]
    outer: tuple[Tensor, ...]
    tie_embeddings: bool = False
    lm_head_bias: bool = False
    drafts: tuple[Layer, ...] = ()
    head: str = "lm_head"
    prefix: str = "model.layers"
    draft_prefix: str = ""
    embedding: str = "model.embed_tokens"
    extra_embedding_rows: int = 0


def linear(
    name: str,
    rows: int,
    cols: int,
    part: Part,
    cut: Cut,
    gemm: str,
    *,
    units: int = 0,
    copies: int = 1,
    bias: bool = False,
) -> tuple[Tensor, ...]:
    """Return a GEMM matrix, and its bias if any (replicated if the matrix is sharded by input)."""
    matrix = Tensor(name, rows, cols, part, cut, units, copies, gemm)
    if not bias:
        return (matrix,)
    bias_cut: Cut = "replicated" if cut == "cols" else cut
    kept = 0 if cut == "cols" else units
    return (matrix, Tensor(f"{name}.bias", rows, 1, part, bias_cut, kept, copies))


def norm(
    name: str, size: int, *, bias: bool = False, cut: Cut = "replicated"
) -> tuple[Tensor, ...]:
    """Return the weight of a norm, and its bias if any."""
    weight = Tensor(name, size, 1, "norm", cut)
    return (weight, Tensor(f"{name}.bias", size, 1, "norm", cut)) if bias else (weight,)


def norms(size: int, *names: str, bias: bool = False) -> tuple[Tensor, ...]:
    """Return norms of one size."""
    return joined(norm(name, size, bias=bias) for name in names)


def joined(parts: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Return the tensors of all parts, in order."""
    return tuple(tensor for part in parts for tensor in part)


#: Norms before the mixer and before the feed-forward, under Llama's names.
PRE_NORMS = ("input_layernorm", "post_attention_layernorm")
