"""The batch at which a full node sustains an offered request rate.

By Little's law, a node that serves r requests/s of e seconds has r x e of them in flight. The
result is the smallest studied batch whose throughput reaches the rate.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shardwise.analysis.cost import NodeCost


class RateFit(msgspec.Struct, frozen=True):
    """A TP on a full node under a rate. `at` is None if no studied batch sustains it."""

    tp_size: int
    copies: int
    at: NodeCost | None
    most_requests_per_s: float  #: of the batches studied


def fits_for_rate(
    costs: Iterable[NodeCost], request_rate: float, osl: float
) -> tuple[RateFit, ...]:
    """Return for each TP the smallest batch per replica at which a full node serves
    `request_rate`."""
    by_tp: dict[int, list[NodeCost]] = {}
    for cost in costs:
        if cost.scenario == "full_node":
            by_tp.setdefault(cost.tp_size, []).append(cost)
    found = []
    for tp_size, row in sorted(by_tp.items()):
        enough = [c for c in row if c.output_tok_s.value / osl >= request_rate]
        found.append(
            RateFit(
                tp_size,
                row[0].copies,
                min(enough, key=lambda c: c.concurrency, default=None),
                max(c.output_tok_s.value for c in row) / osl,
            )
        )
    return tuple(found)
