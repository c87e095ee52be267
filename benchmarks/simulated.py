"""Simulated against measured on this machine: the built-in engine behind a balancer.

    python benchmarks/simulated.py [--seconds S] [--write]

Two deployments of one random Llama (51M parameters, fp32, one thread a rank) on two cores: one
replica at TP=2, and two at TP=1. What it teaches: step times from a few closed loops are enough to
say what arriving requests will see, and which deployment serves them better.

Step times come from static batches and closed loops alone, at lengths that no judged run has; the
judged runs are open loops whose very trace is simulated as well. A shared machine drifts by ten
percent in minutes: closed loops before and after each judged run say how fast it is then, and how
far apart they are says how well that is known. A measured value is off by its distance to what the
80 % interval of the pace gives. Streams that wait cost the server time on cores that the ranks need
too: batches of as many requests as wait on average in the judged run say how much. Two replicas
that share a machine's memory bandwidth slow each other: they are timed alone and together, and
mixed by the share of time that a neighbour is busy in the simulation. Wants a quiet machine. Prints
a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import socket
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import asdict, replace

from shardwise.bench.client import run_load
from shardwise.bench.load import Load
from shardwise.bench.prompts import choose_source, make_prompts
from shardwise.bench.target import Target, parse_target
from shardwise.evidence.request import RequestRecord
from shardwise.hosting import deployment_file, operating
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.simulator.capacity import highest_rate
from shardwise.simulator.fleet import Group
from shardwise.simulator.results import Result
from shardwise.simulator.simulate import simulate
from shardwise.simulator.steptable import StepTable, measured_table
from shardwise.simulator.trace import Trace
from shardwise.simulator.traffic import Lengths, Traffic, draw

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 2048,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROOT = Path(__file__).parents[1]
ISL, OSL = Lengths(160, 0.3), Lengths(40, 0.3)
#: of the closed loops that set the pace: shorter, with the judged runs' four prompt tokens for each
#: output token, since loops of 32 / 64 tokens are 14 to 22 % slower than step times say, and loops
#: of 160 / 40 tokens 2 to 7 %
PACED = Lengths(120, 0.3), Lengths(30, 0.3)
PACE_AT, PACE_WAVES = (4, 32), (12, 4)  #: sequences a replica, and requests for each of them
CONNECTIONS = 64  #: opened before an open loop starts
#: of the rate that the slower deployment holds in the simulation: light, busy, where a queue
#: begins, saturated, and with hundreds of streams waiting
LOADS = (0.3, 0.6, 0.85, 1.5, 3.0)
REQUESTS = 200  #: of a judged run at least, so that its p99 is more than its longest request
BATCHES = (1, 2, 4, 8, 16, 32)
PROMPTS = (16, 64, 128, 256, 480)
SHORT, LONG = 16, 480  #: prompts that decode steps are timed behind
DEEP = 16  #: sequences that the cost of context is timed with
PASSES = 2  #: over all step times, so that a slow minute does not fall on one of them alone
DECODED = 48  #: tokens of a timed batch
MAX_SEQS, MAX_TOKENS, KV_TOKENS = 32, 512, 32768
LIMITS_PCT = {"p50": 15.0, "p99": 30.0}
NAMES = ("ttft_s", "tpot_s")
METRICS = (*NAMES, "e2e_latency_s")


class Pace(msgspec.Struct, frozen=True):
    """Time of closed loops with few and with many sequences, over what the step times say."""

    few: float
    many: float

    def of(self, sequences: float) -> float:
        """The pace with a number of sequences, log-linear between the loops'."""
        few, many = PACE_AT
        return float(
            np.exp(
                np.interp(math.log(sequences), np.log([few, many]), np.log([self.few, self.many]))
            )
        )


class Steps(msgspec.Struct, frozen=True):
    """What closed loops say of a replica: its step times, and the time outside them in TTFT."""

    table: StepTable
    delay_s: float

    def scaled(self, factor: float) -> Steps:
        return Steps(self.table.scaled(factor), self.delay_s * factor)


