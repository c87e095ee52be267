"""Measured rows that no GPU can give: more bytes or arithmetic a second than its datasheet has.

A token cannot come faster than one rank reads its weights and the caches of its sequences, and no
more tokens a second than its matrix units multiply weights for. Both bounds leave out everything
else, so a row beyond them has a wrong unit, column, GPU or model, or did not do the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from shardwise.kernels.experts import touched
from shardwise.perfmodel.batches import Batch
from shardwise.perfmodel.rows import Row
from shardwise.perfmodel.work import Array, rank_work

#: Datasheets round, and a clock may be above the nominal one: how far beyond counts.
SLACK: Final = 1.05


class Impossible(msgspec.Struct, frozen=True):
    """A row that is beyond its GPU.

    Attributes:
        resource: "bytes/s" or "FLOP/s".
        share: Of what the GPU has; above 1.
    """

    row: Row
    resource: str
    share: float

    @property
    def reason(self) -> str:
        """What was measured, against which limit, and what to check."""
        return (
            f"what was measured takes {self.share:.3g} times the {self.resource} of "
            f"{self.row.gpu}; check its units, model, dtype, GPU and TP"
        )


def impossible(batches: Sequence[Batch]) -> list[Impossible]:
    """Rows of `batches` that imply more than their GPU has, in the order of the batches. Rows that
    may have run with drafted tokens are not judged: a step gives them several."""
    found = []
    for batch in batches:
        shares = {"bytes/s": bandwidth_share(batch), "FLOP/s": arithmetic_share(batch)}
        for i, row in enumerate(batch.rows):
            if row.drafted is not None or row.speculation in ("likely", "unknown"):
                continue
            for resource, share in shares.items():
                if share[i] > SLACK:
                    found.append(Impossible(row, resource, float(share[i])))
    return found


def bandwidth_share(batch: Batch) -> Array:
    """Bytes a second that each row's TPOT implies, over its GPU's; NaN without a TPOT.

    The weights of a rank are read once a token, of experts those that a step's tokens are routed
    to, and the prompt's cache of every sequence that memory holds.
    """
    load, arch = batch.load, batch.arch
    work = rank_work(arch, load.layouts, batch.key.kv_dtype)
    copies = load.layouts.attention_dp
    held = np.minimum(load.concurrency, load.kv_capacity_tokens / load.isl)
    share = np.ones(1)
    if arch.moe:
        number = np.array(float(arch.moe.num_experts))
        share = touched(number, held * arch.moe.top_k) / number
    read = work.bytes_of("dense") + work.bytes_of("experts") * share + work.bytes_of("head")
    caches = sum(r.bytes_per_token * np.minimum(load.isl, r.limit) for r in work.reads)
    read = (read + caches * held / copies) / load.pp_size
    return np.asarray(read / batch.observed("tpot_s") / batch.gpu.memory_bandwidth)


def arithmetic_share(batch: Batch) -> Array:
    """FLOPs a second that each row's throughput implies, over its GPU's; NaN without one.

    Prompts are counted where they are computed: not where a cache may hold their beginning.
    """
    load = batch.load
    work = rank_work(batch.arch, load.layouts, batch.key.kv_dtype)
    flops = sum(s.flops_per_token for s in work.streams if s.kind != "head")
    tokens = batch.observed("output_tok_s") * (1.0 + load.new_tokens / load.osl)
    setting = batch.setting({})
    fastest = max(
        (batch.gpu.matrix_rate(setting.compute_dtype(s.format)) for s in work.streams),
        default=batch.gpu.matrix_rate("bf16"),
    )
    return np.asarray(flops * tokens / (load.pp_size * load.layouts.attention_dp) / fastest)
