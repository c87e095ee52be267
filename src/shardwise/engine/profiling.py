"""The microscope over several TP sizes and batches, and its results as evidence."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from shardwise.engine import microscope, sharding
from shardwise.engine.ceilings import Ceilings
from shardwise.engine.checkpoint import open_checkpoint
from shardwise.engine.engine import Engine
from shardwise.engine.microscope import RankProfile
from shardwise.engine.options import EngineOptions
from shardwise.errors import InputError
from shardwise.evidence.record import Deployment, Evidence, Interval, Source
from shardwise.workload.workload import Workload


@dataclass(frozen=True)
class Question:
    """What to look at: each batch of equal requests, at each tp_size."""

    tp_sizes: Sequence[int]
    batches: Sequence[int]
    isl: int
    osl: int
    repeats: int = 10
    emulate: bool = False  #: one rank's shard alone, collectives left out


@dataclass(frozen=True)
class Profile:
    """One tp_size and batch: every rank's prefill and decode step, and what the ranks could do."""

    tp_size: int
    batch: int
    dtype: str
    device: str
    emulated: bool
    ceilings: list[Ceilings]
    prefill: list[RankProfile]
    decode: list[RankProfile]


def profile(
    path: Path, question: Question, options: EngineOptions, done: Callable[[str], None]
) -> Iterator[Profile]:
    """A Profile for each tp_size and batch, as they come; `done` is told each one's name.

    A prefill is one step of batch * isl tokens; a decode is taken in the middle of the answer, at
    a context of isl + osl / 2. Raises InputError before anything is loaded.
    """
    config = open_checkpoint(path, options.random_weights).config
    for tp_size in question.tp_sizes:
        sharding.check_tp_size(config, tp_size)
    if question.isl + question.osl > config.max_context:
        raise InputError(
            f"isl {question.isl} and osl {question.osl}",
            f"together at most {config.max_context} tokens, {config.context_limit}",
        )
    widest, block = max(question.batches), options.block_size
    context = -(-(question.isl + question.osl) // block) * block
    for tp_size in question.tp_sizes:
        emulated = question.emulate and tp_size > 1
        asked = dataclasses.replace(
            options,
            tp_size=1 if emulated else tp_size,
            emulate_tp_size=tp_size if emulated else 0,
            kv_cache_tokens=widest * context,
            max_num_batched_tokens=widest * question.isl,
            max_num_seqs=widest,
        )
        with Engine(path, asked) as engine:
            limits = engine.group.collect(microscope.measure_ceilings)
            for batch in question.batches:
                done(f"TP={tp_size} batch {batch}")
                prefill = microscope.prefill_plan(batch, question.isl, block)
                decode = microscope.decode_plan(batch, question.isl + question.osl // 2, block)
                run = engine.group.collect
                yield Profile(
                    tp_size=tp_size,
                    batch=batch,
                    dtype=engine.dtype,
                    device=str(engine.options.device),
                    emulated=emulated,
                    ceilings=limits,
                    prefill=run(microscope.profile_rank, prefill, question.repeats),
                    decode=run(microscope.profile_rank, decode, question.repeats),
                )


def evidence(profile: Profile, question: Question, model: str, gpu: str) -> Evidence:
    """A profile as a static batch: prefill, then osl - 1 decode steps, of the slowest rank.

    Measured steps added up; what a server adds between them is not in it.
    """
    prefill = max(profile.prefill, key=lambda r: r.seconds["total"])
    decode = max(profile.decode, key=lambda r: r.seconds["total"])
    steps = question.osl - 1
    ttft, tpot = _interval(prefill.totals_s), _interval(decode.totals_s)
    e2e = Interval(
        ttft.value + steps * tpot.value,
        ttft.lo + steps * tpot.lo,
        ttft.hi + steps * tpot.hi,
        ttft.n,
    )
    note = "prefill and decode steps timed one by one on repeated tokens, added up"
    if profile.emulated:
        note = f"one rank's shard of TP={profile.tp_size} alone; all-reduce not included; {note}"
    return Evidence(
        deployment=Deployment(
            model=model,
            gpu=gpu,
            tp_size=profile.tp_size,
            weight_dtype=profile.dtype,
            kv_dtype=profile.dtype,
            engine="builtin",
            max_num_seqs=profile.batch,
            max_num_batched_tokens=profile.batch * question.isl,
        ),
        workload=Workload(question.isl, question.osl, profile.batch, mode="static_batch"),
        metrics={"ttft_s": ttft, "tpot_s": tpot, "e2e_latency_s": e2e},
        source=Source("measured", "shardwise profile", datetime.date.today().isoformat(), note),
        breakdown={
            part: prefill.seconds[part] + steps * decode.seconds[part]
            for part in ("attention", "mlp", "all_reduce", "other")
        },
    )


def _interval(totals_s: list[float]) -> Interval:
    """Median and the middle 80 % of the repeats."""
    lo, mid, hi = np.quantile(totals_s, [0.1, 0.5, 0.9]).tolist()
    return Interval(mid, lo, hi, len(totals_s))


#: columns that `shardwise calibrate` reads
CSV_COLUMNS = (
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


def csv_row(result: Evidence) -> dict[str, str]:
    """The evidence as a row of measurements, under CSV_COLUMNS."""
    at, load, metrics = result.deployment, result.workload, result.metrics
    return {
        "source_id": "shardwise_profile",
        "model_id": at.model,
        "gpu_id": at.gpu,
        "engine_id": at.engine,
        "engine": f"shardwise engine, torch {torch.__version__}",
        "weight_dtype": at.weight_dtype,
        "kv_dtype": at.kv_dtype,
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
