"""The draft of a model: its own heads, or a separate draft model."""

from __future__ import annotations

from functools import lru_cache

from shardwise.architecture.bundled import stored_in
from shardwise.architecture.drafts import draft_pass, draft_weights, require_heads
from shardwise.architecture.model import Model
from shardwise.errors import InputError
from shardwise.layout.speculation import Speculation


def require_draft(model: Model, speculation: Speculation) -> None:
    """Raise InputError if `draft` cannot draft for `model`."""
    if speculation.own_heads:
        require_heads(model)
        return
    draft = draft_model(speculation.draft)
    if draft.vocab_size != model.vocab_size:
        raise InputError(
            f"draft model {draft.id} with a vocabulary of {draft.vocab_size:,}",
            f"allowed: that of {model.id}, {model.vocab_size:,}",
        )


def draft_held(model: Model, speculation: Speculation) -> Model:
    """Return what is loaded in addition to `model`: its heads, or a draft model."""
    return draft_weights(model) if speculation.own_heads else draft_model(speculation.draft)


def draft_run(model: Model, speculation: Speculation) -> Model:
    """Return what runs to draft one token."""
    return draft_pass(model) if speculation.own_heads else draft_model(speculation.draft)


@lru_cache(maxsize=64)  # models are compared as objects
def draft_model(name: str) -> Model:
    """Return a draft model in its checkpoint's dtype. Raises InputError for an unknown one."""
    from shardwise.architecture.models import load

    return stored_in(load(name), "auto")
