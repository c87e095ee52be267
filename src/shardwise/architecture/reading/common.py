"""Readers shared by many families: context length, sliding windows, a Llama-like decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import MAX_LAYERS, Fields
from shardwise.architecture.mixers import Mixer
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, Layer, norms
from shardwise.architecture.tensor import Tensor

#: Values of `layer_types`.
SLIDING: Final = "sliding_attention"
FULL: Final = "full_attention"
CHUNKED: Final = "chunked_attention"
LINEAR: Final = "linear_attention"


def num_layers(config: Fields, name: str = "num_hidden_layers") -> int:
    """Layer count that the config states under `name`."""
    return config.size(name, hi=MAX_LAYERS)


#: Other names of the longest sequence (vLLM's derive_max_model_len_and_key).
_LENGTHS: Final = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_sequence_length", "max_seq_length", "seq_len"),
)


def max_context(config: Fields, name: str = "max_position_embeddings", default: int = 0) -> int:
    """Return the context in tokens after rope scaling, as vLLM derives its max_model_len.

    YaRN (Peng et al. 2023) multiplies the original training length. Linear and dynamic scaling
    multiply max_position_embeddings, which already includes llama3 scaling.
    """
    if not default:
        name = config.name_of(name, *_LENGTHS)
    longest = config.size(name, default=default or None)
    rope = config.object("rope_scaling" if config.has("rope_scaling") else "rope_parameters")
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind.endswith("yarn") and rope.has("original_max_position_embeddings"):
        return round(rope.size("original_max_position_embeddings") * rope.number("factor"))
    if kind in ("linear", "dynamic") and rope.has("factor"):
        return round(longest * rope.number("factor"))
    return longest


def overrides(config: Fields, layers: int) -> list[Fields]:
    """Return the values of single layers that transformers 5 writes ("per_layer_config")."""
    own = config.object("per_layer_config")
    found = {int(name): own.object(name) for name in own.values if name.isdecimal()}
    nothing = Fields({}, own.where)
    return [found.get(i, nothing) for i in range(layers)]


def layer_types(config: Fields, layers: int, *allowed: str) -> list[str]:
    """Return `layer_types`, each one of `allowed`; empty if the file has none."""
    kinds: list[str] = config.items("layer_types", str)
    if kinds and (len(kinds) != layers or not set(kinds) <= set(allowed)):
        raise config.bad("layer_types", f"{layers} times one of {', '.join(allowed)}")
    return kinds


def windows(config: Fields, layers: int, otherwise: Callable[[int], bool]) -> tuple[int, ...]:
    """Window of each layer in tokens, 0 for full attention.

    Without layer_types in the file, `otherwise` returns whether the layer at a position slides.
    """
    name = config.name_of("sliding_window", "sliding_window_size")
    if not config.has(name):
        return (0,) * layers
    window = config.size(name, lo=-1)
    kinds = layer_types(config, layers, SLIDING, FULL)
    slides = [kind == SLIDING for kind in kinds] or [otherwise(i) for i in range(layers)]
    return tuple(max(window, 0) if slide else 0 for slide in slides)


def decoder(
    config: Fields,
    mixers: Callable[[int], Mixer],
    feed_forwards: Callable[[int], FeedForward],
    *,
    layer_norms: Callable[[int], tuple[Tensor, ...]] | tuple[Tensor, ...] | None = None,
    final_norm: tuple[Tensor, ...] | None = None,
    tie: bool = False,
    context: int = 0,
) -> Decoder:
    """Return a decoder with Llama's names. Layer i has `mixers(i)` and `feed_forwards(i)`.

    Families with other names replace them in the result.

    `tie`: default of tie_word_embeddings.
    """
    hidden = config.size("hidden_size")
    own = norms(hidden, *PRE_NORMS) if layer_norms is None else layer_norms
    made: dict[tuple[int, int, int], Layer] = {}  # one object for layers of the same parts
    layers = []
    for i in range(num_layers(config)):
        parts = (mixers(i), feed_forwards(i), own(i) if callable(own) else own)
        key = (id(parts[0]), id(parts[1]), id(parts[2]))
        layers.append(made.setdefault(key, Layer(*parts)))
    return Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        max_context=context or max_context(config),
        layers=tuple(layers),
        outer=norms(hidden, "model.norm") if final_norm is None else final_norm,
        tie_embeddings=config.flag("tie_word_embeddings", tie),
    )


def uniform(config: Fields, mixer: Mixer, feed_forward: FeedForward, **names: Any) -> Decoder:
    """Return a decoder of equal layers. `names`: as in `decoder`."""
    return decoder(config, lambda _: mixer, lambda _: feed_forward, **names)
