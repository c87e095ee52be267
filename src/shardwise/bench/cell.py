"""Measure one cell: a target under one workload, until its metrics are precise enough."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from shardwise.bench.arrivals import poisson
from shardwise.bench.load import Load, Run
from shardwise.bench.prompts import Prompt, PromptSource, draw_prompt_seed, make_prompts
from shardwise.bench.selfcheck import ClientCheck, keeping_up
from shardwise.bench.shards import run_sharded, terminable
from shardwise.bench.statistics import mean_interval, narrow_enough, over_runs, percentiles
from shardwise.bench.target import Target
from shardwise.bench.window import inside, steady_window, token_times
from shardwise.evidence.measured import Measured, Repeat
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.evidence.request import (
    RequestRecord,
    check_tokens,
    count_failures,
    sample_failures,
)
from shardwise.layout.deployment import Deployment
from shardwise.workload.workload import Mode, Workload, spread_of

Values = NDArray[np.float64]

LATENCIES: Final = ("ttft_s", "tpot_s", "e2e_latency_s")
#: metrics that must be precise before a cell is done; TTFT varies most and matters least
DECIDING: Final = ("tpot_s", "output_tok_s")
PROMPT_SEED: Final = "prompt_seed"  #: key in what a run says about the client
MIN_REPEATS: Final = 3  #: for an interval from the variation of runs (statistics.over_runs)

OnProgress = Callable[[int, int], None]  #: (repeat, requests completed in it)


class Effort(msgspec.Struct, frozen=True):
    """Measuring effort per cell."""

    requests: int  #: of one run; in a closed loop at least two waves
    min_repeats: int = MIN_REPEATS
    max_repeats: int = 5
    precision: float = 0.05  #: relative half-width of the interval at which repeats stop
    budget_s: float = float("inf")  #: no repeat starts after this time
    warm_up: int = 1  #: waves of requests before the first run that are not recorded
    stall_timeout_s: float = 120.0
    first_token_timeout_s: float = math.inf
    request_timeout_s: float = 3600.0


class Arranged(msgspec.Struct, frozen=True):
    """The requests of a cell, built before the run. With `due_s` the loop is open."""

    prompts: Sequence[Prompt]
    osl: Sequence[int]
    due_s: Sequence[float] | None = None
    prompt_seed: int | None = None  #: of `make_prompts`; None if the prompts are not random


def arrange(
    source: PromptSource,
    workload: Workload,
    requests: int,
    seed: int,
    repeat: int,
    shared_prefix: int = 0,
    prompt_seed: int | None = None,
) -> Arranged:
    """Build requests with `workload`'s lengths and different prompts; Poisson arrivals if it has a
    request rate.

    Lengths and arrivals depend on `seed` and `repeat`, and the shared prefix on `seed`. All other
    words depend on `prompt_seed`. None draws it, so that no two calls return the same prompt.
    """
    of_run = (seed * 1000 + repeat) % 2**32
    drawn = np.random.default_rng(of_run)
    spread = workload.length_spread or 0.0
    isl = lengths(workload.isl, spread, requests, drawn)
    osl = lengths(workload.osl, spread, requests, drawn)
    rate = workload.request_rate
    due_s = None if rate is None else poisson(rate, requests, of_run).due_s
    words = draw_prompt_seed() if prompt_seed is None else prompt_seed
    return Arranged(make_prompts(source, isl, words, shared_prefix, seed), osl, due_s, words)


def lengths(mean: float, spread: float, count: int, drawn: np.random.Generator) -> list[int]:
    """Return `count` shuffled lengths, evenly spaced from `mean` x (1 - spread) to `mean` x (1 +
    spread).

    They are not drawn at random, so that every run has the same work.
    """
    share = (np.arange(count) + 0.5) / count
    values = np.rint(mean * (1.0 + spread * (2.0 * share - 1.0))).astype(int)
    return [int(value) for value in drawn.permutation(values)]


class Subject(msgspec.Struct, frozen=True):
    """The subject of a cell, as stored."""

    study: str
    key: str
    deployment: Deployment
    workload: Workload
    source: Source
    conditions: Mapping[str, Any]


def offered(workload: Workload, trace: str = "") -> str:
    """Return how requests arrive, as part of a cell's key."""
    if trace:
        return f"open_loop trace={trace}"
    if workload.request_rate is not None:
        return f"open_loop rate={workload.request_rate:g}"
    return f"{workload.mode} c={workload.concurrency}"