class Run(msgspec.Struct, frozen=True):
    """One deployment at one rate, as measured.

    Attributes:
        tp_size: TP size of each replica.
        replicas: Replicas.
        load: Rate over what the slower deployment holds in the simulation.
        trace: Arrivals and lengths.
        paces: Of the closed loops before and after.
        sequences: That a busy replica has on average in the simulation.
        crowding: Further factor for streams that wait.
        percentiles: In seconds, by metric and percentile.
    """

    tp_size: int
    replicas: int
    load: float
    trace: Trace
    paces: tuple[Pace, Pace]
    sequences: float
    crowding: float
    percentiles: dict[str, float]

    @property
    def pace(self) -> float:
        """Mean of the paces before and after."""
        return statistics.geometric_mean(p.of(self.sequences) for p in self.paces)

    @property
    def drift(self) -> float:
        """Logarithm of the pace after the run over that before."""
        before, after = (p.of(self.sequences) for p in self.paces)
        return math.log(after / before)


class Row(msgspec.Struct, frozen=True):
    """A run beside its simulation. Percentiles in seconds, by metric and percentile.

    Attributes:
        deployment: Replicas and TP size.
        load: Rate over what the slower deployment holds in the simulation.
        request_rate: Requests per second.
        n: Requests.
        pace_pct: Half-width of the 80 % interval of the pace, in percent.
        crowding: Factor for streams that wait.
        measured: Percentiles.
        simulated: Percentiles at the mean pace.
        between: Lowest and highest percentile in the interval of the pace.
    """

    deployment: str
    load: float
    request_rate: float
    n: int
    pace_pct: float
    crowding: float
    measured: dict[str, float]
    simulated: dict[str, float]
    between: dict[str, tuple[float, float]]

    def error_pct(self, key: str) -> float:
        return 100.0 * (self.simulated[key] / self.measured[key] - 1.0)

    def beyond_pct(self, key: str) -> float:
        """Distance of the measured value to the simulated interval; 0 within it."""
        low, high = self.between[key]
        nearest = min(max(self.measured[key], low), high)
        return 100.0 * (nearest / self.measured[key] - 1.0)


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports that are free."""
    for first in range(18000, 30000, 50):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise OSError("no free ports")


def start(folder: Path, tp_size: int, replicas: int) -> tuple[Path, list[Target]]:
    """A deployment that runs; its targets: the balancer, then each replica."""
    model = folder / "random-51m"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    first = free_ports(replicas + 1)
    file = DeploymentFile(
        name=f"tp{tp_size}",
        port=first,
        models=[
            ModelTable(
                model=str(model),
                engine="builtin",
                tp_size=tp_size,
                replicas=replicas,
                max_num_seqs=MAX_SEQS,
                max_num_batched_tokens=MAX_TOKENS,
                max_model_len=1024,
                first_port=first + 1,
                flags=[
                    *("--random-weights", "--dtype", "fp32", "--threads-per-rank", "1"),
                    *("--kv-cache-tokens", str(KV_TOKENS), "--max-queue", "100000"),
                ],
            )
        ],
    )
    path = folder / f"tp{tp_size}.toml"
    deployment_file.save(file, path)
    operating.up(path, lambda _: None)
    urls = [f"http://127.0.0.1:{port}" for port in range(first, first + replicas + 1)]
    return path, [parse_target(url, model="random-51m") for url in urls]


def closed_loop(
    target: Target, concurrency: int, isl: int, osl: int, waves: int = 3
) -> list[RequestRecord]:
    count = waves * concurrency
    prompts = make_prompts(choose_source(target), [isl] * count, seed=isl)
    load = Load([target.request(p, osl) for p in prompts], [osl] * count, concurrency)
    return complete(run_load(target, load).records)


def complete(records: list[RequestRecord]) -> list[RequestRecord]:
    lost = [f"{r.failure} {r.detail}" for r in records if not r.ok]
    if lost:
        raise RuntimeError(f"{len(lost)} of {len(records)} requests failed: {lost[0]}")
    return records


def step_s(target: Target, each: int, replicas: int, isl: int) -> float:
    """Mean time of a decode step with `each` sequences at each replica: of static batches, from
    the first token of the request that starts last to the last token of all.

    The mean and not the median, since a slow step keeps everybody waiting as long as it takes.
    """
    waves = max(2, 12 // each)
    found = []
    for _ in range(waves):
        records = closed_loop(target, each * replicas, isl, DECODED, waves=1)
        begun, ended = max(r.first_s for r in records), max(r.last_s for r in records)
        found.append((ended - begun) / (DECODED - 1))
    return statistics.fmean(found)


def first_s(target: Target, replicas: int, isl: int) -> float:
    """Mean TTFT of prompts that every replica has alone."""
    records = closed_loop(target, replicas, isl, 1, waves=8)
    return statistics.fmean(r.ttft_s for r in records)


def calibrate(target: Target, replicas: int) -> Steps:
    """Step times of `replicas` replicas behind `target` that all have the same to do."""
    batches = [(n, SHORT) for n in BATCHES] + [(DEEP, LONG)]
    prompts = (1, *PROMPTS)
    passes = [
        (
            [step_s(target, n, replicas, isl) for n, isl in batches],
            [first_s(target, replicas, isl) for isl in prompts],
        )
        for _ in range(PASSES)
    ]
    timed, firsts = (np.mean(column, axis=0) for column in zip(*passes, strict=True))
    steps = dict(zip(batches, timed.tolist(), strict=True))
    ttft_s = dict(zip(prompts, firsts.tolist(), strict=True))
    deep = steps[DEEP, LONG] - steps[DEEP, SHORT]
    slope = max(0.0, deep / (DEEP * (LONG - SHORT)))
    context = SHORT + DECODED / 2
    decode = {n: steps[n, SHORT] - slope * n * context for n in BATCHES}
    delay_s = max(0.0, ttft_s[1] - decode[1])
    prompt = {p: ttft_s[p] - delay_s for p in PROMPTS}
    return Steps(measured_table(decode, prompt, slope, MAX_SEQS, MAX_TOKENS), delay_s)


def slowness(
    target: Target, replicas: int, steps: Steps, slots: int, count: int, seed: int
) -> float:
    """How much longer a closed loop of mixed lengths takes than `steps` say."""
    trace = draw(Traffic(1.0, *PACED, float(count)), seed=seed)
    result = simulate([group(1, replicas, steps)], trace, concurrency=slots)
    records = measure(target, trace, slots)
    begun, ended = min(r.origin_s for r in records), max(r.last_s for r in records)
    return (ended - begun) / float(np.nanmax(result.requests.finish))


def pace(target: Target, replicas: int, steps: Steps) -> Pace:
    """How much longer closed loops of mixed lengths take than `steps` say: what a request costs
    beside its steps, in the server and the balancer, which share the cores with the ranks, and
    what the machine has become slower or faster since `steps` were timed."""
    few, many = (
        slowness(target, replicas, steps, each * replicas, waves * each * replicas, each)
        for each, waves in zip(PACE_AT, PACE_WAVES, strict=True)
    )
    return Pace(few, many)


def crowding(target: Target, replicas: int, steps: Steps, there: float, without: float) -> float:
    """How much slower a replica is with `there` requests than `without` any that wait:
    the server's work for their streams. Requests that all come at once are there for half of the
    time on average, so there are twice as many."""
    if there <= MAX_SEQS * replicas:
        return 1.0
    crowd = round(2 * there)
    return slowness(target, replicas, steps, crowd, crowd, MAX_SEQS) / without


def in_flight(result: Result) -> float:
    """Requests that are there on average, waiting ones too."""
    q = result.requests
    return float(np.nansum(q.finish - q.arrival)) / result.end_s


def mixed(alone: Steps, together: Steps, busy: float) -> Steps:
    """A replica whose neighbours are busy a share `busy` of its own time."""

    def mean(a: StepTable, b: StepTable) -> StepTable:
        reads = replace(a.reads, seconds=(1 - busy) * a.reads.seconds + busy * b.reads.seconds)
        return StepTable(
            (1 - busy) * a.decode + busy * b.decode,
            (1 - busy) * a.prompt + busy * b.prompt,
            reads,
            a.scores,
            a.pp_size,
        )

    delay_s = (1 - busy) * alone.delay_s + busy * together.delay_s
    return Steps(mean(alone.table, together.table), delay_s)


def group(tp_size: int, replicas: int, steps: Steps) -> Group:
    return Group(
        deployment=Deployment(
            model="random-51m",
            gpu="cpu",
            layout=Layout(tp_size=tp_size, replicas=replicas),
            dtypes=Dtypes(weight="fp32"),
            engine="builtin",
        ),
        table=steps.table,
        max_num_seqs=MAX_SEQS,
        max_num_batched_tokens=MAX_TOKENS,
        kv_capacity_tokens=KV_TOKENS,
        max_context=1024,
        delay_s=steps.delay_s,
        tokenize_s=0.0,
        delay_steps=0.0,
        half_widths={},
        note="step times from closed loops",
    )


def busy_share(result: Result) -> float:
    """Share of the run in which a replica has work, the mean over replicas."""
    q, replicas = result.requests, len(result.replicas.now)
    total = 0.0
    for r in range(replicas):
        end = 0.0
        for arrival, finish in zip(
            q.arrival[q.replica == r], q.finish[q.replica == r], strict=True
        ):
            total += max(0.0, finish - max(arrival, end))
            end = max(end, finish)
    return total / (replicas * result.end_s)


def simulated(tp_size: int, replicas: int, steps: tuple[Steps, Steps], trace: Trace) -> Result:
    """The trace simulated, with the neighbours' share of time found by iteration."""
    busy = 0.5
    for _ in range(4):
        result = simulate([group(tp_size, replicas, mixed(*steps, busy))], trace)
        busy = busy_share(result)
    return result


