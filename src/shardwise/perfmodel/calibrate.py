"""Fit the hierarchy's offsets to measured rows: a maximum a posteriori estimate.

Residuals are logs of predicted over measured, so a 10 % error has the same weight at 5 ms and at 5
s. A soft-L1 loss limits the influence of outliers. A prior pulls each offset to zero. Derivatives
are computed for the coefficients of all rows at once and distributed over the levels, which are
sums, so a Gauss-Newton step takes a second for any number of levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwise.perfmodel.batches import Batch, Key
from shardwise.perfmodel.hierarchy import NAMES, Hierarchy, Level, levels_of, versions_of
from shardwise.perfmodel.stacked import Stack, stack
from shardwise.perfmodel.work import Array

#: Typical error of one row. Rows of one run share their errors, so it is larger than the 5 % by
#: which software versions differ. Chosen by cross-validation, as are the level shares.
ROW_SPREAD: Final = 0.22
#: Residual (log) from which a row counts linearly instead of squared: a step's error is 3 to 5 %,
#: and rows that are farther off were usually measured in a way that is not known.
LINEAR_FROM: Final = 0.08
#: Weight of each metric's residual. TTFT and runs with unknown settings contain less information
#: about a step.
WEIGHTS: Final = {
    ("closed_loop", "tpot_s"): 1.0,
    ("closed_loop", "ttft_s"): 0.5,
    ("static_batch", "e2e_latency_s"): 0.5,
    ("static_batch", "tpot_s"): 0.5,
    ("static_batch", "ttft_s"): 0.35,
    ("max_throughput", "output_tok_s"): 0.5,
}
_STEP: Final = 1e-4
ROUNDS: Final = 40  #: Gauss-Newton rounds of a fit at most
#: The fit ends when a round lowers the loss by less than this share.
ENOUGH: Final = 1e-5
#: Strength of the prior in the fit that gives a fit of everything its start. The loss has several
#: minima. Starts of 3 and 10 end in the same one, with 0.2 % less loss than from zero offsets.
#: Minima with less loss (2 %, from a fit of squared residuals) have larger errors on left-out rows.
FIRST_HOLD: Final = 3.0
MOST_MOVED: Final = 3.0  #: of an offset in one round, in units of its scale
MOST_GRADIENTS: Final = 400  #: of one Gauss-Newton step
CLOSE: Final = 1e-8  #: of the first squared residual, where they end

Mask = NDArray[np.bool_]


def levels_drawn(batches: Sequence[Batch]) -> dict[Key, tuple[tuple[str, ...], ...]]:
    """Return the levels of each batch. If a GPU and engine were measured in only one version, the
    pair level is used instead of a version level."""
    named = versions_of((b.gpu.id, b.key.engine, b.key.version) for b in batches)
    found = {}
    for b in batches:
        pair = (b.gpu.id, b.key.engine)
        version = b.key.version if len(named[pair]) > 1 else ""
        found[b.key] = levels_of(*pair, version, b.model_key)
    return found


class Problem(msgspec.Struct, frozen=True, eq=False, dict=True):
    """The rows of a fit, prepared to be predicted all at once.

    Attributes:
        batches: Rows in groups.
        weights: Factor on each row's weight, by batch.
    """

    batches: tuple[Batch, ...]
    weights: tuple[Array, ...]

    @cached_property
    def stacks(self) -> list[Stack]:
        """Rows of one mode as arrays, predicted in one computation."""
        return stack(self.batches)

    @cached_property
    def targets(self) -> list[Target]:
        """Fitted measured values, with the weight of each metric."""
        return [
            target
            for number, found in enumerate(self.stacks)
            for (mode, metric), weight in WEIGHTS.items()
            if mode == found.mode
            for target in self._target(number, found, metric, weight)
        ]

    def _target(self, number: int, found: Stack, metric: str, weight: float) -> list[Target]:
        some = [self.batches[i] for i in found.batches]
        observed = np.concatenate([b.observed(metric) for b in some])
        factor = np.concatenate([self.weights[i] for i in found.batches])
        usable = np.isfinite(observed) & (factor > 0)
        if metric == "ttft_s":
            # queueing for memory is not service time and would bias the step times
            room = found.load.concurrency * (found.load.isl + found.load.osl)
            usable &= found.load.kv_capacity_tokens > room
            usable &= np.concatenate([b.ttft_is_told for b in some])
        rows = np.flatnonzero(usable)
        if not len(rows):
            return []
        return [Target(number, metric, rows, np.log(observed[rows]), weight * factor[rows])]

    def predicted(self, log_coefficients: Array) -> list[Array]:
        """Return the log of each target's prediction; `log_coefficients` by batch."""
        values = np.exp(log_coefficients)
        named = {name: values[:, k] for k, name in enumerate(NAMES)}
        served = [found.serve(named) for found in self.stacks]
        return [np.log(getattr(served[t.stack], t.metric)[t.rows]) for t in self.targets]

    def batch_of(self, target: Target) -> NDArray[np.int64]:
        """Batch number of each row of a target."""
        return self.stacks[target.stack].batch_of[target.rows]


