"""Convert a `Decoder` to a `Model`: assign a format to each tensor and merge equal layers."""

from __future__ import annotations

from msgspec.structs import replace

from shardwise.architecture.formats import Format
from shardwise.architecture.model import LayerGroup, Model, Tower
from shardwise.architecture.quantization.rules import Rules
from shardwise.architecture.reading.decoder import Decoder, Layer, linear
from shardwise.architecture.tensor import Tensor


def assemble(
    decoder: Decoder,
    rules: Rules,
    *,
    model_id: str,
    family: str,
    towers: tuple[Tower, ...] = (),
    generates: bool = True,
) -> Model:
    """Return the model of `decoder`, with tensor formats from `rules`."""
    groups = _groups(decoder.layers, rules, decoder.prefix, 0)
    drafts = _groups(
        decoder.drafts,
        rules,
        decoder.draft_prefix or decoder.prefix,
        0 if decoder.draft_prefix else len(decoder.layers),
    )
    outer = _outer(decoder, rules, generates)
    return Model(
        id=model_id,
        family=family,
        hidden_size=decoder.hidden_size,
        vocab_size=decoder.vocab_size,
        max_context=decoder.max_context,
        groups=groups,
        outer=outer,
        tie_embeddings=decoder.tie_embeddings,
        drafts=drafts,
        towers=towers,
        checkpoint_dtype=_most(groups, outer, rules),
        kv_dtype=rules.kv_dtype,
        generates=generates,
    )


def _outer(decoder: Decoder, rules: Rules, generates: bool) -> tuple[Tensor, ...]:
    vocab, hidden = decoder.vocab_size, decoder.hidden_size
    rows = vocab + decoder.extra_embedding_rows
    embedding = Tensor(decoder.embedding, rows, hidden, "embedding", "rows")
    head: tuple[Tensor, ...] = ()
    if generates and not decoder.tie_embeddings:
        head = linear(
            decoder.head, vocab, hidden, "lm_head", "rows", "lm_head", bias=decoder.lm_head_bias
        )
    return tuple(
        replace(tensor, format=rules.format_of(tensor.name, tensor))
        for tensor in (embedding, *decoder.outer, *head)
    )


def _groups(
    layers: tuple[Layer, ...], rules: Rules, prefix: str, first: int
) -> tuple[LayerGroup, ...]:
    """Group layers with equal shapes and formats; each group has all positions of its layers."""
    found: dict[tuple[int, tuple[Format, ...]], list[int]] = {}
    kinds: dict[Layer, int] = {}  # equal layers -> number of their kind
    numbers: dict[int, int] = {}  # id of a layer -> number: each object is hashed only once
    formats: dict[int, tuple[Format, ...]] = {}
    each = rules.tells_layers
    for position, layer in enumerate(layers, first):
        if id(layer) not in numbers:
            numbers[id(layer)] = kinds.setdefault(layer, len(kinds))
        kind = numbers[id(layer)]
        if kind not in formats or each:
            number = position if layer.number is None else layer.number
            formats[kind] = rules.formats_of(f"{prefix}.{number}", _tensors(layer))
        found.setdefault((kind, formats[kind]), []).append(position)
    shapes = list(kinds)
    return tuple(
        _group(shapes[kind], stored, positions, rules.plain.dtype)
        for (kind, stored), positions in found.items()
    )


def _tensors(layer: Layer) -> tuple[Tensor, ...]:
    return (*layer.mixer.tensors, *layer.feed_forward.tensors, *layer.norms)


def _group(
    layer: Layer, formats: tuple[Format, ...], positions: list[int], plain: str
) -> LayerGroup:
    left = iter(formats)

    def stored(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(replace(tensor, format=next(left)) for tensor in tensors)

    # as in vLLM, states have the model's dtype, not that of the KV cache
    caches = tuple(
        replace(entry, dtype=plain) if entry.per_sequence and not entry.dtype else entry
        for entry in layer.mixer.caches
    )
    mixer = replace(layer.mixer, tensors=stored(layer.mixer.tensors), caches=caches)
    feed_forward = replace(layer.feed_forward, tensors=stored(layer.feed_forward.tensors))
    return LayerGroup(tuple(positions), mixer, feed_forward, stored(layer.norms))


def _most(groups: tuple[LayerGroup, ...], outer: tuple[Tensor, ...], rules: Rules) -> str:
    """Return the dtype of most GEMM weights."""
    sizes: dict[str, int] = {}
    counted = [(group.count, t) for group in groups for t in group.tensors]
    for count, tensor in counted + [(1, t) for t in outer]:
        if tensor.gemm:
            name = tensor.format.dtype
            sizes[name] = sizes.get(name, 0) + count * tensor.parameters
    return max(sizes, key=lambda name: sizes[name]) if sizes else rules.plain.dtype
