"""Find measured rows that exceed the peak bandwidth or FLOP/s of their GPU.

TPOT cannot be shorter than the time in which a rank reads its weights and the caches of its
sequences. Throughput cannot exceed what the matrix units can multiply. Both bounds ignore all other
costs, so a row beyond them has a wrong unit, column, GPU or model, or did not do the work.
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

#: Ratio to the peak rate above which a row is impossible. Datasheets round, and a clock may exceed
#: the nominal one.
SLACK: Final = 1.05


class Impossible(msgspec.Struct, frozen=True):
    """A row that exceeds a limit of its GPU.

    Attributes:
        resource: "bytes/s" or "FLOP/s".
        share: Ratio to the GPU's peak rate; above 1.
    """

    row: Row
    resource: str
    share: float

    @property
    def reason(self) -> str:
        """What exceeds which limit, and what to check."""
        return (
            f"the measured value needs {self.share:.3g} times the {self.resource} of "
            f"{self.row.gpu}; check its units, model, dtype, GPU and TP"
        )


def impossible(batches: Sequence[Batch]) -> list[Impossible]:
    """Return rows that exceed the peak rates of their GPU, in the order of `batches`.

    Rows that may have run with speculative decoding are not checked, because a step may produce
    several of their tokens.
    """
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
    """Return the memory bandwidth that each row's TPOT implies, relative to the GPU's.

    A rank reads per step: its dense weights, the experts to which the step's tokens are routed, and
    the prompt's cache of each sequence that fits in memory. NaN without a TPOT.
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
    """Return the FLOP/s that each row's throughput implies, relative to the GPU's.

    Cached prompt tokens are not counted. NaN without a throughput.
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
