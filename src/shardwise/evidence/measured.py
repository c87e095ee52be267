"""A measured cell: evidence, runs, raw requests and conditions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from shardwise.evidence.record import Evidence
from shardwise.evidence.request import RequestRecord


class Repeat(msgspec.Struct, frozen=True):
    """One run of a cell. Times are seconds of that boot's CLOCK_MONOTONIC, like its records'."""

    started_s: float
    ended_s: float
    window_s: tuple[float, float]  #: the steady part, from which the metrics are taken
    records: tuple[RequestRecord, ...]
    client: Mapping[str, Any] = msgspec.field(default_factory=dict)  #: the client's self-check


class Measured(msgspec.Struct, frozen=True):
    """A cell of a study, as stored.

    `conditions` record everything that is not a metric: engine version and flags, hardware, cores,
    seed, how prompts were made, the `prompt_seeds` of the runs, percentiles, failures by kind with
    samples, and whether the client kept up.
    """

    study: str
    key: str  #: of the cell within its study
    evidence: Evidence
    conditions: Mapping[str, Any] = msgspec.field(default_factory=dict)
    repeats: tuple[Repeat, ...] = ()

    @property
    def client_bound(self) -> bool:
        """Whether the client was the bottleneck, so that values do not describe the server."""
        return bool(self.conditions.get("client_bound"))

    @property
    def usable(self) -> bool:
        """Whether requests completed and the client kept up."""
        return not self.why_unusable

    @property
    def why_unusable(self) -> str:
        """The reason why the values do not describe the server; "" if they do."""
        if self.client_bound:
            return "client-bound"
        if self.evidence.metrics:
            return ""
        if self.conditions.get("completed"):
            return "without a request in the steady window"
        return "without a completed request"


def count_reasons(reasons: Iterable[str]) -> str:
    """Return how often each reason occurs, the most frequent first, as text; "" is no reason."""
    counted = Counter(filter(None, reasons)).most_common()
    return "; ".join(f"{count} {reason}" for reason, count in counted)
