"""Predict deployments: metrics with intervals and a breakdown, as evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property

import msgspec
import numpy as np

from shardwise.architecture.model import Model
from shardwise.engines.registry import get
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.hardware.gpu import Gpu
from shardwise.hardware.network import Fabric
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import Deployment, Layout
from shardwise.layout.speculation import Speculation
from shardwise.perfmodel.collectives import Collectives
from shardwise.perfmodel.drafting import speculating
from shardwise.perfmodel.drafts import draft_held
from shardwise.perfmodel.hierarchy import model_key
from shardwise.perfmodel.in_step import WORDS as IN_STEP
from shardwise.perfmodel.intervals import METRICS, half_widths, with_speculation
from shardwise.perfmodel.knowledge import UNCALIBRATED, WORDS, Asked
from shardwise.perfmodel.loads import Offered, make_load
from shardwise.perfmodel.memory import Platform
from shardwise.perfmodel.profiles import Calibrated
from shardwise.perfmodel.serving import SERVE, Served
from shardwise.perfmodel.step import Setting, StepTime
from shardwise.perfmodel.work import Array
from shardwise.workload.workload import Workload


class Subject(msgspec.Struct, frozen=True, dict=True):
    """A model on a GPU with an engine, dtypes and a profile.

    Attributes:
        arch: The model in its serving dtype.
        kv_dtype: KV cache dtype; "auto" is what the checkpoint asks for.
        speculation: Tokens that are drafted and verified in each decode step.
    """

    arch: Model
    gpu: Gpu
    engine: str
    kv_dtype: str
    calibrated: Calibrated
    engine_version: str = ""
    speculation: Speculation | None = None
    fabric: Fabric | None = None  #: what joins nodes, where there are several

    @property
    def weight_dtype(self) -> str:
        """Dtype of the checkpoint's weights."""
        return self.arch.checkpoint_dtype

    @cached_property
    def setting(self) -> Setting:
        """The constant settings of this subject's deployments."""
        plain = Setting(
            self.arch,
            self.gpu,
            self.engine,
            self.arch.kv_dtype if self.kv_dtype == "auto" else self.kv_dtype,
            self.calibrated.coefficients_of(model_key(self.arch)),
            self.engine_version,
            fabric=self.fabric,
        )
        return speculating(plain, self.speculation)

    @property
    def draft(self) -> Model | None:
        """The loaded draft, if any."""
        return draft_held(self.arch, self.speculation) if self.speculation else None

    @cached_property
    def platform(self) -> Platform:
        """GPU, engine and version."""
        return Platform(self.gpu, self.engine, self.engine_version)

    @cached_property
    def asked(self) -> Asked:
        """The context that errors depend on."""
        return Asked(
            self.gpu.id,
            self.engine,
            self.engine_version,
            model_key(self.arch),
            self.arch.family,
            self.weight_dtype,
            self.arch.moe is not None,
            self._kernel_error,
            self.fabric.gpus_per_node if self.fabric else 0,
            bool(self.gpu.all_reduce_source),
        )

    @property
    def _kernel_error(self) -> float:
        """Typical kernel error on a GPU without rows; rows already account for it."""
        if self.gpu.id in self.calibrated.profile.knowledge.gpus:
            return 0.0
        kernels = self.setting.kernels(Layouts.of([Layout()]))
        return float(np.max(kernels.kernel_error))

    @property
    def collectives(self) -> Collectives:
        """All-reduce times of the calibration."""
        return self.calibrated.collectives


def sweep(subject: Subject, mode: str, deployments: Deployments, offered: Offered) -> Served:
    """Predict arrays of configurations."""
    setting = subject.setting
    load = make_load(
        subject.arch, subject.platform, setting.kv_dtype, deployments, offered, subject.draft
    )
    return SERVE[mode](setting, load)


