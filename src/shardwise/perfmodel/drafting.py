"""Steps of speculative decoding: verification, and the draft's passes."""

from __future__ import annotations

from msgspec.structs import replace

from shardwise.layout.speculation import Speculation
from shardwise.perfmodel.drafts import draft_run
from shardwise.perfmodel.step import Drafting, Setting


def speculating(setting: Setting, speculation: Speculation | None) -> Setting:
    """Return `setting` with drafting and verification in each decode step; unchanged without
    speculation.

    A draft's passes run in the step's graph: they add kernel time but no engine time.
    """
    if speculation is None:
        return setting
    quiet = {**setting.coefficients, "step": 0.0, "sequence": 0.0, "eager_kernel": 0.0}
    further = replace(setting, arch=draft_run(setting.arch, speculation), coefficients=quiet)
    queries = speculation.tokens + 1
    drafting = Drafting(
        speculation.tokens,
        speculation.tokens_per_step(),
        first=replace(further, query_tokens=queries),
        further=further,
    )
    return replace(setting, drafting=drafting, query_tokens=queries)
