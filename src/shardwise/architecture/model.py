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

    `layers` are their positions in the model, `norms` what the layer holds beside its mixer and
    feed-forward.
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
    """A vision or audio encoder with its projector: bytes on the GPU, no time in decoding."""

    name: str
    parameters: int
    bytes: float


class Model(msgspec.Struct, frozen=True, eq=False):
    """A decoder-only language model, unsharded. Compared and cached by identity.

    Attributes:
        id: Name that it was loaded by.
        family: `model_type` of its config.json (of the text model inside a wrapper).
        outer: Tensors outside the layers: embedding, final norm, and lm_head unless it is tied.
        drafts: Layers of multi-token prediction heads; loaded only with speculation.
        kv_dtype: KV cache dtype that the checkpoint asks for; 16 bits where it asks for none.
        checkpoint_dtype: Dtype of most of its multiplied weights.
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
        """The mixture of experts of the first group that has one."""
        found = (g.feed_forward for g in self.groups if isinstance(g.feed_forward, Moe))
        return next(found, None)

    @property
    def mla(self) -> Mla | None:
        """Its first MLA mixer; None for a model without MLA."""
        return next((g.mixer for g in self.groups if isinstance(g.mixer, Mla)), None)

    @property
    def num_heads(self) -> int:
        """Query heads of the attention layers that have most; of the states where none has any."""
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
        """What gives the logits: lm_head, or the embedding again where tied; None without any."""
        if not self.generates:
            return None
        own = next((t for t in self.outer if t.part == "lm_head"), None)
        return own or (self.embedding if self.tie_embeddings else None)

    def tensors(self) -> Iterator[tuple[int, Tensor]]:
        """(number of layers that have it, tensor) of the language model, without draft heads."""
        for group in self.groups:
            for tensor in group.tensors:
                yield group.count, tensor
        for tensor in self.outer:
            yield 1, tensor

    def parameters(self, *parts: Part) -> int:
        """Weights of the language model in `parts`; of all parts where none is named."""
        return sum(n * t.parameters for n, t in self.tensors() if not parts or t.part in parts)

    @property
    def active_parameters(self) -> int:
        """Weights that one token touches, the embedding included (as Qwen and DeepSeek count)."""
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
        """Active weights that a token is multiplied with: the embedding look-up is left out.

        gpt-oss's model card counts its active parameters so; a tied embedding is the lm_head.
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
        """What models of one speed share: layers x hidden, then the feed-forward widths."""
        widths = dict.fromkeys(_width(group.feed_forward) for group in self.groups)
        return f"{self.num_layers}x{self.hidden_size}x{'+'.join(w for w in widths if w)}"


def _width(part: FeedForward) -> str:
    if isinstance(part, Moe):
        return f"{part.num_experts}x{part.expert_width}"
    return str(getattr(part, "width", ""))


#: Parts that a dtype named by a user leaves in 16 bits, as published quantized checkpoints do.
KEPT: frozenset[Part] = frozenset({"embedding", "lm_head", "norm", "router"})


@lru_cache(maxsize=512)
def in_dtype(model: Model, dtype: str) -> Model:
    """`model` with its weights in `dtype` ("auto": as they are in the checkpoint).

    A dtype other than the checkpoint's is taken in its usual form (`formats.FORMATS`), with
    embedding, head, norms and router left as they are. "fp4" is the checkpoint's own 4-bit float
    if it has one, else nvfp4. Raises InputError for an unknown dtype.
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
    """Tensors in `chosen`; vectors and what stays in 16 bits are recast between plain dtypes."""
    return tuple(
        replace(t, format=chosen)
        if not chosen.is_quantized or (t.part not in KEPT and t.gemm)
        else t
        for t in tensors
    )


def require_context(model: Model, isl: float, osl: float) -> None:
    """Raises InputError if a request is longer than the model's context."""
    if isl + osl > model.max_context:
        raise InputError(
            f"isl {isl:g} + osl {osl:g} = {isl + osl:g} tokens",
            f"allowed: at most the {model.max_context} tokens of {model.id}'s context",
            "shorten isl or osl",
            field="isl",
        )
