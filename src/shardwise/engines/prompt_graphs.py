"""Which steps with prompts an engine runs as piecewise CUDA graphs: all but attention is replayed
instead of launched kernel by kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from shardwise.architecture.mixers import Attention
from shardwise.architecture.model import Model
from shardwise.layout.deployment import Layout

#: Tokens of the largest step if graphs are captured for every step that the engine's budget allows.
WHOLE_BUDGET: Final = 2**31


class PromptGraphs(msgspec.Struct, frozen=True):
    """The largest step with prompts that runs as piecewise CUDA graphs by an engine's default."""

    largest: int = 0  #: tokens; 0: every step with prompts is launched kernel by kernel
    by_family: Mapping[str, int] = msgspec.field(default_factory=dict)  #: where it differs
    #: only for models whose mixers are all grouped-query attention, without towers and drafts, in
    #: layouts of one copy of attention and one stage
    plain_only: bool = False
    dense_only: bool = False  #: not for mixtures of experts

    def tokens(self, model: Model, layout: Layout, *, drafts: bool) -> int:
        """Return the tokens of the largest step with prompts that runs as graphs."""
        if self.plain_only and (drafts or not _plain(model, layout)):
            return 0
        if self.dense_only and model.moe is not None:
            return 0
        return self.by_family.get(model.family, self.largest)


def _plain(model: Model, layout: Layout) -> bool:
    split = layout.attention_dp > 1 or layout.pp_size > 1 or layout.dcp_size > 1
    usual = all(isinstance(group.mixer, Attention) for group in model.groups)
    return usual and not split and not model.towers