def measure(target: Target, trace: Trace, concurrency: int = 0) -> list[RequestRecord]:
    """`trace` arrival for arrival, or as a closed loop of `concurrency` clients."""
    prompts = make_prompts(choose_source(target), [int(x) for x in trace.isl], seed=7)
    asked = [int(x) for x in trace.osl]
    requests = [target.request(p, osl) for p, osl in zip(prompts, asked, strict=True)]
    due_s = None if concurrency else [float(x) for x in trace.arrival_s]
    load = Load(requests, asked, concurrency or CONNECTIONS, due_s)
    return complete(run_load(target, load).records)


def percentiles(values: Mapping[str, list[float]]) -> dict[str, float]:
    found = {}
    for name, column in values.items():
        known = [x for x in column if not math.isnan(x)]
        for at in (50, 99):
            found[f"{name} p{at}"] = float(np.percentile(known, at))
    return found


def of_records(records: list[RequestRecord]) -> dict[str, float]:
    return percentiles({m: [float(getattr(r, m)) for r in records] for m in METRICS})


def of_result(result: Result) -> dict[str, float]:
    return percentiles({m: [float(x) for x in result.latency(m)] for m in METRICS})


def measured_run(
    target: Target,
    tp_size: int,
    replicas: int,
    steps: tuple[Steps, Steps],
    load: float,
    trace: Trace,
) -> Run:
    """Measure one trace, and the machine's pace before and after."""
    together = steps[1]
    before = pace(target, replicas, together)
    expected = simulated(tp_size, replicas, at(steps, before.many), trace)
    there = in_flight(expected)
    sequences = min(there / (replicas * busy_share(expected)), float(MAX_SEQS))
    crowd = crowding(target, replicas, together, there, before.many)
    found = of_records(measure(target, trace))
    after = pace(target, replicas, together)
    return Run(tp_size, replicas, load, trace, (before, after), sequences, crowd, found)


