"""Results of a simulation: latencies with n, goodput, queues over time, overload, recovery."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shardwise.metrics import usd_per_million_tok
from shardwise.simulator.fleet import Failure, Group
from shardwise.simulator.state import (
    DONE,
    KV_USED,
    PREEMPTED,
    RUNNING,
    STATUSES,
    WAITING,
    Loop,
    Replicas,
    Requests,
)
from shardwise.simulator.trace import Floats
from shardwise.workload.workload import Slo

LATENCIES = ("ttft_s", "tpot_s", "e2e_latency_s")
PERCENTILES = (50.0, 90.0, 99.0)
FEW = 10  #: requests beyond the 99th percentile, below which it is mostly chance
#: A queue that keeps growing and ends longer than this per replica is overload.
OVERLOAD_QUEUE = 8.0
RECOVERY_WINDOW_S = 10.0


class Percentiles(msgspec.Struct, frozen=True):
    """Percentiles of one latency in seconds over `n` requests; NaN for n = 0."""

    values: Mapping[float, float]
    mean: float
    n: int


class Timeline(msgspec.Struct, frozen=True):
    """Means over bins of `bin_s` seconds, summed over the replicas."""

    start_s: Floats
    running: Floats
    waiting: Floats
    kv_share: Floats  #: of all replicas' KV cache


class Result(msgspec.Struct, frozen=True):
    """A run. Arrays are in order of arrival; times in seconds."""

    groups: tuple[Group, ...]
    requests: Requests
    replicas: Replicas
    loop: Loop
    failures: tuple[Failure, ...]
    concurrency: int  #: of the closed loop; 0: open
    pooled: bool = False  #: each request went through both groups; replicas are the last one's
    whole: Requests | None = None  #: of all groups, if `requests` are those of one

    def counted(self, warmup_s: float = 0.0) -> NDArray[np.bool_]:
        """Requests that arrived after the warm-up and were answered completely."""
        done = self.requests.status == DONE
        return np.asarray(done & (self.requests.arrival >= warmup_s))

    def latency(self, name: str) -> Floats:
        """Return `ttft_s`, `tpot_s` or `e2e_latency_s` of every request; NaN if undefined."""
        q = self.requests
        if name == "ttft_s":
            return q.first - q.arrival
        if name == "e2e_latency_s":
            return np.where(q.status == DONE, q.finish - q.arrival, np.nan)
        several = (q.osl >= 2) & (q.status == DONE)
        return np.where(several, (q.finish - q.first) / np.maximum(q.osl - 1, 1), np.nan)

    def ordered(self, name: str, warmup_s: float = 0.0) -> Floats:
        """Return the defined values of a latency, in order of arrival."""
        counted = self.counted(warmup_s)
        order = np.argsort(self.requests.arrival[counted], kind="stable")
        values = self.latency(name)[counted][order]
        return np.asarray(values[~np.isnan(values)])

    def percentiles(
        self, name: str, warmup_s: float = 0.0, at: Sequence[float] = PERCENTILES
    ) -> Percentiles:
        """Return percentiles of a latency over the requests after the warm-up, in seconds."""
        values = self.latency(name)[self.counted(warmup_s)]
        values = values[~np.isnan(values)]
        if not len(values):
            return Percentiles(dict.fromkeys(at, math.nan), math.nan, 0)
        found = np.percentile(values, list(at))
        return Percentiles(
            dict(zip(at, map(float, found), strict=True)), float(values.mean()), len(values)
        )

    def of_group(self, number: int) -> Result:
        """Return the requests of replica group `number`, for latencies and rates; queues and
        occupancy cover all groups."""
        counts = [group.deployment.replicas for group in self.groups]
        first = sum(counts[:number])
        q = self.requests
        own = (q.replica >= first) & (q.replica < first + counts[number])
        return replace(self.part(own), groups=(self.groups[number],), whole=q)

    def part(self, own: NDArray[np.bool_] | slice) -> Result:
        """Return the requests `own`, for latencies and rates."""
        q = self.requests
        shared = {"segment_at", "segment", "segment_end"}
        kept = {name: getattr(q, name)[own] for name in q._fields if name not in shared}
        return replace(self, requests=q._replace(**kept))

    def outcomes(self) -> dict[str, int]:
        """The numbers of completed, rejected and failed requests, which add up to all."""
        return {name: int((self.requests.status == k).sum()) for k, name in enumerate(STATUSES)}

    @property
    def end_s(self) -> float:
        """Time at which the last request ended."""
        return float(np.nanmax(self.requests.finish))

    @property
    def preemptions(self) -> int:
        """Sequences preempted for lack of KV cache."""
        return int(self.loop.counts[PREEMPTED])

    @property
    def span_s(self) -> float:
        """Seconds during which work was offered: until the last arrival, or the end of a closed
        loop."""
        last = float(self.requests.arrival.max())
        return self.end_s if self.concurrency or last <= 0 else last

    def window_s(self, warmup_s: float = 0.0) -> float:
        """Seconds that rates refer to.

        At a rate: from the warm-up until the last counted request is answered. In a closed loop:
        the time of a client with the requests sent after the warm-up, failed ones among them, as a
        mean over the clients. All clients are busy during that time, so tokens over it are the
        throughput of a loop that neither starts nor empties. By Little's law it is
        `concurrency` x mean tokens / mean E2E latency, without a choice of an end, which would
        prefer short requests (count by completion) or long ones.
        """
        if self.concurrency:
            q = self.requests if self.whole is None else self.whole
            taken = np.where(q.arrival >= warmup_s, q.finish - q.arrival, 0.0)
            return float(np.nansum(taken)) / self.concurrency
        counted = self.counted(warmup_s)
        if not counted.any():
            return 0.0
        return float(self.requests.finish[counted].max()) - warmup_s

    def hit_rate(self, warmup_s: float = 0.0) -> float:
        """Share of prompt tokens found in a prefix cache."""
        counted = self.counted(warmup_s)
        prompts = int(self.requests.isl[counted].sum())
        return float(self.requests.cached[counted].sum()) / prompts if prompts else 0.0

    def imbalance(self) -> float:
        """Requests of the busiest replica divided by the mean of all replicas."""
        taken = self.requests.replica[self.requests.replica >= 0]
        if not len(taken):
            return 1.0
        decoding = self.groups[-1].deployment.replicas if self.pooled else len(self.replicas.now)
        counts = np.bincount(taken, minlength=decoding)
        return float(counts.max() / counts.mean())

    def output_tok_s(self, warmup_s: float = 0.0) -> float:
        """Output tokens per second after the warm-up."""
        window = self.window_s(warmup_s)
        tokens = float(self.requests.osl[self.counted(warmup_s)].sum())
        return tokens / window if window > 0 else 0.0

    def good(self, slo: Slo, warmup_s: float = 0.0) -> NDArray[np.bool_]:
        """Return the counted requests that meet every bound of `slo`."""
        good = self.counted(warmup_s)
        for name, bound in slo.bounds().items():
            value = self.latency(name)
            good &= (value <= bound) | (np.isnan(value) & (name == "tpot_s"))
        return good

    def goodput(self, slo: Slo, warmup_s: float = 0.0) -> float:
        """Return requests/s that meet every bound."""
        window = self.window_s(warmup_s)
        return float(self.good(slo, warmup_s).sum()) / window if window > 0 else 0.0

    def usd_per_million_good_tok(
        self, slo: Slo, usd_per_gpu_hour: float, warmup_s: float = 0.0
    ) -> float:
        """Return the cost of all GPUs divided by the output tokens of requests that met the SLO;
        infinite if there are none. The price is per GPU, or the mean over all."""
        window = self.window_s(warmup_s)
        tokens = float(self.requests.osl[self.good(slo, warmup_s)].sum())
        gpus = sum(group.deployment.gpus for group in self.groups)
        if tokens == 0 or window == 0:
            return math.inf
        return usd_per_million_tok(gpus * usd_per_gpu_hour, tokens / window)

    def timeline(self) -> Timeline:
        """Queue, batch and KV occupancy over time."""
        width = float(self.loop.bin_s[0])
        bins = max(1, min(len(self.loop.timeline), math.ceil(self.end_s / width)))
        mean = self.loop.timeline[:bins] / width
        capacity = sum(g.kv_capacity_tokens * g.deployment.replicas for g in self.groups)
        return Timeline(
            np.arange(bins, dtype=np.float64) * width,
            mean[:, RUNNING],
            mean[:, WAITING],
            mean[:, KV_USED] / capacity,
        )

    @property
    def overloaded(self) -> bool:
        """Whether the queue grew from half time to the last arrival, to a significant length.

        A closed loop cannot be overloaded, because its clients wait.
        """
        if self.concurrency or len(self.requests.arrival) < 2:
            return False
        line, span = self.timeline(), self.span_s
        middle = line.waiting[(line.start_s >= 0.4 * span) & (line.start_s < 0.6 * span)]
        last = line.waiting[(line.start_s >= 0.8 * span) & (line.start_s < span)]
        if not len(middle) or not len(last):
            return False
        replicas = len(self.replicas.now)
        grew = float(last.mean()) > 1.3 * float(middle.mean())
        return grew and float(last.mean()) > OVERLOAD_QUEUE * replicas

    def recovery_s(self) -> float | None:
        """Seconds from the first failure until TTFT is back to normal; None without a failure,
        infinite if never.

        TTFT is back to normal at the end of the last 10-second window whose median TTFT is above
        both the 95th percentile of such windows before the failure and 1.1 times their median.
        """
        if not self.failures:
            return None
        down = min(failure.down_s for failure in self.failures)
        arrival, ttft = self.requests.arrival, self.latency("ttft_s")
        window = ((arrival - down) // RECOVERY_WINDOW_S).astype(np.int64)
        known = ~np.isnan(ttft)
        medians = {
            int(w): float(np.median(ttft[known & (window == w)])) for w in set(window[known])
        }
        before = [value for w, value in medians.items() if w < 0]
        if not before:
            return math.inf
        bound = max(float(np.percentile(before, 95)), 1.1 * float(np.median(before)))
        above = [w for w, value in medians.items() if w >= 0 and value > bound]
        if not above:
            return 0.0
        if max(above) >= max(medians) - 1:
            return math.inf
        return (max(above) + 1) * RECOVERY_WINDOW_S
