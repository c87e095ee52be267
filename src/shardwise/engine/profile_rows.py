"""Convert a profile to evidence, and to a row for `shardwise calibrate`.

If only one rank's shard was measured, the performance model adds the all-reduce.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch

from shardwise.architecture import models
from shardwise.engine.profiling import Profile, Question
from shardwise.engine.step_timer import RankProfile
from shardwise.errors import InputError, ShardwiseError, UnknownNameError
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.gpu import Gpu
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout
from shardwise.perfmodel.coefficients import COEFFICIENTS
from shardwise.perfmodel.profiles import Calibrated, bundled_profile, calibrated
from shardwise.perfmodel.subject import catalogue_for
from shardwise.workload.workload import Workload

Z80: Final = (
    1.28  #: half-width of an 80 % interval of a normal distribution, in standard deviations
)
#: Log spread of an all-reduce estimated from the topology: a factor of 1.7 either way at 80 %.
GUESSED_SPREAD: Final = 0.4


class Named(msgspec.Struct, frozen=True):
    """Names of the model and the hardware in a row."""

    model: str
    gpu: str
    catalogue_files: tuple[Path, ...] = ()  #: node file that the GPU comes from, if any

    @property
    def known_gpu(self) -> Gpu | None:
        """Entry in the catalogue, if there is one."""
        try:
            return catalogue_for(self.catalogue_files, self.gpu, "builtin").gpu(self.gpu)
        except UnknownNameError:
            return None


def model_id(path: Path) -> str:
    """Return a name that other commands accept: a bundled model of the same shape, or the path."""
    try:
        known, given = models.load(path.name), models.load(str(path.resolve()))
    except ShardwiseError:
        return str(path.resolve())
    same = known.groups == given.groups and known.vocab_size == given.vocab_size
    return known.id if same else str(path.resolve())


def require_collectives(named: Named) -> None:
    """Raise InputError if the performance model has no all-reduce for the hardware."""
    if named.known_gpu is None:
        raise InputError(
            f"--gpu is {named.gpu!r}, and rows of --emulate need its all-reduce",
            "allowed: a GPU of the catalogue",
            "name one, or run 'shardwise hardware detect' on a machine that has several ranks",
        )


def evidence(profile: Profile, question: Question, named: Named) -> Evidence:
    """Return a profile as a static batch: prefill, then osl - 1 decode steps, of the slowest rank.

    The result is the sum of steps timed one by one, without the time of a server between them.
    """
    prefill = max(profile.prefill, key=lambda r: r.seconds["total"])
    decode = max(profile.decode, key=lambda r: r.seconds["total"])
    steps, gpu = question.osl - 1, named.known_gpu
    link = _Link.of(profile.tp_size, gpu) if profile.emulated and gpu else None
    ttft, tpot = _interval(prefill, link), _interval(decode, link)
    e2e = Interval(
        ttft.value + steps * tpot.value,
        ttft.lo + steps * tpot.lo,
        ttft.hi + steps * tpot.hi,
        ttft.n,
    )
    spent = {
        part: prefill.seconds[part] + steps * decode.seconds[part]
        for part in ("attention", "mlp", "all_reduce", "other")
    }
    if link:
        spent["all_reduce"] = link.seconds(prefill) + steps * link.seconds(decode)
    return Evidence(
        deployment=Deployment(
            model=named.model,
            gpu=gpu.id if gpu else named.gpu,
            layout=Layout(tp_size=profile.tp_size),
            limits=EngineLimits(
                max_num_seqs=profile.batch, max_num_batched_tokens=profile.batch * question.isl
            ),
            dtypes=Dtypes(weight=profile.dtype, kv=profile.dtype),
            engine="builtin",
        ),
        workload=Workload(question.isl, question.osl, profile.batch, mode="static_batch"),
        metrics={"ttft_s": ttft, "tpot_s": tpot, "e2e_latency_s": e2e},
        source=_source(profile, link),
        breakdown=spent,
    )


class _Link(msgspec.Struct, frozen=True):
    """All-reduce of `tp_size` ranks in the performance model."""

    tp_size: int
    known: Calibrated

    @classmethod
    def of(cls, tp_size: int, gpu: Gpu) -> _Link:
        siblings = default_catalogue().by_id
        return cls(tp_size, calibrated(bundled_profile(), gpu, "builtin", siblings))

    def seconds(self, rank: RankProfile) -> float:
        """Return the seconds of all all-reduces in one step of `rank`."""
        c, collectives = self.known.coefficients, self.known.collectives
        tp, total = np.array(float(self.tp_size)), 0.0
        for message in rank.messages:
            each = float(collectives.time(tp, np.array(float(message.bytes))))
            each = c["collective"] * each + c["skew"] * (self.tp_size - 1)
            total += message.calls * each
        return total

    @property
    def factor(self) -> float:
        """Return the half-width of its 80 % interval, as a factor."""
        measured = self.known.collectives.measured
        spread = COEFFICIENTS["collective"].spread if measured else GUESSED_SPREAD
        return float(np.exp(Z80 * spread))


def _interval(rank: RankProfile, link: _Link | None) -> Interval:
    """Return median and middle 80 % of the repeats, with the modelled all-reduce's interval."""
    lo, mid, hi = np.quantile(rank.totals_s, [0.1, 0.5, 0.9]).tolist()
    added, factor = (link.seconds(rank), link.factor) if link else (0.0, 1.0)
    return Interval(mid + added, lo + added / factor, hi + added * factor, len(rank.totals_s))


def _source(profile: Profile, link: _Link | None) -> Source:
    today = datetime.date.today().isoformat()
    note = "prefill and decode steps timed one by one on repeated tokens, added up"
    if not profile.emulated:
        return Source("measured", "shardwise profile", today, note)
    note = f"one rank's shard of TP={profile.tp_size} measured alone; {note}"
    if link is None:
        note = f"all-reduce not included; {note}"
        return Source("measured", "shardwise profile --emulate", today, note)
    how = link.known.collectives.measured or "guessed from the topology"
    return Source(
        "predicted", "shardwise profile --emulate", today, f"{note}; all-reduce predicted: {how}"
    )


#: columns that `shardwise calibrate` reads
CSV_COLUMNS: Final = (
    "source_id",
    "model_id",
    "gpu_id",
    "engine_id",
    "engine",
    "weight_dtype",
    "kv_dtype",
    "tp",
    "pp",
    "mode",
    "concurrency",
    "isl",
    "osl",
    "e2e_s",
    "ttft_ms",
    "tpot_ms",
    "measured_on",
    "use",
)


def csv_row(result: Evidence) -> Mapping[str, str]:
    """Return the evidence as a row of measurements with CSV_COLUMNS."""
    at, load, metrics = result.deployment, result.workload, result.metrics
    return {
        "source_id": result.source.name.replace(" --", "_").replace(" ", "_"),
        "model_id": at.model,
        "gpu_id": at.gpu,
        "engine_id": at.engine,
        "engine": f"shardwise engine, torch {torch.__version__}",
        "weight_dtype": at.dtypes.weight,
        "kv_dtype": at.dtypes.kv,
        "tp": str(at.tp_size),
        "pp": "1",
        "mode": "static_batch",
        "concurrency": str(load.concurrency),
        "isl": f"{load.isl:g}",
        "osl": f"{load.osl:g}",
        "e2e_s": f"{metrics['e2e_latency_s'].value:.6g}",
        "ttft_ms": f"{metrics['ttft_s'].value * 1e3:.6g}",
        "tpot_ms": f"{metrics['tpot_s'].value * 1e3:.6g}",
        "measured_on": result.source.date,
        "use": "calibrate",
    }
