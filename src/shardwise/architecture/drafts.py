"""Multi-token prediction heads, which draft tokens, as a separate model."""

from __future__ import annotations

import math
from functools import lru_cache

from msgspec.structs import replace

from shardwise.architecture.model import LayerGroup, Model
from shardwise.errors import InputError


def require_heads(model: Model) -> None:
    """Raise InputError if `model` has no multi-token prediction heads."""
    if not model.drafts:
        raise InputError(
            f"speculation mtp with {model.id}",
            "allowed: models with multi-token prediction heads",
            "name a draft model instead, as in --speculation llama-3.2-1b:4",
        )


@lru_cache(maxsize=256)
def draft_pass(model: Model) -> Model:
    """Return the model that drafts one token: the layers of one module and the shared head.

    A checkpoint with several modules runs them in turn. One with a single module runs it again for
    each token.
    """
    require_heads(model)
    modules = math.gcd(*(group.count for group in model.drafts))
    groups = tuple(_part(group, group.count // modules) for group in model.drafts)
    return _of_drafts(model, groups)


@lru_cache(maxsize=256)
def draft_weights(model: Model) -> Model:
    """Return the weights that the heads add in memory: all modules, without the shared embedding
    and output head."""
    require_heads(model)
    return replace(_of_drafts(model, model.drafts), outer=(), tie_embeddings=False)


def _of_drafts(model: Model, groups: tuple[LayerGroup, ...]) -> Model:
    places = iter(range(sum(group.count for group in groups)))
    numbered = tuple(
        replace(group, layers=tuple(next(places) for _ in group.layers)) for group in groups
    )
    return replace(model, id=f"{model.id} mtp", groups=numbered, drafts=(), towers=())


def _part(group: LayerGroup, count: int) -> LayerGroup:
    return replace(group, layers=group.layers[:count])