def at(steps: tuple[Steps, Steps], factor: float) -> tuple[Steps, Steps]:
    alone, together = steps
    return alone.scaled(factor), together.scaled(factor)


def spread(runs: list[Run]) -> float:
    """Half-width (log) of the 80 % interval of the pace in a run, around the mean of both paces.

    Paces scatter with standard deviation s around a mean: two differ by sqrt(2) s, and a third one
    is sqrt(1.5) s from the mean of two.
    """
    differ = math.sqrt(statistics.fmean(r.drift**2 for r in runs))
    return statistics.NormalDist().inv_cdf(0.9) * math.sqrt(1.5 / 2.0) * differ


def judge(run: Run, steps: tuple[Steps, Steps], half: float) -> Row:
    """Simulate a run at its mean pace, and at both ends of the pace's interval."""
    mean = run.pace * run.crowding
    slow, found, fast = (
        of_result(simulated(run.tp_size, run.replicas, at(steps, factor), run.trace))
        for factor in (mean * math.exp(half), mean, mean * math.exp(-half))
    )
    of_all = {key: (slow[key], found[key], fast[key]) for key in found}
    return Row(
        f"{run.replicas} x TP={run.tp_size}",
        run.load,
        run.trace.request_rate,
        len(run.trace.arrival_s),
        100.0 * math.expm1(half),
        run.crowding,
        run.percentiles,
        found,
        {key: (min(values), max(values)) for key, values in of_all.items()},
    )


