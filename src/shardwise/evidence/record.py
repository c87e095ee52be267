"""Evidence: a deployment, a workload, the metrics with intervals, a breakdown, and the source.

Analysis, cost and rendering do not depend on whether they were predicted or measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from shardwise.layout.deployment import Deployment
from shardwise.workload.workload import Workload

Kind = Literal["predicted", "simulated", "measured", "published"]


class Interval(msgspec.Struct, frozen=True):
    """A value with its 80 % interval; `n` counts the samples behind it, 0 if predicted."""

    value: float
    lo: float
    hi: float
    n: int = 0


class Source(msgspec.Struct, frozen=True):
    """Origin of evidence: the kind of result, its producer, and the date."""

    kind: Kind
    name: str  #: profile, data set or run
    date: str = ""  #: ISO date
    note: str = ""


class Evidence(msgspec.Struct, frozen=True):
    """One result. Metrics have the names and units of `shardwise.metrics`."""

    deployment: Deployment
    workload: Workload
    metrics: Mapping[str, Interval]
    source: Source
    breakdown: Mapping[str, float] = msgspec.field(
        default_factory=dict
    )  #: seconds per request, by cause
