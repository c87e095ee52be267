"""Check whether the client kept up with a run; if not, its values do not describe the server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from shardwise.bench.load import Load, Run
from shardwise.evidence.request import RequestRecord

MEAN_LAG_SHARE: Final = 0.02  #: of the mean TTFT; equal to the tolerance of the self-test
P99_LAG_SHARE: Final = 0.2  #: of the mean TTFT; a larger lag would change the tail of TTFT
CPU_SHARE: Final = 0.85  #: of a core; above it token queues grow fast (M/D/1: 2.8 services)
CONCURRENCY_SHARE: Final = 0.95  #: of the requested concurrency


class ClientCheck(msgspec.Struct, frozen=True):
    """Measures of whether the client kept up. NaN if unknown."""

    lag_mean_s: float  #: delay between arrival of data and its timestamp
    lag_p99_s: float
    lag_n: int
    cpu_share: float  #: of a core, the busiest process
    concurrency_asked: int
    concurrency_achieved: float  #: mean requests in flight while requests were left (closed loop)
    send_delay_mean_s: float  #: delay between due time and sending (open loop)
    reasons: tuple[str, ...]  #: reasons why the client limited the results; none: it kept up

    @property
    def bound(self) -> bool:
        """Whether the values are client-bound and do not describe the server."""
        return bool(self.reasons)


def keeping_up(run: Run, load: Load) -> ClientCheck:
    """Judge `run` of `load` by the client's receive lag, CPU and the load it achieved."""
    lags_s = np.asarray(run.lags_s)
    lag_mean_s = float(lags_s.mean()) if len(lags_s) else math.nan
    lag_p99_s = float(np.percentile(lags_s, 99)) if len(lags_s) else math.nan
    done = [record for record in run.records if record.ok]
    ttft_s = _mean([record.ttft_s for record in done])
    open_loop = load.due_s is not None
    achieved = math.nan if open_loop else _achieved(run.records, load)
    delay_s = _mean([r.sent_s - r.origin_s for r in done]) if open_loop else math.nan
    reasons = [f"lost: {problem}" for problem in run.problems]
    if not len(lags_s):
        reasons.append("the run was too short to see whether the client kept up")
    if lag_mean_s > MEAN_LAG_SHARE * ttft_s:
        reasons.append(_late("receive lag of", lag_mean_s, MEAN_LAG_SHARE, ttft_s))
    if lag_p99_s > P99_LAG_SHARE * ttft_s:
        reasons.append(_late("p99 receive lag of", lag_p99_s, P99_LAG_SHARE, ttft_s))
    if delay_s > MEAN_LAG_SHARE * ttft_s:
        reasons.append(_late("requests sent late by", delay_s, MEAN_LAG_SHARE, ttft_s))
    if run.cpu_share > CPU_SHARE:
        reasons.append(f"client used {run.cpu_share:.0%} of a core, above {CPU_SHARE:.0%}")
    if achieved < CONCURRENCY_SHARE * load.concurrency:
        reasons.append(f"{achieved:.1f} requests in flight of {load.concurrency} asked")
    return ClientCheck(
        lag_mean_s,
        lag_p99_s,
        len(lags_s),
        run.cpu_share,
        load.concurrency,
        achieved,
        delay_s,
        tuple(reasons),
    )


def _late(what: str, late_s: float, share: float, ttft_s: float) -> str:
    return f"{what} {late_s * 1e3:.2f} ms, above {share:.0%} of TTFT {ttft_s * 1e3:.1f} ms"


def _mean(values_s: Sequence[float]) -> float:
    known = [value for value in values_s if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _achieved(records: Sequence[RequestRecord], load: Load) -> float:
    """Return the mean requests in flight from the last slot's first request to the last sending.

    NaN if that interval is empty, or if failures paused or shortened requests.
    """
    sent = sorted(record.sent_s for record in records if not math.isnan(record.sent_s))
    if any(record.failure for record in records) or len(sent) <= load.concurrency:
        return math.nan
    begin_s, end_s = sent[load.concurrency - 1], sent[-1]
    if end_s <= begin_s:
        return math.nan
    in_flight_s = sum(
        max(min(record.done_s, end_s) - max(record.sent_s, begin_s), 0.0)
        for record in records
        if not math.isnan(record.sent_s)
    )
    return in_flight_s / (end_s - begin_s)
