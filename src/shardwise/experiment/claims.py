"""Test the claims of the published study on this machine's cells.

Splits are compared at equal total threads on a CPU, and at equal GPUs if replicas fill the
machine. A step from one GPU (or one share of the cores) to two corresponds to a step of the study.

No claim is judged if the machine's speed changed by as much as the effect over the compared runs,
or if the load client could not keep up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from shardwise.analysis.breakeven import first_crossing
from shardwise.analysis.intervals import ratio, reciprocal
from shardwise.evidence.record import Interval
from shardwise.experiment.correct import Compared
from shardwise.experiment.pace import drift
from shardwise.experiment.split import Split

Verdict = Literal["holds", "does not hold", "not resolved", "not judged"]
Cells = Mapping[tuple[Split, int], Compared]
At = tuple[Split, int]


class Claim(msgspec.Struct, frozen=True):
    """One claim at one batch. `value` is in `unit`, with its 80 % interval."""

    text: str
    where: str
    batch: int
    value: Interval
    unit: str
    verdict: Verdict
    drift: float = (
        math.nan
    )  #: change of the machine's speed over the compared runs; NaN: not measured


def claims(compared: Sequence[Compared]) -> tuple[Claim, ...]:
    """Return every claim that the closed-loop cells can test, in the study's order."""
    cells = {
        (c.cell.split, c.cell.workload.concurrency): c
        for c in compared
        if c.cell.workload.mode == "closed_loop" and c.usable
    }
    return (
        *_more_throughput_than_latency(cells),
        *_small_batches_gain(cells),
        *_halving_keeps_latency(cells),
        *_copies_against_one(cells),
    )


def _verdict(value: Interval, bound: float, above: bool) -> Verdict:
    """Return whether `value` is above (or below) `bound`, according to its interval."""
    if value.lo > bound:
        return "holds" if above else "does not hold"
    if value.hi < bound:
        return "does not hold" if above else "holds"
    return "not resolved"


def _of_ratio(
    text: str, where: str, batch: int, value: Interval, bound: float, above: bool, drifted: float
) -> Claim:
    """Return a claim that a ratio is above (or below) `bound`; the effect is its distance from the
    bound."""
    effect = abs(math.log(value.value / bound))
    verdict = _if_steady(_verdict(value, bound, above), effect, drifted)
    return Claim(text, where, batch, value, "x", verdict, drifted)


def _if_steady(verdict: Verdict, effect: float, drifted: float) -> Verdict:
    """Return `verdict`, unless the machine drifted by as much as the effect (a difference of
    logs)."""
    if verdict != "not resolved" and math.log1p(drifted) >= effect:
        return "not judged"
    return verdict


def _drift(cells: Cells, *at: At) -> float:
    return drift(pace for each in at for pace in cells[each].paces)


def _steps(cells: Cells) -> Iterator[tuple[Split, Split]]:
    """Return steps from each single replica to the next TP: with equal threads per rank, then with
    equal total threads."""
    single = sorted(
        {split for split, _ in cells if split.replicas == 1},
        key=lambda s: (s.tp_size, s.threads),
    )
    for a in single:
        larger = sorted({s.tp_size for s in single if s.tp_size > a.tp_size})
        for b in single:
            if larger and b.tp_size == larger[0] and (a.threads == b.threads or a.cores == b.cores):
                yield a, b


def _batches(cells: Cells, *splits: Split) -> list[int]:
    """Return the batches at which all of `splits` were measured."""
    known = [{c for split, c in cells if split == wanted} for wanted in splits]
    return sorted(set.intersection(*known))


def _ratio(cells: Cells, metric: str, after: At, before: At) -> Interval:
    return ratio(cells[after].measured.metrics[metric], cells[before].measured.metrics[metric])


def _where(a: Split, b: Split) -> str:
    return f"{a.label} → {b.label}"


def _more_throughput_than_latency(cells: Cells) -> Iterator[Claim]:
    for a, b in _steps(cells):
        for batch in _batches(cells, a, b):
            latency = _ratio(cells, "e2e_latency_s", (b, batch), (a, batch))
            rate = _ratio(cells, "output_tok_s", (b, batch), (a, batch))
            points, drifted = _sum(rate, latency), _drift(cells, (a, batch), (b, batch))
            verdict = _verdict(points, 0.0, above=True)
            yield Claim(
                "throughput gained - latency cut",
                _where(a, b),
                batch,
                points,
                "points",
                _if_steady(verdict, abs(points.value) / 100.0, drifted),
                drifted,
            )


