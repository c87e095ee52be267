"""Compare predictions with measured rows: error, bias, coverage, and the choice of layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from shardwise.layout.deployment import Layout
from shardwise.perfmodel.batches import Batch, GpuOf, group, usual_gpu
from shardwise.perfmodel.crossval import observed_metrics
from shardwise.perfmodel.intervals import METRICS, half_width
from shardwise.perfmodel.knowledge import asked_of
from shardwise.perfmodel.predicting import batch_calibration
from shardwise.perfmodel.profiles import Profile
from shardwise.perfmodel.rows import Row

#: TPOT SLOs, in seconds, for which the choice of layout is checked.
TPOT_SLOS: Final = (0.010, 0.020, 0.040)
Grouping = Callable[["Point"], str]


class Point(msgspec.Struct, frozen=True):
    """One measured value with its prediction and interval."""

    row: Row
    metric: str
    predicted: float
    lo: float
    hi: float
    measured: float

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted / self.measured - 1.0

    @property
    def covered(self) -> bool:
        """Whether the measured value lies within the predicted interval."""
        return self.lo <= self.measured <= self.hi


class Score(msgspec.Struct, frozen=True):
    """Errors of a group of points, in percent."""

    group: str
    metric: str
    rows: int
    mean_error_pct: float  #: mean |predicted / measured - 1|
    bias_pct: float  #: mean of predicted / measured - 1
    coverage_pct: float  #: points inside their 80 % interval


class Choice(msgspec.Struct, frozen=True):
    """How often the layout predicted to be best was measured to be best."""

    question: str
    cases: int
    agree: int
    regret_pct: float  #: mean loss of the chosen layout against the best measured one, percent


def points_of(rows: Sequence[Row], profile: Profile, gpu_of: GpuOf = usual_gpu) -> list[Point]:
    """Return every measured metric of every usable row with its prediction. TTFT is excluded for
    rows marked KV-limited, because it includes queueing."""
    batches, _ = group(rows, gpu_of)
    found: list[Point] = []
    for batch in batches:
        found += _batch_points(batch, profile)
    return found


def _batch_points(batch: Batch, profile: Profile) -> list[Point]:
    known = batch_calibration(profile, batch)
    served = batch.serve(known.coefficients_of(batch.model_key))
    asked = asked_of(batch)
    found = []
    for metric, observed in observed_metrics(batch).items():
        predicted = getattr(served, metric)
        for i, row in enumerate(batch.rows):
            if not np.isfinite(observed[i]) or (metric == "ttft_s" and not row.ttft_is_told):
                continue
            value = float(predicted[i])
            spread = float(np.exp(half_width(profile, asked, metric, row.layout, row.mode)))
            found.append(
                Point(row, metric, value, value / spread, value * spread, float(observed[i]))
            )
    return found


def scores(points: Iterable[Point], key: Grouping) -> list[Score]:
    """Return errors by group and metric, sorted by group."""
    parts: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        parts.setdefault((key(point), point.metric), []).append(point)
    ordered = sorted(parts.items(), key=lambda item: (item[0][0], METRICS.index(item[0][1])))
    return [
        Score(
            name,
            metric,
            len(some),
            100 * float(np.mean([abs(p.error) for p in some])),
            100 * float(np.mean([p.error for p in some])),
            100 * float(np.mean([p.covered for p in some])),
        )
        for (name, metric), some in ordered
    ]


def kv_limited_recall(
    rows: Sequence[Row], profile: Profile, gpu_of: GpuOf = usual_gpu
) -> tuple[int, int]:
    """Return the number of rows marked KV-limited that are predicted so, and the number marked."""
    batches, _ = group([row for row in rows if row.kv_limited], gpu_of)
    found = marked = 0
    for batch in batches:
        known = batch_calibration(profile, batch)
        served = batch.serve(known.coefficients_of(batch.model_key))
        found += int(np.sum(served.kv_limited))
        marked += len(batch.rows)
    return found, marked


def choices(points: Sequence[Point]) -> list[Choice]:
    """Check the choice of layout at the same offered load, for three goals: the lowest E2E latency,
    the most tokens/s per GPU, and the most tokens/s per GPU within a TPOT SLO."""
    cells: dict[tuple[object, ...], dict[Layout, dict[str, Point]]] = {}
    for p in points:
        r = p.row
        cell = (r.model, r.gpu, r.engine, r.weight_dtype, r.mode, r.concurrency, r.isl, r.osl)
        cells.setdefault(cell, {}).setdefault(r.layout, {})[p.metric] = p
    whole = [
        by_layout
        for by_layout in cells.values()
        if len(by_layout) > 1
        and all({"e2e_latency_s", "output_tok_s", "tpot_s"} <= set(m) for m in by_layout.values())
    ]
    found = [
        _choice("lowest E2E latency", whole, lambda _gpus, m, v: -v(m["e2e_latency_s"])),
        _choice("most output tok/s per GPU", whole, lambda gpus, m, v: v(m["output_tok_s"]) / gpus),
    ]
    for slo in TPOT_SLOS:
        within = [
            by_layout
            for by_layout in whole
            if any(m["tpot_s"].measured <= slo for m in by_layout.values())
            and not all(m["tpot_s"].measured <= slo for m in by_layout.values())
        ]

        def kept(
            gpus: int, m: dict[str, Point], v: Callable[[Point], float], slo: float = slo
        ) -> float:
            rate = v(m["output_tok_s"]) / gpus
            return rate if v(m["tpot_s"]) <= slo else -v(m["tpot_s"])

        found.append(_choice(f"the same, TPOT <= {slo * 1e3:g} ms", within, kept))
    return [c for c in found if c.cases]


Value = Callable[[Point], float]
Worth = Callable[[int, dict[str, Point], Value], float]


def _choice(question: str, cells: Sequence[dict[Layout, dict[str, Point]]], worth: Worth) -> Choice:
    def judged(layout: Layout, points: dict[str, Point], value: Value) -> float:
        return worth(layout.replica_gpus, points, value)

    agree, regrets = 0, []
    for by_layout in cells:
        chosen = max(by_layout, key=lambda x: judged(x, by_layout[x], lambda p: p.predicted))
        best = max(by_layout, key=lambda x: judged(x, by_layout[x], lambda p: p.measured))
        agree += chosen == best
        got = judged(chosen, by_layout[chosen], lambda p: p.measured)
        most = judged(best, by_layout[best], lambda p: p.measured)
        regrets.append(abs(got / most - 1.0) if most > 0 > got or most * got > 0 else 1.0)
    mean = 100 * float(np.mean(regrets)) if regrets else 0.0
    return Choice(question, len(cells), agree, mean)


#: How `validate` groups its errors.
GROUPINGS: Final[dict[str, Grouping]] = {
    "gpu and engine": lambda p: f"{p.row.gpu} {p.row.engine}",
    "model and dtype": lambda p: f"{p.row.model} {p.row.weight_dtype}",
    "TP": lambda p: f"TP={p.row.tp_size}",
    "batch": lambda p: (
        f"batch {p.row.concurrency:5.0f}" if p.row.concurrency < 1e6 else "batch   max"
    ),
}
