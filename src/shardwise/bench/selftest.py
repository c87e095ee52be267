"""The client against a server of known delays: what does it add to what it measures?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from shardwise.bench.client import Load
from shardwise.bench.http import ask
from shardwise.bench.shards import run_sharded
from shardwise.bench.target import Target, parse_target
from shardwise.errors import InputError

TTFT_S: Final = 0.05
ITL_S: Final = 0.01
OSL: Final = 100
#: largest relative error of each mean
TOLERANCES: Final = {"ttft_s": 0.02, "itl_s": 0.01, "e2e_latency_s": 0.01}


@dataclass(frozen=True)
class Reading:
    """A mean as the client read it, as the server was told, and as the server managed to send it.

    The client's error is against the last: a server that is late, which it knows of itself, is not
    the client's doing, but is shown.
    """

    metric: str
    measured_s: float
    told_s: float
    sent_s: float
    n: int

    @property
    def error(self) -> float:
        return self.measured_s / self.sent_s - 1.0

    @property
    def error_against_told(self) -> float:
        return self.measured_s / self.told_s - 1.0


@dataclass(frozen=True)
class SelfTest:
    """One concurrency's readings. `within` says whether each error is within its tolerance."""

    concurrency: int
    completed: int
    requests: int
    readings: tuple[Reading, ...]
    cpu_s_per_1000_tokens: float
    lag_mean_s: float
    lag_p99_s: float

    def within(self, scale: float = 1.0) -> bool:
        """`scale` multiplies every tolerance."""
        good = all(abs(r.error) <= TOLERANCES[r.metric] * scale for r in self.readings)
        return good and self.completed == self.requests


@contextmanager
def known_server(
    ttft_s: float = TTFT_S,
    itl_s: float = ITL_S,
    fault: str = "",
    every: int = 4,
    prefix: Sequence[str] = (),
) -> Iterator[Target]:
    """The bundled server in a process of its own; `prefix` stands before its command line."""
    command = [*prefix, sys.executable, "-m", "shardwise.bench.known_server", "0"]
    command += [str(ttft_s), str(itl_s), *([fault, str(every)] if fault else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if not line:
                raise InputError("the server of known delays did not start")
            yield parse_target(f"http://127.0.0.1:{line}", model="known")
        finally:
            process.terminate()


def check_client(
    target: Target, concurrency: int, requests_a_slot: int = 5, osl: int = OSL
) -> SelfTest:
    """Load `target`, a server with the delays of this module, and read it."""
    requests = concurrency * requests_a_slot
    body = target.request("known " * 16, osl)
    # slots start over a request's length, lest the server owe every token at the same moment
    load = Load([body] * requests, [osl] * requests, concurrency, ramp_s=TTFT_S + osl * ITL_S)
    ask(target, "/lateness")  # begins the server's account afresh
    run = run_sharded(target, load)
    late = ask(target, "/lateness").json()
    done = [record for record in run.records if record.ok]
    if not done:
        raise InputError("no request of the self-test completed")
    first_late_s = late["first_sum_s"] / max(late["first_tokens"], 1)
    ttft_s = np.asarray([r.first_s - r.origin_s for r in done])
    e2e_s = np.asarray([r.last_s - r.origin_s for r in done])
    gaps_s = np.concatenate([np.diff(np.asarray(r.arrivals)) for r in done])
    mean_late_s = late["sum_s"] / max(late["tokens"], 1)
    told_e2e_s = TTFT_S + (osl - 1) * ITL_S
    readings = (
        Reading("ttft_s", float(ttft_s.mean()), TTFT_S, TTFT_S + first_late_s, len(done)),
        Reading("itl_s", float(gaps_s.mean()), ITL_S, ITL_S, len(gaps_s)),
        Reading("e2e_latency_s", float(e2e_s.mean()), told_e2e_s, told_e2e_s + mean_late_s, len(done)),
    )
    tokens = sum(r.output_tokens for r in done)
    lags = np.asarray(run.lags_s)
    return SelfTest(
        concurrency=concurrency,
        completed=len(done),
        requests=requests,
        readings=readings,
        cpu_s_per_1000_tokens=1000 * run.cpu_s / tokens,
        lag_mean_s=float(lags.mean()) if len(lags) else float("nan"),
        lag_p99_s=float(np.percentile(lags, 99)) if len(lags) else float("nan"),
    )


def steady_scheduling() -> Sequence[str]:
    """Ask for real-time scheduling of this process; returns the prefix for the server's.

    On a busy machine it is other programs that delay both sides. Where it is not permitted,
    nothing changes.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except (OSError, AttributeError):
        return ()
    return ("chrt", "-r", "1")