def run(folder: Path, seconds: float) -> list[Row]:
    deployments = ((2, 1), (1, 2))
    running = {}
    runs: list[Run] = []
    steps: dict[int, tuple[Steps, Steps]] = {}
    held: dict[int, list[Group]] = {}
    try:
        # both stay up, and only one has work at a time: an idle engine uses no core
        for tp_size, replicas in deployments:
            running[tp_size] = start(folder, tp_size, replicas)
        for tp_size, replicas in deployments:
            balancer, first = running[tp_size][1][:2]
            together = calibrate(balancer, replicas)
            alone = calibrate(first, 1) if replicas > 1 else together
            steps[tp_size] = (alone, together)
            step_ms, beside_ms = (1e3 * s.table.decode[1] for s in steps[tp_size])
            print(f"TP={tp_size}: step {step_ms:.2f} ms alone, {beside_ms:.2f} ms beside others")
            full = pace(balancer, replicas, together).many
            held[tp_size] = [group(tp_size, replicas, together.scaled(full))]
        traffic = Traffic(1.0, ISL, OSL, 120.0)
        capacity = min(highest_rate(held[tp], traffic) for tp, _ in deployments)
        print(f"the slower deployment holds {capacity:.2f} requests/s in the simulation")
        for k, load in enumerate(LOADS):
            rate = load * capacity
            lasts_s = max(seconds, REQUESTS / rate)
            trace = draw(Traffic(rate, ISL, OSL, lasts_s), seed=k)
            for tp_size, replicas in deployments:
                target = running[tp_size][1][0]
                found = measured_run(target, tp_size, replicas, steps[tp_size], load, trace)
                runs.append(found)
                print(
                    f"load {load:g}, {replicas} x TP={tp_size}: pace {found.pace:.3f}, drift "
                    f"{found.drift:+.3f}, crowding {found.crowding:.2f}",
                    flush=True,
                )
    finally:
        for path, _ in running.values():
            operating.down(path)
    half = {tp: spread([r for r in runs if r.tp_size == tp]) for tp, _ in deployments}
    return [judge(r, steps[r.tp_size], half[r.tp_size]) for r in runs]


def cell(row: Row, key: str) -> str:
    measured, (low, high) = 1e3 * row.measured[key], row.between[key]
    found = f"{1e3 * low:.1f} to {1e3 * high:.1f}"
    return f"{measured:.1f} / {found} ({row.error_pct(key):+.0f} %)"


KEYS = tuple(f"{name} p{at}" for name in NAMES for at in (50, 99))


def line(row: Row) -> str:
    cells = " | ".join(cell(row, key) for key in KEYS)
    machine = f"{row.pace_pct:.1f} % | {row.crowding:.2f}"
    what = f"{row.load:g} | {row.request_rate:.2f} | {row.deployment} | {row.n}"
    return f"| {what} | {machine} | {cells} |"


def better(rows: list[Row], which: str) -> str:
    return min(rows, key=lambda row: getattr(row, which)["e2e_latency_s p50"]).deployment