def measure(
    target: Target,
    subject: Subject,
    arrangement: Callable[[int], Arranged],
    effort: Effort,
    on_progress: OnProgress = lambda _repeat, _ended: None,
    earlier: Sequence[Repeat] = (),
) -> Measured:
    """Warm up, then run until the deciding metrics are precise enough or the effort is spent.

    `arrangement(repeat)` returns different prompts for each run, and for the warm-up, which is -1.
    If interrupted, the current run is kept; if interrupted during warm-up, there is no run.
    `earlier` runs of the same cell count as its first runs.
    """
    concurrency, mode = subject.workload.concurrency, subject.workload.mode
    begun = time.monotonic()
    repeats = list(earlier)
    interrupted = False
    with terminable():
        try:
            if effort.warm_up:
                interrupted = _warm_up(target, arrangement(-1), concurrency, effort)
            for number in range(len(earlier), 0 if interrupted else effort.max_repeats):
                arranged = arrangement(number)
                load = _load(target, arranged, concurrency, effort)
                run = run_sharded(target, load, partial(on_progress, number))
                check = keeping_up(run, load)
                repeats.append(_repeat(run, load, check, mode, arranged.prompt_seed))
                interrupted = run.interrupted
                spent = time.monotonic() - begun
                enough = number + 1 >= effort.min_repeats and narrow_enough(
                    metrics_of(repeats, mode), DECIDING, effort.precision
                )
                if interrupted or enough or spent >= effort.budget_s or not _any_ok(repeats[-1]):
                    break
        except KeyboardInterrupt:  # between two runs, or before the first
            interrupted = True
    return _measured(subject, repeats, interrupted=interrupted, exact=target.exact)


def _warm_up(target: Target, first: Arranged, concurrency: int, effort: Effort) -> bool:
    """Send a wave or two of short requests that are not recorded; return True if interrupted."""
    count = min(concurrency * effort.warm_up, len(first.prompts))
    short = Arranged(first.prompts[:count], [min(n, 8) for n in first.osl[:count]])
    return run_sharded(target, _load(target, short, concurrency, effort)).interrupted


def _load(target: Target, arranged: Arranged, concurrency: int, effort: Effort) -> Load:
    return Load(
        [target.request(p, n) for p, n in zip(arranged.prompts, arranged.osl, strict=True)],
        list(arranged.osl),
        concurrency,
        arranged.due_s,
        effort.stall_timeout_s,
        first_token_timeout_s=effort.first_token_timeout_s,
        request_timeout_s=effort.request_timeout_s,
        exact=target.exact,
    )


def _repeat(
    run: Run, load: Load, check: ClientCheck, mode: Mode, prompt_seed: int | None
) -> Repeat:
    if mode == "closed_loop":
        window = steady_window(run.records, None if load.due_s else load.concurrency)
    else:  # a static batch is measured from its start to its last token
        window = (run.started_s, max((r.last_s for r in run.records if r.ok), default=math.nan))
    client = {**asdict(check), "cpu_s": run.cpu_s, "processes": run.processes}
    if prompt_seed is not None:
        client[PROMPT_SEED] = prompt_seed
    return Repeat(run.started_s, run.ended_s, window, tuple(run.records), client)


def _any_ok(repeat: Repeat) -> bool:
    return any(record.ok for record in repeat.records)


def series(repeat: Repeat, metric: str, mode: Mode) -> Values:
    """Return a latency of each request in the steady window, in order of completion; for a static
    batch, one value for the batch."""
    ended = inside(repeat.records, repeat.window_s)
    if mode == "static_batch":
        values = np.array([_of_batch(ended)[metric]] if ended else [])
    else:
        values = np.array([getattr(r, metric) for r in ended])
    return values[np.isfinite(values)] if len(values) else np.empty(0)


def _of_batch(ended: Sequence[RequestRecord]) -> dict[str, float]:
    """Return the latencies of a static batch: TTFT until every sequence has its first token, E2E
    until the last token, TPOT from the decode steps between them.

    TPOT thus excludes the steps in which the batch is still arriving, one request per step.
    """
    begun = min(r.origin_s for r in ended)
    first = max(r.first_s for r in ended) - begun
    whole = max(r.last_s for r in ended) - begun
    steps = max(r.output_tokens for r in ended) - 1
    return {
        "ttft_s": first,
        "tpot_s": (whole - first) / steps if steps else math.nan,
        "e2e_latency_s": whole,
    }


