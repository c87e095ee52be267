"""A model: an embedding, groups of equal layers, a head, draft heads and other towers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward, Moe
from shardwise.architecture.formats import Format, usual_format
from shardwise.architecture.mixers import Attention, LinearAttention, Mamba2, Mixer, Mla
from shardwise.architecture.tensor import Part, Tensor
from shardwise.errors import InputError


class LayerGroup(msgspec.Struct, frozen=True):
    """Layers that are equal in every shape and dtype.

    `layers` are their positions in the model. `norms` are the tensors of a layer outside its mixer
    and feed-forward.
    """

    layers: tuple[int, ...]
    mixer: Mixer
    feed_forward: FeedForward
    norms: tuple[Tensor, ...] = ()

    @property
    def count(self) -> int:
        """Number of layers in the group."""
        return len(self.layers)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensors of one layer."""
        return (*self.mixer.tensors, *self.feed_forward.tensors, *self.norms)


class Tower(msgspec.Struct, frozen=True):
    """A vision or audio encoder with its projector. It uses GPU memory but no time in decoding."""

    name: str
    parameters: int
    bytes: float


class Model(msgspec.Struct, frozen=True, eq=False):
    """A decoder-only language model, unsharded. Compared and cached by identity.

    Attributes:
        id: Name under which it was loaded.
        family: `model_type` of its config.json (of the text model inside a wrapper).
        outer: Tensors outside the layers: embedding, final norm, and lm_head unless it is tied.
        drafts: Layers of multi-token prediction heads; loaded only with speculation.
        kv_dtype: KV cache dtype that the checkpoint specifies; 16 bits by default.
        checkpoint_dtype: Dtype of most of its GEMM weights.
        generates: False for embedding, reward and classification models.
    """

    id: str
    family: str
    hidden_size: int
    vocab_size: int
    max_context: int
    groups: tuple[LayerGroup, ...]
    outer: tuple[Tensor, ...]
    tie_embeddings: bool = False
    drafts: tuple[LayerGroup, ...] = ()
    towers: tuple[Tower, ...] = ()
    checkpoint_dtype: str = "bf16"
    kv_dtype: str = "bf16"
    generates: bool = True

    @property
    def num_layers(self) -> int:
        """Number of decoder layers, draft layers excluded."""
        return sum(group.count for group in self.groups)

    @property
    def moe(self) -> Moe | None:
        """The first mixture of experts; None for a dense model."""
        found = (g.feed_forward for g in self.groups if isinstance(g.feed_forward, Moe))
        return next(found, None)

    @property
    def mla(self) -> Mla | None:
        """The first MLA mixer; None for a model without MLA."""
        return next((g.mixer for g in self.groups if isinstance(g.mixer, Mla)), None)

    @property
    def num_heads(self) -> int:
        """Largest number of query heads of a layer; without attention layers, of state heads."""
        heads = [g.mixer.num_heads for g in self.groups if isinstance(g.mixer, Attention | Mla)]
        states = [g.mixer.num_v_heads for g in self.groups if isinstance(g.mixer, LinearAttention)]
        states += [g.mixer.num_heads for g in self.groups if isinstance(g.mixer, Mamba2)]
        return max(heads or states)

    @property
    def embedding(self) -> Tensor:
        """Token embedding table."""
        return next(t for t in self.outer if t.part == "embedding")

    @property
    def head(self) -> Tensor | None:
        """Tensor of the logits: lm_head, or the embedding if tied; None if there are no logits."""
        if not self.generates:
            return None
        own = next((t for t in self.outer if t.part == "lm_head"), None)
        return own or (self.embedding if self.tie_embeddings else None)

    def tensors(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (number of layers, tensor) for the language model, without draft heads."""
        for group in self.groups:
            for tensor in group.tensors:
                yield group.count, tensor
        for tensor in self.outer:
            yield 1, tensor

    def parameters(self, *parts: Part) -> int:
        """Return the number of weights of the language model in `parts`; by default in all."""
        return sum(n * t.parameters for n, t in self.tensors() if not parts or t.part in parts)

    @property
    def active_parameters(self) -> int:
        """Active weights per token, embedding included (as Qwen and DeepSeek count)."""
        idle = sum(
            group.count * t.parameters * (1 - group.feed_forward.top_k / t.copies)
            for group in self.groups
            if isinstance(group.feed_forward, Moe)
            for t in group.tensors
            if t.copies > 1
        )
        return round(self.parameters() - idle)

    @property
    def multiplied_parameters(self) -> int:
        """Active weights that a token is multiplied with, without the embedding look-up.

        The model card of gpt-oss counts active parameters this way. A tied embedding counts as the
        lm_head.
        """
        return self.active_parameters - (0 if self.tie_embeddings else self.embedding.parameters)

    @property
    def weight_bytes(self) -> float:
        """Bytes of the language model's weights with their scales, unsharded."""
        return sum(
            n * t.copies * t.format.size(t.rows, t.cols) for n, t in self.tensors() if not t.reused
        )

    @property
    def shape(self) -> str:
        """Key of models with the same speed: layers x hidden size x feed-forward widths."""
        widths = dict.fromkeys(_width(group.feed_forward) for group in self.groups)
        return f"{self.num_layers}x{self.hidden_size}x{'+'.join(w for w in widths if w)}"


def _width(part: FeedForward) -> str:
    if isinstance(part, Moe):
        return f"{part.num_experts}x{part.expert_width}"
    return str(getattr(part, "width", ""))


#: Parts that stay in 16 bits if a user names a dtype, as in published quantized checkpoints.
KEPT: frozenset[Part] = frozenset({"embedding", "lm_head", "norm", "router"})


@lru_cache(maxsize=512)
def in_dtype(model: Model, dtype: str) -> Model:
    """Return `model` with its weights in `dtype` ("auto": that of the checkpoint).

    Another dtype than the checkpoint's has its usual format (`formats.FORMATS`). A quantized dtype
    does not change embedding, head, norms and router. "fp4" is the checkpoint's own 4-bit float if
    it has one, else nvfp4.

    Raises:
        InputError: The dtype is unknown.
    """
    if dtype in ("auto", model.checkpoint_dtype):
        return model
    if dtype == "fp4" and model.checkpoint_dtype in ("mxfp4", "nvfp4"):
        return model
    chosen = usual_format(dtype)
    groups = tuple(_stored(group, chosen) for group in model.groups)
    drafts = tuple(_stored(group, chosen) for group in model.drafts)
    outer = model.outer
    if not chosen.is_quantized:
        outer = tuple(replace(t, format=chosen) for t in outer)
    return replace(
        model,
        groups=groups,
        drafts=drafts,
        outer=outer,
        checkpoint_dtype=chosen.dtype,
        kv_dtype="fp32" if chosen.dtype == "fp32" else "bf16",
    )


def _stored(group: LayerGroup, chosen: Format) -> LayerGroup:
    return replace(
        group,
        mixer=replace(group.mixer, tensors=_recast(group.mixer.tensors, chosen)),
        feed_forward=replace(
            group.feed_forward, tensors=_recast(group.feed_forward.tensors, chosen)
        ),
        norms=_recast(group.norms, chosen),
    )


def _recast(tensors: Iterable[Tensor], chosen: Format) -> tuple[Tensor, ...]:
    """Return tensors in `chosen`. A quantized format does not apply to vectors and `KEPT` parts."""
    return tuple(
        replace(t, format=chosen)
        if not chosen.is_quantized or (t.part not in KEPT and t.gemm)
        else t
        for t in tensors
    )


def require_context(model: Model, isl: float, osl: float) -> None:
    """Raise InputError if a request is longer than the model's context."""
    if isl + osl > model.max_context:
        raise InputError(
            f"isl {isl:g} + osl {osl:g} = {isl + osl:g} tokens",
            f"allowed: at most the {model.max_context} tokens of {model.id}'s context",
            "shorten isl or osl",
            field="isl",
        )