def _sum(rate: Interval, latency: Interval) -> Interval:
    """Return (rate - 1) - (1 - latency) in percentage points; widths of separate runs add in
    quadrature."""
    value = 100.0 * (rate.value + latency.value - 2.0)
    down = math.hypot(rate.value - rate.lo, latency.value - latency.lo)
    up = math.hypot(rate.hi - rate.value, latency.hi - latency.value)
    return Interval(value, value - 100.0 * down, value + 100.0 * up, min(rate.n, latency.n))


def _small_batches_gain(cells: Cells) -> Iterator[Claim]:
    for a, b in _steps(cells):
        batch = min(_batches(cells, a, b), default=0)
        if batch:
            latency = _ratio(cells, "e2e_latency_s", (b, batch), (a, batch))
            yield _of_ratio(
                "smallest batch: E2E latency falls",
                _where(a, b),
                batch,
                latency,
                bound=1.0,
                above=False,
                drifted=_drift(cells, (a, batch), (b, batch)),
            )


def _halving_keeps_latency(cells: Cells) -> Iterator[Claim]:
    """Return the batch with the same latency after a step down, relative to the batch before."""
    for low, high in _steps(cells):
        for batch in _batches(cells, high):
            share = _kept_share(cells, low, high, batch)
            if share:
                yield _of_ratio(
                    "batch that keeps the latency: half or less",
                    _where(high, low),
                    batch,
                    share,
                    bound=low.tp_size / high.tp_size,
                    above=False,
                    drifted=_drift(
                        cells, (high, batch), *((low, each) for each in _batches(cells, low))
                    ),
                )


def _kept_share(cells: Cells, low: Split, high: Split, batch: int) -> Interval | None:
    """Return the share; None if even the smallest batch is slower. A bound outside the measured
    batches is the nearest of them."""
    latency = cells[high, batch].measured.metrics["e2e_latency_s"]
    batches = _batches(cells, low)
    curve = [(c, cells[low, c].measured.metrics["e2e_latency_s"]) for c in batches]
    kept, _ = first_crossing([(c, e.value) for c, e in curve], latency.value)
    if kept is None:
        return None
    least, _ = first_crossing([(c, e.hi) for c, e in curve], latency.lo)
    most, _ = first_crossing([(c, e.lo) for c, e in curve], latency.hi)
    bounds = (least or batches[0], most or batches[-1])
    return Interval(kept / batch, min(bounds[0], kept) / batch, bounds[1] / batch, latency.n)


def _copies_against_one(cells: Cells) -> Iterator[Claim]:
    """Compare replicas that fill the machine with one replica over all of it, at the same total
    load. The machine is paid for in both cases, so cost is the inverse of throughput."""
    pairs = [
        (many, one, batch)
        for many in sorted({s for s, _ in cells if s.replicas > 1}, key=lambda s: s.tp_size)
        for one in dict.fromkeys(s for s, _ in cells)
        if (one.replicas, one.tp_size, one.threads) == (1, many.ranks, many.threads)
        for batch in _batches(cells, many, one)
    ]
    found = [_copies(cells, many, one, batch) for many, one, batch in pairs]
    for same_claim in zip(*found, strict=True):
        yield from same_claim


def _copies(cells: Cells, many: Split, one: Split, batch: int) -> list[Claim]:
    rate = _ratio(cells, "output_tok_s", (many, batch), (one, batch))
    latency = _ratio(cells, "e2e_latency_s", (many, batch), (one, batch))
    where = f"{one.label} → {many.label}"
    drifted = _drift(cells, (many, batch), (one, batch))
    return [
        _of_ratio(text, where, batch, value, bound=1.0, above=above, drifted=drifted)
        for text, value, above in (
            ("replicas: throughput is higher", rate, True),
            ("replicas: E2E latency is longer", latency, True),
            ("replicas: cost per token is lower", reciprocal(rate), False),
        )
    ]
