"""Which steps with prompts an engine runs as piecewise CUDA graphs: all but attention is replayed
instead of launched kernel by kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from shardwise.architecture.model import Model
from shardwise.layout.deployment import Layout

#: Tokens of the largest step if graphs are captured for every step that the engine's budget allows.
WHOLE_BUDGET: Final = 2**31


class PromptGraphs(msgspec.Struct, frozen=True):
    """The largest step with prompts that runs as piecewise CUDA graphs by an engine's default."""

    largest: int = 0  #: tokens; 0: every step with prompts is launched
    by_family: Mapping[str, int] = msgspec.field(default_factory=dict)  #: where it differs
    latent: int | None = None  #: the same for models with MLA; None: as `largest`
    #: launched with copies of attention, pipeline stages, drafts, sparse attention, or a tower
    plain_only: bool = False

    def tokens(self, model: Model, layout: Layout, *, drafts: bool) -> int:
        """Return the tokens of the largest step with prompts that runs as graphs."""
        if self.plain_only and (drafts or not _plain(model, layout)):
            return 0
        if self.latent is not None and model.mla is not None:
            return self.latent
        return self.by_family.get(model.family, self.largest)


def _plain(model: Model, layout: Layout) -> bool:
    sparse = model.mla is not None and model.mla.indexer is not None
    split = layout.attention_dp > 1 or layout.pp_size > 1
    return not (split or sparse or model.towers)
