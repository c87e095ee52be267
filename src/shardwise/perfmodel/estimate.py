"""Predictions as evidence: deployments in, metrics with intervals and causes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from shardwise.architecture.model import Architecture
from shardwise.architecture.parameters import stored_dtype
from shardwise.evidence.record import Deployment, Evidence, Interval, Source
from shardwise.hardware.gpu import Gpu
from shardwise.perfmodel.batches import SERVE
from shardwise.perfmodel.collectives import Collectives
from shardwise.perfmodel.intervals import METRICS, Seen, half_width
from shardwise.perfmodel.loads import Limits, auto_kv_dtype, make_load
from shardwise.perfmodel.profiles import Calibrated
from shardwise.perfmodel.serving import Served
from shardwise.perfmodel.step import Setting, StepTime
from shardwise.perfmodel.work import Array
from shardwise.workload.workload import Workload


@dataclass(frozen=True)
class Subject:
    """A model on a GPU with an engine and dtypes, seen through a profile."""

    arch: Architecture
    gpu: Gpu
    engine: str
    weight_dtype: str
    kv_dtype: str
    calibrated: Calibrated

    @property
    def setting(self) -> Setting:
        weight = stored_dtype(self.arch, self.weight_dtype)
        kv = self.kv_dtype
        if kv == "auto":
            kv = auto_kv_dtype(weight, self.gpu, self.engine)
        return Setting(
            self.arch,
            self.gpu,
            weight,
            kv,
            dict(self.calibrated.coefficients),
            self.calibrated.collectives,
        )

    @property
    def seen(self) -> Seen:
        weight, levels = self.setting.weight_dtype, self.calibrated.levels
        return Seen(self.gpu.id, self.engine, weight, self.arch.shape, levels)

    @property
    def collectives(self) -> Collectives:
        return self.calibrated.collectives


def sweep(subject: Subject, mode: str, limits: Limits, offered: Sequence[Array]) -> Served:
    """Predict arrays of configurations. `offered`: concurrency, isl, osl, requests."""
    setting = subject.setting
    concurrency, isl, osl, requests = offered
    load = make_load(
        subject.arch,
        subject.gpu,
        setting.weight_dtype,
        setting.kv_dtype,
        limits,
        concurrency,
        isl,
        osl,
        requests,
    )
    return SERVE[mode](setting, load)


def _interval(value: float, width: float) -> Interval:
    return Interval(value, value * float(np.exp(-width)), value * float(np.exp(width)))


def note_of(known: Calibrated, seen: Seen, version: str = "") -> str:
    """One line on what stands behind a prediction; `version` of the engine where it was named."""
    profile, where = known.profile, f"{seen.gpu}/{seen.engine}"
    if seen.is_calibrated:
        named = f" {version}" if "version" in seen.levels else ""
        text = f"profile {profile.name}: {where}{named} calibrated"
        if f"{where}/{seen.weight_dtype}" not in profile.dtypes:
            text += f", {seen.weight_dtype} not"
        elif f"{where}/{seen.shape}" not in profile.shapes:
            text += ", with other models"
    else:
        shared = [level for level in ("gpu", "engine") if level in seen.levels]
        text = f"profile {profile.name}: {where} not calibrated"
        text += f", shares what is known of the {' and the '.join(shared)}" if shared else ""
        text += "; datasheet and priors, wide interval"
    return f"{text}; all-reduce: {known.collectives.measured or 'guessed from the topology'}"


def note_on(subject: Subject) -> str:
    """One line on what stands behind a subject's predictions."""
    return note_of(subject.calibrated, subject.seen)


def predict(
    subject: Subject, deployments: Sequence[Deployment], workloads: Sequence[Workload]
) -> list[Evidence]:
    """Evidence for each pair of a deployment and a workload, of one replica.

    All pairs share the subject and the workload's mode. `concurrency` is that of one replica.
    """
    if not deployments:
        return []

    def column(values: Sequence[float]) -> Array:
        return np.array(values, dtype=np.float64)

    limits = Limits(
        tp_size=column([d.tp_size for d in deployments]),
        pp_size=column([d.pp_size for d in deployments]),
        max_num_seqs=column([d.max_num_seqs for d in deployments]),
        max_num_batched_tokens=column([d.max_num_batched_tokens for d in deployments]),
        gpu_memory_utilization=deployments[0].gpu_memory_utilization,
        expert_parallel=np.array([d.expert_parallel for d in deployments]),
    )
    concurrency = column([w.concurrency for w in workloads])
    requests = column([w.requests or 10 * w.concurrency for w in workloads])
    offered = (
        concurrency,
        column([w.isl for w in workloads]),
        column([w.osl for w in workloads]),
        requests,
    )
    served = sweep(subject, workloads[0].mode, limits, offered)
    source = Source("predicted", note_on(subject))
    found = []
    for i, (deployment, workload) in enumerate(zip(deployments, workloads, strict=True)):
        metrics = {
            metric: _interval(
                float(getattr(served, metric)[i]),
                half_width(
                    subject.calibrated.profile,
                    subject.seen,
                    metric,
                    deployment.tp_size,
                    deployment.pp_size,
                    deployment.expert_parallel,
                ),
            )
            for metric in (*METRICS, "total_tok_s")
        }
        breakdown = {f.name: float(getattr(served.breakdown, f.name)[i]) for f in fields(StepTime)}
        queue = metrics["e2e_latency_s"].value - sum(breakdown.values())
        breakdown["queueing"] = max(queue, 0.0)
        found.append(Evidence(deployment, workload, metrics, source, breakdown))
    return found
