"""Errors on rows that a fit did not see: leave out a TP, a GPU, an engine, a dtype, a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shardwise.perfmodel.batches import Batch, group
from shardwise.perfmodel.calibrate import fit, levels_drawn
from shardwise.perfmodel.collectives import Collectives
from shardwise.perfmodel.hierarchy import Hierarchy, versions_of
from shardwise.perfmodel.intervals import METRICS, HeldOut
from shardwise.perfmodel.rows import Row
from shardwise.perfmodel.serving import Served
from shardwise.perfmodel.work import Array

ROW_FOLDS = 4
Links = Callable[[Batch], Collectives]


@dataclass(frozen=True)
class Fold:
    """A set of rows to leave out, and why."""

    kind: str  #: "tp_inside", "tp_edge", "gpu", "engine", "dtype", "model", "row"
    name: str
    leaves_out: Callable[[Row], bool]


def observed_metrics(batch: Batch) -> dict[str, Array]:
    """Measured metrics of a batch; in a closed loop E2E and throughput follow from TTFT and TPOT
    by their definitions, where the source gives only those."""
    found = {metric: batch.observed(metric) for metric in METRICS}
    if batch.key.mode == "closed_loop":
        e2e = found["ttft_s"] + found["tpot_s"] * (batch.load.osl - 1.0)
        missing = np.isnan(found["e2e_latency_s"])
        found["e2e_latency_s"] = np.where(missing, e2e, found["e2e_latency_s"])
        rate = batch.load.concurrency * batch.load.osl / found["e2e_latency_s"]
        missing = np.isnan(found["output_tok_s"])
        found["output_tok_s"] = np.where(missing, rate, found["output_tok_s"])
    return found


def log_errors(batch: Batch, served: Served, chosen: Array) -> dict[str, Array]:
    """log(predicted / measured) of the chosen rows, by metric, where measured."""
    errors = {}
    for metric, observed in observed_metrics(batch).items():
        use = chosen & np.isfinite(observed)
        if metric == "ttft_s":
            use &= ~np.array([bool(row.kv_limited) for row in batch.rows])
        if use.any():
            errors[metric] = np.log(getattr(served, metric)[use] / observed[use])
    return errors


def folds_of(rows: Sequence[Row]) -> Iterator[Fold]:
    """One fold for each TP of each (model, GPU, engine, mode) with several, each GPU, each engine,
    each dtype of a GPU with several, and each model of a GPU and engine with several."""
    cells = sorted({(r.model, r.gpu, r.engine, r.mode) for r in rows})
    for cell in cells:
        sizes = sorted({r.tp_size for r in rows if _cell(r) == cell})
        for tp in sizes if len(sizes) > 1 else ():
            kind = "tp_inside" if sizes[0] < tp < sizes[-1] else "tp_edge"
            yield Fold(kind, f"{' '.join(cell)} TP={tp}", _leave_tp(cell, tp))
    for gpu in sorted({r.gpu for r in rows}):
        yield Fold("gpu", gpu, _leave_gpu(gpu))
    for engine in sorted({r.engine for r in rows}):
        yield Fold("engine", engine, _leave_engine(engine))
    for gpu, dtype in sorted({(r.gpu, r.weight_dtype) for r in rows}):
        if {r.weight_dtype for r in rows if r.gpu == gpu} - {dtype}:
            yield Fold("dtype", f"{gpu} {dtype}", _leave_dtype(gpu, dtype))
    for subject in sorted({_subject(r) for r in rows}):
        if {r.model for r in rows if _subject(r)[:2] == subject[:2]} - {subject[2]}:
            yield Fold("model", " ".join(subject), _leave_subject(subject))


def row_folds(rows: Sequence[Row]) -> list[Fold]:
    """Every fourth row of the pairs that were measured in several versions: what is left to miss
    where the version is known."""
    named = versions_of((r.gpu, r.engine, r.version) for r in rows)
    chosen = [r for r in rows if len(named[r.gpu, r.engine]) > 1]
    return [
        Fold("row", f"rows {k} of {ROW_FOLDS}", _leave_rows(chosen[k::ROW_FOLDS]))
        for k in range(ROW_FOLDS if chosen else 0)
    ]


def _leave_rows(rows: Sequence[Row]) -> Callable[[Row], bool]:
    numbers = {r.number for r in rows}
    return lambda r: r.number in numbers


def _cell(row: Row) -> tuple[str, str, str, str]:
    return row.model, row.gpu, row.engine, row.mode


def _subject(row: Row) -> tuple[str, str, str]:
    return row.gpu, row.engine, row.model


def _leave_tp(cell: tuple[str, str, str, str], tp: int) -> Callable[[Row], bool]:
    return lambda r: _cell(r) == cell and r.tp_size == tp


def _leave_gpu(gpu: str) -> Callable[[Row], bool]:
    return lambda r: r.gpu == gpu


def _leave_engine(engine: str) -> Callable[[Row], bool]:
    return lambda r: r.engine == engine


def _leave_dtype(gpu: str, dtype: str) -> Callable[[Row], bool]:
    return lambda r: r.gpu == gpu and r.weight_dtype == dtype


def _leave_subject(subject: tuple[str, str, str]) -> Callable[[Row], bool]:
    return lambda r: _subject(r) == subject


def hold_out(
    rows: Sequence[Row], fold: Fold, links: Links, start: Hierarchy | None = None
) -> list[HeldOut]:
    """Fit without a fold's rows and return the errors on them.

    `start` only saves rounds: offsets of levels without a kept row are dropped, not inherited.
    """
    kept, _ = group([r for r in rows if not fold.leaves_out(r)])
    known = set().union(*levels_drawn(kept).values())
    begin = {k: v for k, v in start.offsets.items() if k in known} if start else {}
    hierarchy = fit(kept, links, Hierarchy(begin))
    everything, _ = group([r for r in rows if fold.leaves_out(r)])
    return errors_of(everything, hierarchy, links, fold.kind, fold.name)


def in_sample(
    batches: Sequence[Batch], hierarchy: Hierarchy, links: Links, versions: bool = True
) -> list[HeldOut]:
    """Errors on the rows of the fit itself, as fold "none"; without `versions`, as if none of the
    rows named its engine's version."""
    return errors_of(batches, hierarchy, links, "none", "", versions)


def errors_of(
    batches: Sequence[Batch],
    hierarchy: Hierarchy,
    links: Links,
    kind: str,
    name: str = "",
    versions: bool = True,
) -> list[HeldOut]:
    """Errors of `hierarchy` on the rows of `batches`."""
    found: dict[tuple[str, str, str], list[Array]] = {}
    for batch in batches:
        version = batch.key.version if versions else ""
        known = hierarchy.coefficients(batch.gpu, batch.key.engine, version)
        served = batch.serve(known, links(batch))
        for metric, errors in log_errors(batch, served, np.ones(len(batch.rows), bool)).items():
            found.setdefault((batch.gpu.id, batch.key.engine, metric), []).append(errors)
    return [HeldOut(kind, *judged, np.concatenate(e), name) for judged, e in found.items()]
