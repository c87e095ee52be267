"""Fit the hierarchy's offsets to measured rows: a maximum a posteriori estimate.

Residuals are logs of predicted over measured, so a 10 % error weighs the same at 5 ms and at 5 s;
a soft-L1 loss keeps a few odd rows from pulling the rest; each offset is held to zero by its
prior. The Jacobian is taken per batch over the coefficients and spread over the levels, which are
sums, so a fit costs seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shardwise.perfmodel.batches import Batch, Key
from shardwise.perfmodel.collectives import Collectives
from shardwise.perfmodel.hierarchy import NAMES, Hierarchy, Level, levels_of, versions_of
from shardwise.perfmodel.work import Array

#: The error of one row that is ordinary: software versions alone differ by 5 % and more.
ROW_SPREAD: Final = 0.05
#: Weight of each metric's residual. TTFT and runs of unknown settings say less about a step.
WEIGHTS: Final = {
    ("closed_loop", "tpot_s"): 1.0,
    ("closed_loop", "ttft_s"): 0.35,
    ("static_batch", "e2e_latency_s"): 0.5,
    ("static_batch", "tpot_s"): 0.5,
    ("static_batch", "ttft_s"): 0.35,
    ("max_throughput", "output_tok_s"): 0.6,
}
_STEP: Final = 1e-4


@dataclass(frozen=True)
class _Target:
    """A batch with the rows and metrics it is fitted to."""

    batch: Batch
    collectives: Collectives
    metric: str
    rows: NDArray[np.int64]
    log_observed: Array
    weight: float


def _targets(
    batches: Sequence[Batch], collectives: Callable[[Batch], Collectives]
) -> list[_Target]:
    targets = []
    for batch in batches:
        for (mode, metric), weight in WEIGHTS.items():
            observed = batch.observed(metric)
            usable = np.isfinite(observed)
            if metric == "ttft_s":
                # queueing for memory is admission, not service: it would bend the step times
                room = batch.load.concurrency * (batch.load.isl + batch.load.osl)
                usable &= batch.load.kv_capacity_tokens > room
            if mode != batch.key.mode or not usable.any():
                continue
            rows = np.flatnonzero(usable).astype(np.int64)
            link = collectives(batch)
            targets.append(_Target(batch, link, metric, rows, np.log(observed[rows]), weight))
    return targets


def _log_predicted(target: _Target, log_coefficients: Array) -> Array:
    values = dict(zip(NAMES, np.exp(log_coefficients).tolist(), strict=True))
    served = target.batch.serve(values, target.collectives)
    return np.asarray(np.log(getattr(served, target.metric)[target.rows]))


@dataclass(frozen=True)
class _Problem:
    """A fit as SciPy sees it: one long vector of offsets, level after level."""

    targets: list[_Target]
    keys: list[tuple[str, ...]]  #: levels that are free
    anchors: list[Array]  #: log coefficients of each target with the free levels at zero
    members: list[list[int]]  #: which free levels each target draws from
    scales: list[Array]
    hold: float  #: how strongly each offset is held to zero; 1: as its spread says

    def slice(self, level: int) -> slice:
        return slice(level * len(NAMES), (level + 1) * len(NAMES))

    def log_coefficients(self, z: Array, target: int) -> Array:
        total = self.anchors[target]
        for level in self.members[target]:
            total = total + z[self.slice(level)] * self.scales[level]
        return np.asarray(total)

    def errors(self, z: Array, target: int) -> Array:
        """log(predicted / measured) in units of an ordinary row's error."""
        t = self.targets[target]
        found = _log_predicted(t, self.log_coefficients(z, target)) - t.log_observed
        return np.asarray(found * t.weight / ROW_SPREAD)

    def residuals(self, z: Array) -> Array:
        """Square roots of the soft-L1 loss, and the offsets themselves: their prior."""
        errors = np.concatenate([self.errors(z, i) for i in range(len(self.targets))])
        return np.concatenate([np.sign(errors) * _soft(errors), self.hold * z])

    def jacobian(self, z: Array) -> Array:
        blocks = [self._block(z, i) for i in range(len(self.targets))]
        return np.vstack([*blocks, self.hold * np.eye(len(z))])

    def _block(self, z: Array, target: int) -> Array:
        """Rows of one target: differences over its coefficients, spread over its levels."""
        t, here = self.targets[target], self.log_coefficients(z, target)
        value = _log_predicted(t, here)
        slope = np.empty((len(t.rows), len(NAMES)))
        for c in range(len(NAMES)):
            moved = here.copy()
            moved[c] += _STEP
            slope[:, c] = (_log_predicted(t, moved) - value) / _STEP
        errors = (value - t.log_observed) * t.weight / ROW_SPREAD
        slope *= (_soft_slope(errors) * t.weight / ROW_SPREAD)[:, None]
        block = np.zeros((len(t.rows), len(z)))
        for level in self.members[target]:
            block[:, self.slice(level)] = slope * self.scales[level]
        return block


def _soft(errors: Array) -> Array:
    """Square root of twice the soft-L1 loss sqrt(1 + e^2) - 1."""
    return np.asarray(np.sqrt(2.0 * (np.sqrt(1.0 + errors**2) - 1.0)))


def _soft_slope(errors: Array) -> Array:
    """Its derivative, 1 at zero."""
    size = np.maximum(np.abs(errors), 1e-4)
    return np.asarray(size / (np.sqrt(1.0 + size**2) * _soft(size)))


def levels_drawn(batches: Sequence[Batch]) -> dict[Key, tuple[tuple[str, ...], ...]]:
    """Levels that each batch draws from. Where a GPU and engine were measured in one version
    alone, the pair speaks for it, and so for those who name none."""
    named = versions_of((b.gpu.id, b.key.engine, b.key.version) for b in batches)
    found = {}
    for b in batches:
        pair = (b.gpu.id, b.key.engine)
        found[b.key] = levels_of(*pair, b.key.version if len(named[pair]) > 1 else "")
    return found


def fit(
    batches: Sequence[Batch],
    collectives: Callable[[Batch], Collectives],
    start: Hierarchy | None = None,
    free: Callable[[tuple[str, ...]], bool] = lambda _key: True,
    max_rounds: int = 30,
    hold: float = 1.0,
) -> Hierarchy:
    """The hierarchy that explains `batches` best.

    `start` gives offsets to begin from and to keep where `free` (called with a level's key) says
    no: a user's own rows move only their own pair. `hold` is how strongly an offset is held to
    zero, 1 as its spread says. Needs SciPy (`pip install 'shardwise[calibrate]'`).
    """
    from scipy.optimize import least_squares

    base = start or Hierarchy({})
    targets = _targets(batches, collectives)
    levels = levels_drawn(batches)
    keys = sorted(key for key in set().union(*levels.values()) if free(key))
    kept = Hierarchy({k: v for k, v in base.offsets.items() if k not in keys})
    problem = _Problem(
        targets,
        keys,
        [
            kept.log_coefficients(t.batch.gpu, t.batch.key.engine, t.batch.key.version)
            for t in targets
        ],
        [[i for i, key in enumerate(keys) if key in levels[t.batch.key]] for t in targets],
        [Level(key).scale for key in keys],
        hold,
    )
    begin = np.concatenate([base.offsets.get(key, np.zeros(len(NAMES))) for key in keys])
    solution = least_squares(
        problem.residuals, begin, jac=problem.jacobian, method="trf", max_nfev=max_rounds
    )
    fitted = {key: solution.x[problem.slice(i)] for i, key in enumerate(keys)}
    return Hierarchy({**kept.offsets, **fitted})
