"""Evidence: a deployment, a workload, the metrics with intervals, a breakdown, and the source.

Analysis, cost and rendering take these and do not ask whether they were predicted or measured.
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
    """Where evidence came from: the kind of result, who or what produced it, and when."""

    kind: Kind
    name: str  #: profile, data set or run
    date: str = ""  #: ISO date
    note: str = ""


class Evidence(msgspec.Struct, frozen=True):
    """One result. Metrics are keyed by the names of `shardwise.metrics`, in their units."""

    deployment: Deployment
    workload: Workload
    metrics: Mapping[str, Interval]
    source: Source
    breakdown: Mapping[str, float] = msgspec.field(
        default_factory=dict
    )  #: seconds per request, by cause