def within(rows: list[Row]) -> dict[str, bool]:
    """Whether every row is within the limit of each percentile."""
    return {
        at: all(abs(row.beyond_pct(f"{name} {at}")) <= limit for row in rows for name in NAMES)
        for at, limit in LIMITS_PCT.items()
    }


def count_within(rows: list[Row], at: str) -> int:
    """Values within the limit of a percentile if only the mean pace is simulated."""
    errors = [abs(row.error_pct(f"{name} {at}")) for row in rows for name in NAMES]
    return sum(error <= LIMITS_PCT[at] for error in errors)


def choices(rows: list[Row]) -> list[tuple[float, str, str]]:
    """(rate, better by measurement, better in the simulation), by median E2E latency."""
    by_rate: dict[float, list[Row]] = {}
    for row in rows:
        by_rate.setdefault(row.request_rate, []).append(row)
    return [
        (rate, better(same, "measured"), better(same, "simulated"))
        for rate, same in by_rate.items()
    ]


def document(rows: list[Row]) -> str:
    ok = within(rows)
    verdict = {True: "all within", False: "NOT all within"}
    return "\n".join(
        [
            "# Simulated against measured",
            "",
            "`python benchmarks/simulated.py --write` writes this page. It compares simulations "
            "with "
            "the built-in engine behind a balancer, serving a random Llama with 51M parameters on "
            f"this machine's {os.cpu_count()} cores ({platform.machine()}), under Poisson arrivals "
            f"with {ISL.mean:g} input and {OSL.mean:g} output tokens (log-normal, coefficient of "
            f"variation {ISL.cv:g}). Step times come from static batches and closed loops at other "
            "lengths. The simulation uses the same arrivals as the measurement. Load is relative "
            "to the rate that the slower deployment sustains in the simulation. At loads of "
            f"{LOADS[-2]:g} and {LOADS[-1]:g}, neither deployment keeps up, and the queue grows "
            "until the trace ends.",
            "",
            "Two properties of the machine are measured and included:",
            "",
            f"- **Pace**: closed loops with {PACE_AT[0]} and {PACE_AT[1]} sequences per replica, "
            f"with {PACED[0].mean:g} input and {PACED[1].mean:g} output tokens, "
            "are repeated before and after each run. Their mean, at the run's number of sequences, "
            "scales the step times, and their differences give an 80 % interval of the pace in a "
            "run. The closer the load is to capacity, the more TTFT depends on the pace.",
            "- **Crowding**: streams that wait cost the server time on cores that the ranks also "
            "need. The factor is from batches of requests sent at once, in which on average as "
            "many wait as in the run.",
            "",
            "Each cell: measured / simulated in the interval of the pace, in ms, and the error at "
            "the mean pace. A value is within a limit if its distance to the interval is.",
            "",
            "| load | requests/s | deployment | n | pace ± | crowding | TTFT p50 | TTFT p99 | "
            "TPOT p50 | TPOT p99 |",
            "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *map(line, rows),
            "",
            *(
                f"- {at}: {verdict[ok[at]]} {limit:g} %; at the mean pace, "
                f"{count_within(rows, at)} of {len(rows) * len(NAMES)}"
                for at, limit in LIMITS_PCT.items()
            ),
            *(
                f"- lowest median E2E latency at {rate:.2f} requests/s: {measured} measured, "
                f"{found} simulated"
                for rate, measured, found in choices(rows)
            ),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        help=f"least duration of a judged run; it has at least about {REQUESTS} requests",
    )
    parser.add_argument("--write", action="store_true", help="write the page and the results")
    asked = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("SHARDWISE_HOME", str(Path(folder) / "home"))
        rows = run(Path(folder), asked.seconds)
    text = document(rows)
    print(text)
    line = {
        "benchmark": "simulated",
        "within": within(rows),
        "right_choice": all(a == b for _, a, b in choices(rows)),
        "load_before": load_before,
        "rows": [asdict(row) for row in rows],
    }
    if asked.write:
        (ROOT / "docs" / "simulated.md").write_text(text, "utf-8")
        (ROOT / "results" / "simulated.json").write_text(json.dumps(line, indent=1), "utf-8")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
