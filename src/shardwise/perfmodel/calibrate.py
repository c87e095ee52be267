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

from shardwise.perfmodel.batches import Batch
from shardwise.perfmodel.collectives import Collectives
from shardwise.perfmodel.hierarchy import NAMES, Hierarchy, Level, levels_of
from shardwise.perfmodel.work import Array

#: The error of one row that is ordinary: software versions alone differ by 5 % and more.
ROW_SPREAD: Final = 0.05
#: Weight of each metric's residual. TTFT and runs of unknown settings say less about a step.
WEIGHTS: Final = {
    ("closed_loop", "tpot_s"): 1.0,
    ("closed_loop", "ttft_s"): 0.35,
    ("static_batch", "e2e_latency_s"): 0.5,
    ("max_throughput", "output_tok_s"): 0.6,
}
#: TensorRT-LLM's TTFT rows hold client limits that no server model explains.
ENGINE_TTFT_WEIGHT: Final = {"trtllm": 0.1}
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
        for (mode, metric), base in WEIGHTS.items():
            observed = batch.observed(metric)
            usable = np.isfinite(observed)
            if metric == "ttft_s":
                # queueing for memory is admission, not service: it would bend the step times
                room = batch.load.concurrency * (batch.load.isl + batch.load.osl)
                usable &= batch.load.kv_capacity_tokens > room
            if mode != batch.key.mode or not usable.any():
                continue
            weight = ENGINE_TTFT_WEIGHT.get(batch.key.engine, base) if metric == "ttft_s" else base
            rows = np.flatnonzero(usable).astype(np.int64)
            link = collectives(batch)
            targets.append(_Target(batch, link, metric, rows, np.log(observed[rows]), weight))
    return targets


def _log_predicted(target: _Target, log_coefficients: Array) -> Array:
    values = dict(zip(NAMES, np.exp(log_coefficients).tolist(), strict=True))
    served = target.batch.serve(values, target.collectives)
    return np.asarray(np.log(getattr(served, target.metric)[target.rows]))


def fit(
    batches: Sequence[Batch],
    collectives: Callable[[Batch], Collectives],
    start: Hierarchy | None = None,
    free: Callable[[tuple[str, ...]], bool] = lambda _key: True,
    max_rounds: int = 30,
) -> Hierarchy:
    """The hierarchy that explains `batches` best.

    `start` gives offsets to begin from and to keep where `free` (called with a level's key) says
    no: a user's own rows move only their own pair. Needs SciPy (`pip install
    'shardwise[calibrate]'`).
    """
    from scipy.optimize import least_squares

    base = start or Hierarchy({})
    targets = _targets(batches, collectives)
    keys = sorted({key for b in batches for key in levels_of(b.gpu.id, b.key.engine) if free(key)})
    size, count = len(NAMES), len(keys)
    scales = [Level(key).scale for key in keys]
    kept = Hierarchy({k: v for k, v in base.offsets.items() if k not in keys})
    anchors = [kept.log_coefficients(t.batch.gpu, t.batch.key.engine) for t in targets]
    member = [
        [i for i, key in enumerate(keys) if key in levels_of(t.batch.gpu.id, t.batch.key.engine)]
        for t in targets
    ]

    def at(z: Array, index: int) -> Array:
        total = anchors[index]
        for level in member[index]:
            total = total + z[level * size : (level + 1) * size] * scales[level]
        return np.asarray(total)

    def residuals(z: Array) -> Array:
        parts = [
            (_log_predicted(t, at(z, i)) - t.log_observed) * t.weight / ROW_SPREAD
            for i, t in enumerate(targets)
        ]
        errors = np.concatenate(parts)
        soft = np.sign(errors) * np.sqrt(2.0 * (np.sqrt(1.0 + errors**2) - 1.0))
        return np.concatenate([soft, z])

    def jacobian(z: Array) -> Array:
        blocks = []
        for i, t in enumerate(targets):
            here = at(z, i)
            value = _log_predicted(t, here)
            slope = np.empty((len(t.rows), size))
            for c in range(size):
                moved = here.copy()
                moved[c] += _STEP
                slope[:, c] = (_log_predicted(t, moved) - value) / _STEP
            errors = (value - t.log_observed) * t.weight / ROW_SPREAD
            root = np.sqrt(1.0 + errors**2)
            soft = np.sqrt(np.maximum(2.0 * (root - 1.0), 1e-12))
            gain = np.where(np.abs(errors) < 1e-4, 1.0, np.abs(errors) / (root * soft))
            slope *= (gain * t.weight / ROW_SPREAD)[:, None]
            block = np.zeros((len(t.rows), size * count))
            for level in member[i]:
                block[:, level * size : (level + 1) * size] = slope * scales[level]
            blocks.append(block)
        return np.vstack([*blocks, np.eye(size * count)])

    begin = np.concatenate([base.offsets.get(key, np.zeros(size)) for key in keys])
    solution = least_squares(residuals, begin, jac=jacobian, method="trf", max_nfev=max_rounds)
    fitted = {key: solution.x[i * size : (i + 1) * size] for i, key in enumerate(keys)}
    return Hierarchy({**kept.offsets, **fitted})
