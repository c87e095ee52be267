"""Consistency checks of results, including published tables.

- Little's law: requests in flight = request rate x latency (Little, Operations Research 9(3),
  1961). With a fixed number in flight, throughput x latency is the same before and after a TP
  step, so latency down by a third allows throughput up by a half and no more.
- A step up and the same step down are each other's inverse.
- A TP step cannot add more throughput than it adds GPUs, unless the smaller TP was short of
  something else (KV cache, as a rule): suspect rather than broken.
- E2E latency = TTFT + TPOT x (osl - 1), from the definition of TPOT.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from shardwise import metrics
from shardwise.analysis.grid import Grid
from shardwise.analysis.transitions import Step, transitions
from shardwise.evidence.record import Evidence, Interval, Source

Check = Literal["littles_law", "inverse_steps", "above_linear", "latency_identity"]
TOLERANCE = 0.02  #: of medians and ramp-up, neither of which Little's law knows
THROUGHPUTS = (metrics.OUTPUT_THROUGHPUT.name, metrics.TOTAL_THROUGHPUT.name)
Key = tuple[int, int, int]


class Finding(msgspec.Struct, frozen=True):
    """One check that fails for part of the results."""

    check: Check
    severity: Literal["broken", "suspect"]
    concurrency: int
    from_tp: int
    to_tp: int  #: same as `from_tp` where the finding is about one cell
    mismatch_pct: float  #: what is found against what is allowed
    message: str
    source: Source

    @property
    def where(self) -> str:
        """Batch and TP sizes of the finding, for a table."""
        cell = f"batch {self.concurrency}, TP={self.from_tp}"
        return cell if self.from_tp == self.to_tp else f"{cell} to TP={self.to_tp}"


def audit_grid(grid: Grid, tolerance: float = TOLERANCE) -> tuple[Finding, ...]:
    """Audit a grid of evidence. `tolerance` is relative.

    Little's law is checked if the number of requests in flight is known: for static batches and
    closed loops, not for a run at an offered rate or with everything queued at once.
    """
    found: list[Finding] = []
    for item in grid.values():
        found += _littles_law_of_cell(item, tolerance)
        found += _latency_identity(item, tolerance)
    steps = transitions(grid, (*THROUGHPUTS, metrics.E2E.name))
    return tuple(found + list(_above_linear(steps, tolerance)))


def audit_steps(steps: Iterable[Step], tolerance: float = TOLERANCE) -> tuple[Finding, ...]:
    """Audit a table of percent changes at fixed batch sizes.

    The rounding of a published percentage is allowed in addition to `tolerance`.
    """
    steps = tuple(steps)
    return (
        *_littles_law_of_steps(steps, tolerance),
        *_inverse_steps(steps),
        *_above_linear(steps, tolerance),
    )


def _littles_law_of_cell(item: Evidence, tolerance: float) -> Iterator[Finding]:
    load, e2e = item.workload, item.metrics.get(metrics.E2E.name)
    if e2e is None or load.mode == "max_throughput" or load.request_rate is not None:
        return
    tokens = (load.osl, load.isl + load.osl)
    for name, tokens_per_request in zip(THROUGHPUTS, tokens, strict=True):
        if name not in item.metrics:
            continue
        allowed = load.concurrency * tokens_per_request / e2e.value
        found = item.metrics[name].value
        if abs(found / allowed - 1) > tolerance:
            yield _in_cell(
                item,
                "littles_law",
                metrics.percent_change(allowed, found),
                f"{load.concurrency} requests in flight of {e2e.value:.4g} s each make "
                f"{allowed:.5g} tok/s {metrics.ALL[name].label}, the result says {found:.5g}",
            )


def _latency_identity(item: Evidence, tolerance: float) -> Iterator[Finding]:
    names = (metrics.E2E.name, metrics.TTFT.name, metrics.TPOT.name)
    if any(name not in item.metrics for name in names) or item.workload.osl < 2:
        return
    e2e, ttft, tpot = (item.metrics[name].value for name in names)
    expected = ttft + tpot * (item.workload.osl - 1)
    if abs(e2e / expected - 1) > tolerance:
        yield _in_cell(
            item,
            "latency_identity",
            metrics.percent_change(expected, e2e),
            f"TTFT + TPOT x (osl - 1) is {expected:.4g} s, the E2E latency says {e2e:.4g} s",
        )


def _littles_law_of_steps(steps: tuple[Step, ...], tolerance: float) -> Iterator[Finding]:
    latency = {_key(step): step for step in steps if step.metric == metrics.E2E.name}
    for step in steps:
        if step.metric not in THROUGHPUTS or _key(step) not in latency:
            continue
        other = latency[_key(step)]
        product = _product(step, other)
        if product.lo - tolerance <= 1 <= product.hi + tolerance:
            continue
        yield _at_step(
            step,
            "littles_law",
            (product.value - 1) * 100,
            f"E2E latency {_signed(other)} allows {metrics.ALL[step.metric].label} "
            f"{(1 / other.ratio - 1) * 100:+z.1f} %, the table says {_signed(step)}",
        )


def _inverse_steps(steps: tuple[Step, ...]) -> Iterator[Finding]:
    by_key = {(step.metric, *_key(step)): step for step in steps}
    for step in steps:
        back = by_key.get((step.metric, step.concurrency, step.to_tp, step.from_tp))
        if not step.is_up or back is None:
            continue
        product = _product(step, back)
        if not product.lo - 1e-9 <= 1 <= product.hi + 1e-9:
            yield _at_step(
                step,
                "inverse_steps",
                (product.value - 1) * 100,
                f"{metrics.ALL[step.metric].label} {_signed(step)} going up is "
                f"{(1 / step.ratio - 1) * 100:+z.1f} % going down, the table says {_signed(back)}",
            )


def _above_linear(steps: tuple[Step, ...], tolerance: float) -> Iterator[Finding]:
    """Return one finding per step, for the first metric; the others follow from Little's law."""
    seen: set[Key] = set()
    for metric in (*THROUGHPUTS, metrics.E2E.name):
        for step in steps:
            if step.metric != metric or not step.is_up or _key(step) in seen:
                continue
            linear = step.to_tp / step.from_tp
            least = _printed_range(step)
            gain = 1 / least.hi if metrics.ALL[metric].lower_is_better else least.lo
            if gain > linear * (1 + tolerance):
                seen.add(_key(step))
                yield _at_step(
                    step,
                    "above_linear",
                    (gain / linear - 1) * 100,
                    f"{metrics.ALL[metric].label} {_signed(step)} is {gain:.2f} times as good on "
                    f"{linear:g} times the GPUs: was TP={step.from_tp} short of KV cache?",
                )


