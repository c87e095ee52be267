"""Evidence: a deployment, a workload, the metrics with intervals, a breakdown, and the source.

Analysis, cost and rendering take these and do not ask whether they were predicted or measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shardwise.workload.workload import Workload

Kind = Literal["predicted", "simulated", "measured", "published"]


@dataclass(frozen=True)
class Interval:
    """A value with its 80 % interval; `n` counts the samples behind it, 0 if predicted."""

    value: float
    lo: float
    hi: float
    n: int = 0


@dataclass(frozen=True)
class Deployment:
    """What runs: `replicas` copies of a model, each sharded over tp_size x pp_size GPUs."""

    model: str
    gpu: str
    tp_size: int
    pp_size: int = 1
    replicas: int = 1
    weight_dtype: str = "fp8"
    kv_dtype: str = "auto"
    engine: str = "vllm"
    expert_parallel: bool = False
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    gpu_memory_utilization: float = 0.9
    max_model_len: int = 0  #: tokens; 0: the model's own

    @property
    def gpus(self) -> int:
        return self.tp_size * self.pp_size * self.replicas


@dataclass(frozen=True)
class Source:
    """Where evidence came from: the kind of result, who or what produced it, and when."""

    kind: Kind
    name: str  #: profile, data set or run
    date: str = ""  #: ISO date
    note: str = ""


@dataclass(frozen=True)
class Evidence:
    """One result. Metrics are keyed by the names of `shardwise.metrics`, in their units."""

    deployment: Deployment
    workload: Workload
    metrics: Mapping[str, Interval]
    source: Source
    breakdown: Mapping[str, float] = field(default_factory=dict)  #: seconds per request, by cause
