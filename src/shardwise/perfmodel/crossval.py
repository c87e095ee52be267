"""Cross-validation: hold out a layout, a model family, a GPU, an engine, a version, a dtype, a
model on a GPU, or single rows; and predict with kernels alone, without any fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shardwise.perfmodel.batches import Batch
from shardwise.perfmodel.calibrate import Problem, fit
from shardwise.perfmodel.hierarchy import NAMES, Hierarchy, versions_of
from shardwise.perfmodel.intervals import METRICS, width_name
from shardwise.perfmodel.knowledge import Unseen, asked_of, knowledge_of
from shardwise.perfmodel.rows import Row
from shardwise.perfmodel.serving import Served
from shardwise.perfmodel.work import Array

ROW_FOLDS = 4
Mask = NDArray[np.bool_]


class Fold(msgspec.Struct, frozen=True):
    """Rows to hold out, and why. Independent groups can be held out together, which saves fits;
    their names are joined by " + "."""

    kind: str  #: an `Unseen`, "row" or "kernels"
    name: str
    leaves_out: Callable[[Batch, Row], bool]


class Miss(msgspec.Struct, frozen=True):
    """Error on one held-out row: log(predicted / measured)."""

    fold: str
    name: str
    gpu: str
    engine: str
    model: str
    moe: bool
    metric: str
    unseen: tuple[Unseen, ...]
    error: float
    row: Row

    @property
    def width(self) -> str:
        """Name of the width of its interval."""
        return width_name(self.metric, self.row.mode)


def observed_metrics(batch: Batch) -> dict[str, Array]:
    """Return the measured metrics of a batch; for closed loops, missing E2E latency and throughput
    are computed from TTFT and TPOT by definition."""
    found = {metric: batch.observed(metric) for metric in METRICS}
    if batch.key.mode == "closed_loop":
        e2e = found["ttft_s"] + found["tpot_s"] * (batch.load.osl - 1.0)
        missing = np.isnan(found["e2e_latency_s"])
        found["e2e_latency_s"] = np.where(missing, e2e, found["e2e_latency_s"])
        rate = batch.load.concurrency * batch.load.osl / found["e2e_latency_s"]
        missing = np.isnan(found["output_tok_s"])
        found["output_tok_s"] = np.where(missing, rate, found["output_tok_s"])
    return found


def log_errors(batch: Batch, served: Served, chosen: Mask) -> dict[str, Array]:
    """Return log(predicted / measured) by metric; NaN if not chosen or not measured."""
    errors = {}
    for metric, observed in observed_metrics(batch).items():
        use = chosen & np.isfinite(observed)
        if metric == "ttft_s":
            use &= batch.ttft_is_told
        if use.any():
            with np.errstate(divide="ignore", invalid="ignore"):
                every = np.log(getattr(served, metric) / observed)
            errors[metric] = np.where(use, every, np.nan)
    return errors


def folds_of(batches: Sequence[Batch]) -> Iterator[Fold]:
    """Return every fold except kernels alone."""
    rows = [(b, r) for b in batches for r in b.rows]
    yield from _by_layout(rows)
    for family in sorted({b.arch.family for b in batches}):
        yield Fold("family", family, lambda b, _r, f=family: b.arch.family == f)  # type: ignore[misc]
    for gpu in sorted({b.gpu.id for b in batches}):
        yield Fold("gpu", gpu, lambda b, _r, g=gpu: b.gpu.id == g)  # type: ignore[misc]
    for engine in sorted({b.key.engine for b in batches}):
        yield Fold("engine", engine, lambda b, _r, e=engine: b.key.engine == e)  # type: ignore[misc]
    yield from _by_version(batches)
    yield from _by_dtype(batches)
    yield from _by_model(batches)
    yield from _by_row(rows)


def _grouped(
    kind: str,
    groups: dict[tuple[str, ...], list[tuple[str, ...]]],
    of: Callable[[Batch, Row], tuple[str, ...]],
) -> Iterator[Fold]:
    """Return folds with one group from each of several places that share few rows: the first of
    each, then the second, and so on. `groups` are keyed by place, `of` gives a row's group."""
    for turn in range(max((len(g) for g in groups.values()), default=0)):
        chosen = {g[turn] for g in groups.values() if turn < len(g)}
        name = " + ".join(sorted(" ".join(c) for c in chosen))
        yield Fold(kind, name, lambda b, r, c=frozenset(chosen): of(b, r) in c)  # type: ignore[misc]


def _by_layout(rows: Sequence[tuple[Batch, Row]]) -> Iterator[Fold]:
    """Return folds by number of GPUs, for each model, GPU, engine and mode with several."""

    def of(b: Batch, r: Row) -> tuple[str, ...]:
        return (b.gpu.id, b.key.engine, b.model_key, r.mode, f"{r.layout.stage_gpus} GPUs")

    sizes: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for b, r in rows:
        group = of(b, r)
        sizes.setdefault(group[:-1], set()).add(group)
    places: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for cell, found in sizes.items():
        if len(found) > 1:
            places.setdefault(cell[:2], []).extend(sorted(found))
    yield from _grouped("layout", places, of)


