"""What one measured cell holds beyond its evidence: its runs, raw requests and conditions."""

from __future__ import annotations

from collections.abc import Mapping
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
    client: Mapping[str, Any] = msgspec.field(default_factory=dict)  #: the client's check of itself


class Measured(msgspec.Struct, frozen=True):
    """A cell of a study as it is stored.

    `conditions` say what no metric says: engine version and flags, hardware, cores, seed, how
    prompts were made, percentiles, failures by kind with samples, and whether the client kept up.
    """

    study: str
    key: str  #: of the cell within its study
    evidence: Evidence
    conditions: Mapping[str, Any] = msgspec.field(default_factory=dict)
    repeats: tuple[Repeat, ...] = ()

    @property
    def client_bound(self) -> bool:
        """The client could not keep up, so the figures are not the server's."""
        return bool(self.conditions.get("client_bound"))

    @property
    def usable(self) -> bool:
        """A figure of the server's: requests completed, and the client kept up."""
        return not self.client_bound and bool(self.evidence.metrics)