def _printed_range(step: Step) -> Interval:
    """Return the ratio of a step; for a published one, the range of its rounding."""
    if step.source.kind != "published":
        return Interval(step.ratio, step.ratio, step.ratio)
    change = step.change_pct
    return Interval(step.ratio, 1 + change.lo / 100, 1 + change.hi / 100)


def _product(a: Step, b: Step) -> Interval:
    x, y = _printed_range(a), _printed_range(b)
    return Interval(x.value * y.value, x.lo * y.lo, x.hi * y.hi)


def _key(step: Step) -> Key:
    return step.concurrency, step.from_tp, step.to_tp


def _signed(step: Step) -> str:
    return f"{step.change_pct.value:+z.1f} %"


def _in_cell(item: Evidence, check: Check, mismatch_pct: float, message: str) -> Finding:
    tp_size = item.deployment.tp_size
    concurrency = item.workload.concurrency
    return Finding(
        check, "broken", concurrency, tp_size, tp_size, mismatch_pct, message, item.source
    )


def _at_step(step: Step, check: Check, mismatch_pct: float, message: str) -> Finding:
    return Finding(
        check,
        "suspect" if check == "above_linear" else "broken",
        step.concurrency,
        step.from_tp,
        step.to_tp,
        mismatch_pct,
        message,
        step.source,
    )
