"""Refuse configs with fields that determine the model's shape but were not read."""

from __future__ import annotations

import re
from typing import Final

from shardwise.architecture.fields import Fields
from shardwise.errors import InputError

#: Names of sizes that must not be ignored: counts and widths of experts, latent ranks.
_SHAPES: Final = re.compile(
    r"^(n|num)_\w*expert\w*$|^\w*experts?_(num|count)$|^moe_\w*(size|dim|hidden\w*)$"
    r"|^\w*expert\w*_(size|width|dim)$|^\w*_lora_rank$"
)
#: Named like sizes of experts, but about routing or training, or duplicates of another field.
_HARMLESS: Final = frozenset(
    {
        *("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "num_expert_group"),
        *("num_expert_groups", "n_expert_groups", "num_experts_per_group", "num_limited_experts"),
        *("num_experts_per_device", "num_shared_experts_per_tok", "expert_parallel_size"),
        *("experts_top_k", "num_selected_experts"),
    }
)


def refuse_unread(config: Fields) -> None:
    """Raise InputError for a size of experts or latents that the family's reader ignored."""
    if config.values.get("per_layer_config") and "per_layer_config" not in config.read:
        raise config.bad("per_layer_config", "none for this family: its layers are equal")
    # files repeat a count that was read under another name (num_local_experts, num_experts)
    names = config.read - config.assumed
    read = [config.values.get(name) for name in names if _SHAPES.match(name)]
    known = {value for value in read if isinstance(value, int)}
    for name, value in config.values.items():
        if name in config.read or name in _HARMLESS or not _SHAPES.match(name):
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            if value in known:
                continue
            family = str(config.values.get("model_type"))[:60]
            raise InputError(
                f"{config.where}: {name[:60]} is {value}, which {family!r} is not known to have",
                "fields that change the shape are not ignored",
                "see 'Add a model family' in CONTRIBUTING.md",
            )
