"""Measure the client's error on a server with known delays."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import numpy as np

from shardwise.bench.http import ask
from shardwise.bench.known_modes import EXPECTED
from shardwise.bench.load import Load, Run
from shardwise.bench.selfcheck import ClientCheck, keeping_up
from shardwise.bench.shards import run_sharded
from shardwise.bench.target import Target, parse_target
from shardwise.errors import InputError

TTFT_S: Final = 0.05
ITL_S: Final = 0.01
OSL: Final = 100
CONCURRENCIES: Final = (1, 16, 128, 512)
#: maximum relative error of each mean
TOLERANCES: Final = {"ttft_s": 0.02, "itl_s": 0.01, "e2e_latency_s": 0.01}


class Reading(msgspec.Struct, frozen=True):
    """A mean as measured by the client, as configured in the server, and as the server sent it.

    The client's error is relative to the last, because the server's own delay is not an error of
    the client. The server records its delay, and it is reported too.
    """

    metric: str
    measured_s: float
    told_s: float
    sent_s: float
    n: int

    @property
    def error(self) -> float:
        """Measured over sent, minus 1."""
        return self.measured_s / self.sent_s - 1.0

    @property
    def error_against_told(self) -> float:
        """Measured over configured, minus 1."""
        return self.measured_s / self.told_s - 1.0

    @property
    def within(self) -> bool:
        """Whether the error is within the tolerance of its metric."""
        return abs(self.error) <= TOLERANCES[self.metric]


class SelfTest(msgspec.Struct, frozen=True):
    """Results at one concurrency."""

    concurrency: int
    completed: int
    requests: int
    readings: tuple[Reading, ...]
    cpu_s_per_1000_tokens: float
    client: ClientCheck
    interrupted: bool = False

    @property
    def within(self) -> bool:
        """Whether every request completed and every error is within its tolerance."""
        return self.completed == self.requests and all(r.within for r in self.readings)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form: numbers, null for missing values, units (seconds) in the names."""
        return {
            "concurrency": self.concurrency,
            "completed": self.completed,
            "requests": self.requests,
            "within": self.within,
            "cpu_s_per_1000_tokens": self.cpu_s_per_1000_tokens,
            "lag_mean_s": _or_none(self.client.lag_mean_s),
            "lag_p99_s": _or_none(self.client.lag_p99_s),
            "cpu_share": self.client.cpu_share,
            "client_bound": self.client.bound,
            "reasons": list(self.client.reasons),
            "readings": {
                r.metric: {
                    "measured_s": r.measured_s,
                    "told_s": r.told_s,
                    "sent_s": r.sent_s,
                    "error": r.error,
                    "error_against_told": r.error_against_told,
                    "tolerance": TOLERANCES[r.metric],
                    "n": r.n,
                }
                for r in self.readings
            },
        }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


@contextmanager
def known_server(
    ttft_s: float = TTFT_S,
    itl_s: float = ITL_S,
    mode: str = "",
    every: int = 4,
    prefix: Sequence[str] = (),
    query: str = "",
) -> Iterator[Target]:
    """Run the bundled server in a separate process; `prefix` is put before its command line.

    `mode` applies to every `every`-th request. If `query` is given, the server answers only
    requests with it.
    """
    if mode and mode not in EXPECTED:
        raise InputError(f"mode {mode!r}", f"allowed: {', '.join(EXPECTED)}")
    command = [*prefix, sys.executable, "-m", "shardwise.bench.known_server", "0"]
    command += [str(ttft_s), str(itl_s), mode, str(every), query]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if not line:
                raise InputError("the server with known delays did not start")
            yield parse_target(f"http://127.0.0.1:{line}?{query}", model="known")
        finally:
            process.terminate()


def check_client(
    target: Target,
    concurrency: int,
    requests: int,
    osl: int = OSL,
    processes: int | None = None,
) -> SelfTest:
    """Run a load on `target`, a server with this module's delays, and return the results.

    Raises InputError.
    """
    body = target.request("known " * 16, osl)
    # slots start over the duration of a request, so that tokens are not all due at the same time
    load = Load([body] * requests, [osl] * requests, concurrency, ramp_s=TTFT_S + osl * ITL_S)
    ask(target, "/lateness")  # resets the delays recorded by the server
    run = run_sharded(target, load, processes=processes)
    done = [record for record in run.records if record.ok]
    if not done:
        raise InputError("no request of the self-test completed")
    tokens = sum(record.output_tokens for record in done)
    return SelfTest(
        concurrency=concurrency,
        completed=len(done),
        requests=requests,
        readings=_readings(run, osl, ask(target, "/lateness").json()),
        cpu_s_per_1000_tokens=1000 * run.cpu_s / tokens,
        client=keeping_up(run, load),
        interrupted=run.interrupted,
    )


def _readings(run: Run, osl: int, late: Mapping[str, float]) -> tuple[Reading, ...]:
    done = [record for record in run.records if record.ok]
    first_late_s = late["first_sum_s"] / max(late["first_tokens"], 1)
    last_late_s = late["last_sum_s"] / max(late["last_tokens"], 1)
    told_e2e_s = TTFT_S + (osl - 1) * ITL_S
    sent_itl_s = ITL_S + (last_late_s - first_late_s) / (osl - 1)
    itl_s = [gap for record in done for gap in record.itl_s]
    means = [
        ("ttft_s", [r.ttft_s for r in done], TTFT_S, TTFT_S + first_late_s),
        ("itl_s", itl_s, ITL_S, sent_itl_s),
        ("e2e_latency_s", [r.e2e_latency_s for r in done], told_e2e_s, told_e2e_s + last_late_s),
    ]
    return tuple(
        Reading(name, float(np.mean(values)), told_s, sent_s, len(values))
        for name, values, told_s, sent_s in means
    )


def selftest(concurrencies: Sequence[int] = CONCURRENCIES) -> Iterator[SelfTest]:
    """Run the self-test at each concurrency against a new server; yield each result when done.

    The server runs at real-time priority if permitted, because it is the reference clock. The
    client runs as in any measurement. Raises InputError.
    """
    for concurrency in concurrencies:
        if concurrency < 1:
            raise InputError(f"concurrency {concurrency}", "allowed: 1 or more")
        with known_server(prefix=realtime_prefix()) as target:
            yield check_client(target, concurrency, max(5 * concurrency, 10))


def realtime_prefix() -> tuple[str, ...]:
    """Return the command prefix for real-time priority (chrt(1)); empty if not permitted."""
    chrt = shutil.which("chrt")
    if chrt is None:
        return ()
    tried = subprocess.run([chrt, "-r", "1", "true"], check=False, capture_output=True)
    return (chrt, "-r", "1") if tried.returncode == 0 else ()