def throughputs(repeat: Repeat) -> tuple[float, float]:
    """Return output and total tokens/s within the window.

    Output tokens count when they came; input tokens with the requests that ended there.
    """
    start, end = repeat.window_s
    times = token_times(repeat.records)
    ended = inside(repeat.records, repeat.window_s)
    pieces = sum(len(r.arrivals) for r in repeat.records if r.ok)
    tokens = sum(r.output_tokens for r in repeat.records if r.ok)
    # a piece of text may have several tokens; `usage` gives the mean
    each = tokens / pieces if pieces else 0.0
    output = each * float(np.count_nonzero((times > start) & (times <= end))) / (end - start)
    return output, output + sum(r.input_tokens for r in ended) / (end - start)


def metrics_of(repeats: Sequence[Repeat], mode: Mode) -> dict[str, Interval]:
    """Return every available metric with its interval; {} if no request completed."""
    usable = [repeat for repeat in repeats if inside(repeat.records, repeat.window_s)]
    if not usable:
        return {}
    found = {}
    for metric in LATENCIES:
        runs = [series(repeat, metric, mode) for repeat in usable]
        if any(len(run) for run in runs):
            found[metric] = over_runs(runs)
    requests = sum(len(inside(r.records, r.window_s)) for r in usable)
    for metric, rates in zip(
        ("output_tok_s", "total_tok_s"),
        np.array([throughputs(repeat) for repeat in usable]).T,
        strict=True,
    ):
        found[metric] = _rate(rates, found.get("e2e_latency_s"), requests)
    return found


def _rate(rates: Values, e2e: Interval | None, n: int) -> Interval:
    """Return the throughput over repeats.

    With fewer than three repeats its variation is unknown. By Little's law, its relative variation
    equals that of the E2E latency of the same requests.
    """
    if len(rates) >= 3 or e2e is None:
        return mean_interval(rates, n)
    value = float(rates.mean())
    return Interval(value, value * e2e.value / e2e.hi, value * e2e.value / max(e2e.lo, 1e-9), n)


def _measured(
    subject: Subject,
    repeats: Sequence[Repeat],
    *,
    interrupted: bool,
    exact: bool,
) -> Measured:
    records = [record for repeat in repeats for record in repeat.records]
    metrics = metrics_of(repeats, subject.workload.mode)
    workload = subject.workload
    of_file = workload.length_spread is None  # the workload's lengths are only those asked for
    if of_file:
        workload = _as_sent(workload, records)
    if of_file or not exact:
        workload = _as_answered(workload, records)
    evidence = Evidence(subject.deployment, workload, metrics, subject.source)
    tokens = check_tokens(records)
    reasons = list(dict.fromkeys(reason for r in repeats for reason in r.client["reasons"]))
    conditions = {
        **subject.conditions,
        "requests": len(records),
        "completed": sum(record.ok for record in records),
        "failures": count_failures(records),
        "failure_samples": sample_failures(records),
        "tokens": asdict(tokens),
        "remarks": list(tokens.remarks),
        **({} if exact else {"osl_asked": subject.workload.osl}),
        "percentiles": _percentiles(repeats, subject.workload.mode),
        "repeats": len(repeats),
        "prompt_seeds": [r.client[PROMPT_SEED] for r in repeats if PROMPT_SEED in r.client],
        "interrupted": interrupted,
        "client_bound": bool(reasons),
        "client_reasons": reasons,
    }
    return Measured(subject.study, subject.key, evidence, conditions, tuple(repeats))


def _as_sent(workload: Workload, records: Sequence[RequestRecord]) -> Workload:
    """Return `workload` with the mean length of prompts that the server counted, if it did."""
    counted = [record.input_tokens for record in records if record.ok and record.input_tokens]
    return replace(workload, isl=float(np.mean(counted))) if counted else workload


def _as_answered(workload: Workload, records: Sequence[RequestRecord]) -> Workload:
    """Return `workload` with the mean and spread of the received answers' lengths, if any."""
    answered = np.array([record.output_tokens for record in records if record.ok], np.float64)
    if not len(answered):
        return workload
    osl = float(answered.mean())
    return replace(workload, osl=osl, length_spread=spread_of(float(answered.std()) / osl))


def _percentiles(repeats: Sequence[Repeat], mode: Mode) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    if not repeats:
        return found
    for metric in LATENCIES:
        values = np.concatenate([series(repeat, metric, mode) for repeat in repeats])
        if len(values):
            found[metric] = percentiles(values)
    gaps = np.concatenate([_gaps(inside(r.records, r.window_s)) for r in repeats])
    return {**found, "itl_s": percentiles(gaps)} if len(gaps) else found


def _gaps(records: Sequence[RequestRecord]) -> Values:
    parts = [np.asarray(record.itl_s) for record in records]
    return np.concatenate(parts) if parts else np.empty(0)