def _by_version(batches: Sequence[Batch]) -> Iterator[Fold]:
    def of(b: Batch, _r: Row) -> tuple[str, ...]:
        return (b.gpu.id, b.key.engine, b.key.version)

    named = versions_of(of(b, b.rows[0]) for b in batches)  # type: ignore[misc]
    places = {
        pair: [(*pair, v) for v in sorted(versions)]
        for pair, versions in named.items()
        if len(versions) > 1
    }
    yield from _grouped("version", places, of)  # type: ignore[arg-type]


def _by_dtype(batches: Sequence[Batch]) -> Iterator[Fold]:
    def of(b: Batch, _r: Row) -> tuple[str, ...]:
        return (b.gpu.id, b.key.engine, b.key.weight_dtype)

    places: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for group in sorted({of(b, b.rows[0]) for b in batches}):
        places.setdefault(group[:2], []).append(group)
    yield from _grouped("dtype", {k: v for k, v in places.items() if len(v) > 1}, of)


def _by_model(batches: Sequence[Batch]) -> Iterator[Fold]:
    def of(b: Batch, _r: Row) -> tuple[str, ...]:
        return (b.gpu.id, b.key.engine, b.model_key)

    places: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for group in sorted({of(b, b.rows[0]) for b in batches}):
        places.setdefault(group[:2], []).append(group)
    yield from _grouped("model", {k: v for k, v in places.items() if len(v) > 1}, of)


def _by_row(rows: Sequence[tuple[Batch, Row]]) -> Iterator[Fold]:
    """Return folds of every fourth row: 4-fold cross-validation where everything is known."""
    for k in range(ROW_FOLDS):
        chosen = {id(r) for _, r in rows[k::ROW_FOLDS]}
        yield Fold("row", f"rows {k} of {ROW_FOLDS}", lambda _b, r, c=chosen: id(r) in c)  # type: ignore[misc]


def hold_out(problem: Problem, fold: Fold, start: Hierarchy) -> list[Miss]:
    """Fit without a fold's rows and return the errors on them.

    `start` only saves rounds: offsets of levels without kept rows are dropped.
    """
    left = [np.array([fold.leaves_out(b, r) for r in b.rows]) for b in problem.batches]
    kept = [~mask for mask in left]
    hierarchy = fit(problem, start, kept=kept)
    known = knowledge_of(
        (b, [r.layout for r, k in zip(b.rows, mask, strict=True) if k])
        for b, mask in zip(problem.batches, kept, strict=True)
    )
    found = []
    for batch, mask, errors in _all_errors(problem, hierarchy, left):
        asked = asked_of(batch)
        for metric, values in errors.items():
            for row, use, error in zip(batch.rows, mask & np.isfinite(values), values, strict=True):
                if use:
                    unseen = known.unseen(asked, row.layout)
                    found.append(_miss(fold, batch, row, metric, unseen, float(error)))
    return found


def kernels_alone(problem: Problem) -> list[Miss]:
    """Return errors without any fit, from tables and priors. Groups are models on a GPU and
    engine."""
    fold = Fold("kernels", "", lambda _b, _r: True)
    every = [np.ones(len(b.rows), bool) for b in problem.batches]
    return [
        replace(
            _miss(fold, batch, row, metric, ("gpu", "engine", "family"), float(error)),
            name=f"{batch.gpu.id} {batch.key.engine} {batch.key.model}",
        )
        for batch, _, errors in _all_errors(problem, Hierarchy({}), every)
        for metric, values in errors.items()
        for row, error in zip(batch.rows, values, strict=True)
        if np.isfinite(error)
    ]


def in_sample(problem: Problem, hierarchy: Hierarchy) -> list[Miss]:
    """Return errors on the rows of the fit, as fold "none"."""
    fold = Fold("none", "", lambda _b, _r: True)
    every = [np.ones(len(b.rows), bool) for b in problem.batches]
    return [
        _miss(fold, batch, row, metric, (), float(error))
        for batch, _, errors in _all_errors(problem, hierarchy, every)
        for metric, values in errors.items()
        for row, error in zip(batch.rows, values, strict=True)
        if np.isfinite(error)
    ]


def _miss(
    fold: Fold, batch: Batch, row: Row, metric: str, unseen: tuple[Unseen, ...], error: float
) -> Miss:
    asked = asked_of(batch)
    return Miss(
        fold.kind,
        fold.name,
        asked.gpu,
        asked.engine,
        row.model,
        asked.moe,
        metric,
        unseen,
        error,
        row,
    )


def _all_errors(
    problem: Problem, hierarchy: Hierarchy, chosen: Sequence[Mask]
) -> Iterator[tuple[Batch, Mask, dict[str, Array]]]:
    """Return errors of the chosen rows, batch by batch."""
    logs = np.array([hierarchy.log_coefficients(*b.identity) for b in problem.batches])
    named = {name: np.exp(logs[:, k]) for k, name in enumerate(NAMES)}
    for found in problem.stacks:
        served = found.serve(named)
        start = 0
        for number in found.batches:
            batch, mask = problem.batches[number], chosen[number]
            part = slice(start, start + len(batch.rows))
            start += len(batch.rows)
            if mask.any():
                yield batch, mask, log_errors(batch, served.part(part), mask)