class Target(msgspec.Struct, frozen=True):
    """Rows of a stack with one metric."""

    stack: int
    metric: str
    rows: NDArray[np.int64]
    log_observed: Array
    weight: Array


def problem_of(batches: Sequence[Batch]) -> Problem:
    """All rows of `batches`, each with its own weight."""
    return Problem(tuple(batches), tuple(b.weights for b in batches))


def fit(
    batches: Sequence[Batch] | Problem,
    start: Hierarchy | None = None,
    free: Callable[[tuple[str, ...]], bool] = lambda _key: True,
    hold: float = 1.0,
    kept: Sequence[Mask] | None = None,
) -> Hierarchy:
    """Fit the hierarchy to `batches`.

    `start` gives initial offsets, which are fixed if `free` (called with a level's key) returns
    False: a user's rows change only their own pair. `hold` scales the prior; 1 uses each level's
    spread. `kept` has a mask per batch of the rows that the fit may use.
    """
    problem = batches if isinstance(batches, Problem) else problem_of(batches)
    base = start or Hierarchy({})
    levels = levels_drawn(problem.batches)
    seen = _seen(problem, levels, kept)
    keys = sorted(key for key in seen if free(key))
    stays = set(base.offsets) - set(keys)
    if kept is not None:  # a fold must not inherit offsets from its held-out rows
        stays = {key for key in stays if not free(key)}
    fixed = Hierarchy({key: base.offsets[key] for key in sorted(stays)})
    place = {key: i for i, key in enumerate(keys)}
    members = [[place[key] for key in levels[b.key] if key in place] for b in problem.batches]
    anchors = np.array([fixed.log_coefficients(*b.identity) for b in problem.batches])
    scales = np.array([Level(key).scale for key in keys]).reshape(len(keys), len(NAMES))
    z = np.array([base.offsets.get(key, np.zeros(len(NAMES))) for key in keys])
    z = z.reshape(len(keys), len(NAMES))
    masks = _masks(problem, kept)

    def logs(z: Array) -> Array:
        moved = z * scales
        return np.array([a + moved[m].sum(axis=0) for a, m in zip(anchors, members, strict=True)])

    def loss(z: Array, predicted: list[Array]) -> float:
        total = hold**2 * float(np.sum(z**2)) / 2.0
        for t, mask, found in zip(problem.targets, masks, predicted, strict=True):
            e = ((found - t.log_observed) * t.weight / LINEAR_FROM)[mask]
            total += (LINEAR_FROM / ROW_SPREAD) ** 2 * float(np.sum(np.sqrt(1.0 + e**2) - 1.0))
        return total

    joined = _joined(members, len(keys))
    damping = 1e-3
    here = problem.predicted(logs(z))
    now = loss(z, here)
    for _ in range(ROUNDS):
        blocks, slopes = _normal(problem, masks, logs(z), here)
        improved = False
        for _attempt in range(6):
            step = _step(blocks, slopes, joined, scales, (hold, damping), z)
            step *= min(1.0, MOST_MOVED / max(float(np.max(np.abs(step))), 1e-9))
            there = problem.predicted(logs(z + step))
            then = loss(z + step, there)
            if then < now:
                improved = True
                break
            damping = max(damping * 10.0, 1e-3)
        if not improved:
            break
        gain, z, here, now = now - then, z + step, there, then
        damping /= 5.0
        if gain < ENOUGH * now:
            break
    return Hierarchy({**fixed.offsets, **{key: z[i] for key, i in place.items()}})