def widths_in(
    subject: Subject,
    layouts: Iterable[Layout],
    metrics: Sequence[str],
    mode: str = "closed_loop",
) -> dict[tuple[Layout, str], float]:
    """Return the half-width (log) of the 80 % interval of each of `metrics` in each of
    `layouts`."""
    profile, drafted = subject.calibrated.profile, subject.speculation
    return {
        (layout, metric): with_speculation(width, drafted, metric)
        for layout in layouts
        for metric, width in half_widths(profile, subject.asked, metrics, layout, mode).items()
    }


def _interval(value: float, width: float) -> Interval:
    return Interval(value, value * float(np.exp(-width)), value * float(np.exp(width)))


def note_of(known: Calibrated, asked: Asked, layouts: Sequence[Layout]) -> str:
    """Return one line on the provenance of predictions in `layouts`: the profile, and what no row
    of the least covered one has."""
    profile = known.profile
    unseen = {u for layout in layouts for u in profile.knowledge.unseen(asked, layout)}
    named = f" {asked.version}" if asked.version else ""
    text = f"profile {profile.name}: {asked.pair}{named} "
    if not unseen & UNCALIBRATED:
        text += "calibrated"
    else:
        text += "not calibrated: kernel tables, corrected by rows of others"
    missing = [words for u, words in WORDS.items() if u in unseen]
    if "gpu" in unseen:
        missing.append(f"typical kernel error {100 * asked.kernel_error:.0f} %")
    if missing:
        text += f"; {', '.join(missing)}: interval from errors on such held-out rows"
    remark = get(asked.engine).version_remark(asked.version) if asked.version else ""
    return f"{text}; {remark}" if remark else text


def note_on(subject: Subject, layouts: Sequence[Layout] = ()) -> str:
    """Return one line on the provenance of a subject's predictions."""
    note = note_of(subject.calibrated, subject.asked, layouts or [Layout()])
    return f"{note}; {subject.speculation.words}" if subject.speculation else note


def _sent(workload: Workload) -> float:
    """Return the requests of the run, the first of which are sent at once; infinite at a rate."""
    if workload.request_rate is not None:
        return math.inf
    return workload.requests or 10 * workload.concurrency


def predict(
    subject: Subject, deployments: Sequence[Deployment], workloads: Sequence[Workload]
) -> list[Evidence]:
    """Return evidence of one replica for each pair of a deployment and a workload.

    All pairs share the subject and the workload's mode. `concurrency` is per replica.
    """
    if not deployments:
        return []

    def column(values: Sequence[float]) -> Array:
        return np.array(values, dtype=np.float64)

    offered = Offered(
        concurrency=column([w.concurrency for w in workloads]),
        isl=column([w.isl for w in workloads]),
        osl=column([w.osl for w in workloads]),
        requests=column([_sent(w) for w in workloads]),
        length_cv=column([w.length_cv for w in workloads]),
        cached_tokens=column([w.cached_tokens for w in workloads]),
    )
    served = sweep(subject, workloads[0].mode, Deployments.of(deployments), offered)
    note = note_on(subject, [d.layout for d in deployments])
    shown = (*METRICS, "total_tok_s")
    widths = widths_in(subject, {d.layout for d in deployments}, shown, workloads[0].mode)
    found = []
    for i, (deployment, workload) in enumerate(zip(deployments, workloads, strict=True)):
        metrics = {
            metric: _interval(
                float(getattr(served, metric)[i]),
                widths[deployment.layout, metric],
            )
            for metric in shown
        }
        breakdown = {
            name: float(getattr(served.breakdown, name)[i]) for name in StepTime.__struct_fields__
        }
        queue = metrics["e2e_latency_s"].value - sum(breakdown.values())
        breakdown["queueing"] = max(queue, 0.0)
        words = f"{note}; {IN_STEP}" if served.in_step[i] else note
        source = Source("predicted", words)
        found.append(Evidence(deployment, workload, metrics, source, breakdown))
    return found