def _seen(
    problem: Problem,
    levels: dict[Key, tuple[tuple[str, ...], ...]],
    kept: Sequence[Mask] | None,
) -> set[tuple[str, ...]]:
    """Return the levels of kept rows."""
    found: set[tuple[str, ...]] = set()
    for number, b in enumerate(problem.batches):
        if kept is None or kept[number].any():
            found |= set(levels[b.key])
    return found


def _masks(problem: Problem, kept: Sequence[Mask] | None) -> list[Mask]:
    """Return which rows of each target the fit may use."""
    if kept is None:
        return [np.ones(len(t.rows), bool) for t in problem.targets]
    by_stack = [np.concatenate([kept[i] for i in found.batches]) for found in problem.stacks]
    return [by_stack[t.stack][t.rows] for t in problem.targets]


def _normal(
    problem: Problem, masks: Sequence[Mask], logs: Array, here: Sequence[Array]
) -> tuple[Array, Array]:
    """Return the normal matrix and the gradient over the coefficients of each batch, with soft-L1
    weights of the residuals."""
    count, size = len(problem.batches), len(NAMES)
    blocks, slopes = np.zeros((count, size, size)), np.zeros((count, size))
    columns = [np.empty((len(t.rows), size)) for t in problem.targets]
    for k in range(size):
        moved = logs.copy()
        moved[:, k] += _STEP
        for column, there, found in zip(columns, problem.predicted(moved), here, strict=True):
            column[:, k] = (there - found) / _STEP
    for t, mask, column, found in zip(problem.targets, masks, columns, here, strict=True):
        e = (found - t.log_observed) * t.weight / ROW_SPREAD
        w = np.where(mask, 1.0 / np.sqrt(1.0 + (e * ROW_SPREAD / LINEAR_FROM) ** 2), 0.0)
        j = column * (t.weight / ROW_SPREAD)[:, None]
        of = problem.batch_of(t)
        for b in np.unique(of):
            mine = of == b
            part = j[mine] * w[mine][:, None]
            blocks[b] += part.T @ j[mine]
            slopes[b] += part.T @ e[mine]
    return blocks, slopes


def _joined(members: Sequence[Sequence[int]], levels: int) -> NDArray[np.int64]:
    """Levels of each batch in a table, filled up with one level that is none."""
    width = max((len(m) for m in members), default=0)
    table = np.full((len(members), width), levels, dtype=np.int64)
    for row, mine in zip(table, members, strict=True):
        row[: len(mine)] = mine
    return table


def _step(
    blocks: Array,
    slopes: Array,
    joined: NDArray[np.int64],
    scales: Array,
    firmness: tuple[float, float],
    z: Array,
) -> Array:
    """Return the Gauss-Newton step, by conjugate gradients on the normal equations without forming
    the matrix (Hestenes and Stiefel 1952). `firmness` combines prior and damping."""
    hold, damping = firmness
    padded = np.vstack([scales, np.zeros((1, scales.shape[1]))])
    diagonal = np.zeros_like(padded)
    own = np.einsum("bkk->bk", blocks)
    for column in joined.T:
        np.add.at(diagonal, column, own)
    diagonal = diagonal[:-1] * scales**2 + hold**2

    def spread(by_batch: Array) -> Array:
        out = np.zeros_like(padded)
        for column in joined.T:
            np.add.at(out, column, by_batch)
        return np.asarray(out[:-1] * scales)

    def times(v: Array) -> Array:
        moved = np.vstack([v * scales, np.zeros((1, v.shape[1]))])[joined].sum(axis=1)
        curved = spread(np.einsum("bkl,bl->bk", blocks, moved))
        return np.asarray(curved + hold**2 * v + damping * diagonal * v)

    x = np.zeros_like(z)
    r = -(spread(slopes) + hold**2 * z)
    y = r / diagonal
    p, rho = y, float(np.sum(r * y))
    first = rho
    for _ in range(MOST_GRADIENTS):
        if rho <= CLOSE * first:
            break
        q = times(p)
        alpha = rho / float(np.sum(p * q))
        x, r = x + alpha * p, r - alpha * q
        y = r / diagonal
        rho, before = float(np.sum(r * y)), rho
        p = y + rho / before * p
    return x
