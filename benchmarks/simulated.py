"""Simulated against measured on this machine: the built-in engine behind a balancer.

    python benchmarks/simulated.py [--seconds S] [--write]

Two deployments of one random Llama (51M parameters, fp32, one thread a rank) on two cores: one
replica at TP=2, and two at TP=1. What it teaches: step times from a few closed loops are enough to
say what arriving requests will see, and which deployment serves them better.

Step times come from static batches and closed loops alone, at lengths that no judged run has; the
judged runs are open loops whose very trace is simulated as well. A shared machine drifts by ten
percent in minutes: closed loops before and after each judged run say how fast it is then. Two
replicas that share a machine's memory bandwidth slow each other: they are timed alone and together,
and mixed by the share of time that a neighbour is busy in the simulation. Wants a quiet machine.
Prints a table, then one JSON line.
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
PACED = Lengths(96, 0.3), Lengths(64, 0.3)  #: of the closed loops that set the pace
PACE_AT, PACE_WAVES = (4, 32), 4  #: sequences a replica
CONNECTIONS = 64  #: opened before an open loop starts
#: of the rate that the slower deployment holds in the simulation: light, busy and saturated
JUDGED = (0.3, 0.6, 1.5)
#: and two that are shown only: where the queue begins, a percent of capacity moves TTFT by five;
#: with a thousand streams waiting, the server's own work for them, which nobody simulates, shows
SHOWN = (0.85, 3.0)
LOADS = sorted((*JUDGED, *SHOWN))
BATCHES = (1, 2, 4, 8, 16, 32)
PROMPTS = (16, 64, 128, 256, 480)
SHORT, LONG = 16, 480  #: prompts that decode steps are timed behind
DEEP = 16  #: sequences that the cost of context is timed with
DECODED = 48  #: tokens of a timed batch
MAX_SEQS, MAX_TOKENS, KV_TOKENS = 32, 512, 32768
LIMITS_PCT = {"p50": 15.0, "p99": 30.0}
NAMES = ("ttft_s", "tpot_s")


class Steps(msgspec.Struct, frozen=True):
    """What closed loops say of a replica: its step times, and the time outside them in TTFT."""

    table: StepTable
    delay_s: float

    def scaled(self, factor: float) -> Steps:
        return Steps(self.table.scaled(factor), self.delay_s * factor)


class Row(msgspec.Struct, frozen=True):
    """One deployment at one rate. Percentiles in seconds, by metric and percentile."""

    deployment: str
    load: float  #: of what the slower deployment holds in the simulation
    request_rate: float
    n: int
    measured: dict[str, float]
    simulated: dict[str, float]

    def error_pct(self, key: str) -> float:
        return 100.0 * (self.simulated[key] / self.measured[key] - 1.0)


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
    waves = max(3, 24 // each)
    found = []
    for _ in range(waves):
        records = closed_loop(target, each * replicas, isl, DECODED, waves=1)
        begun, ended = max(r.first_s for r in records), max(r.last_s for r in records)
        found.append((ended - begun) / (DECODED - 1))
    return statistics.fmean(found)


def calibrate(target: Target, replicas: int) -> Steps:
    """Step times of `replicas` replicas behind `target` that all have the same to do."""

    def first_s(isl: int) -> float:
        records = closed_loop(target, replicas, isl, 1, waves=16)
        return statistics.fmean(r.ttft_s for r in records)

    steps = {n: step_s(target, n, replicas, SHORT) for n in BATCHES}
    slope = max(0.0, (step_s(target, DEEP, replicas, LONG) - steps[DEEP]) / (DEEP * (LONG - SHORT)))
    context = SHORT + DECODED / 2
    decode = {n: seconds - slope * n * context for n, seconds in steps.items()}
    delay_s = max(0.0, first_s(1) - decode[1])
    prompt = {p: first_s(p) - delay_s for p in PROMPTS}
    return Steps(measured_table(decode, prompt, slope, MAX_SEQS, MAX_TOKENS), delay_s)


def pace(target: Target, replicas: int, steps: Steps) -> float:
    """How much longer closed loops of mixed lengths take than `steps` say: what a request costs
    beside its steps, in the server and the balancer, which share the cores with the ranks, and
    what the machine has become slower or faster since `steps` were timed."""
    ratios = []
    for each in PACE_AT:
        slots = each * replicas
        trace = draw(Traffic(1.0, *PACED, float(PACE_WAVES * slots)), seed=each)
        result = simulate([group(1, replicas, steps)], trace, concurrency=slots)
        records = measure(target, trace, slots)
        begun, ended = min(r.origin_s for r in records), max(r.last_s for r in records)
        ratios.append((ended - begun) / float(np.nanmax(result.requests.finish)))
    return statistics.geometric_mean(ratios)


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


def judge(
    name: str, load: float, trace: Trace, records: list[RequestRecord], result: Result
) -> Row:
    names = (*NAMES, "e2e_latency_s")
    return Row(
        name,
        load,
        trace.request_rate,
        len(records),
        percentiles({m: [float(getattr(r, m)) for r in records] for m in names}),
        percentiles({m: [float(x) for x in result.latency(m)] for m in names}),
    )


def run(folder: Path, seconds: float) -> list[Row]:
    deployments = ((2, 1), (1, 2))
    running = {}
    rows = []
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
            factor = pace(balancer, replicas, together)
            held[tp_size] = [group(tp_size, replicas, together.scaled(factor))]
        traffic = Traffic(1.0, ISL, OSL, 120.0)
        capacity = min(highest_rate(held[tp], traffic) for tp, _ in deployments)
        print(f"the slower deployment holds {capacity:.2f} requests/s in the simulation")
        for k, load in enumerate(LOADS):
            trace = draw(Traffic(load * capacity, ISL, OSL, seconds), seed=k)
            for tp_size, replicas in deployments:
                target, (alone, together) = running[tp_size][1][0], steps[tp_size]
                before = pace(target, replicas, together)
                records = measure(target, trace)
                after = pace(target, replicas, together)
                factor = math.sqrt(before * after)
                own = (alone.scaled(factor), together.scaled(factor))
                result = simulated(tp_size, replicas, own, trace)
                row = judge(f"{replicas} x TP={tp_size}", load, trace, records, result)
                rows.append(row)
                print(f"{line(row)} pace {before:.3f}, {after:.3f}", flush=True)
    finally:
        for path, _ in running.values():
            operating.down(path)
    return rows


def cell(row: Row, key: str) -> str:
    measured, found = 1e3 * row.measured[key], 1e3 * row.simulated[key]
    return f"{measured:.1f} / {found:.1f} ({row.error_pct(key):+.0f} %)"


KEYS = tuple(f"{name} p{at}" for name in NAMES for at in (50, 99))


def line(row: Row) -> str:
    cells = " | ".join(cell(row, key) for key in KEYS)
    return f"| {row.load:g} | {row.request_rate:.2f} | {row.deployment} | {row.n} | {cells} |"


def better(rows: list[Row], which: str) -> str:
    return min(rows, key=lambda row: getattr(row, which)["e2e_latency_s p50"]).deployment


def within(rows: list[Row]) -> dict[str, bool]:
    """Whether every judged row is within the limit of each percentile."""
    return {
        at: all(
            abs(row.error_pct(f"{name} {at}")) <= limit
            for row in rows
            for name in NAMES
            if row.load in JUDGED
        )
        for at, limit in LIMITS_PCT.items()
    }


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
            "lengths. The closed loops are repeated before and after each evaluated run. The "
            "simulation uses the same arrivals as the measurement. Load is relative to the rate "
            "that the slower deployment sustains in the simulation. At a load of "
            f"{JUDGED[-1]:g}, neither deployment keeps up, and the queue grows until the trace "
            f"ends.",
            "",
            f"Two loads are shown but not evaluated. At {SHOWN[0]:g} a queue starts to form, and 1 "
            f"% "
            f"of capacity changes TTFT by 5 %. At {SHOWN[1]:g} a thousand streams wait. The server "
            "handles them on cores that the ranks also need, which no step time includes, so the "
            "simulation is too fast.",
            "",
            "Each cell: measured / simulated, in ms.",
            "",
            "| load | requests/s | deployment | n | TTFT p50 | TTFT p99 | TPOT p50 | TPOT p99 |",
            "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
            *map(line, rows),
            "",
            *(
                f"- {at} of the evaluated rows: {verdict[ok[at]]} {limit:g} %"
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
        "--seconds", type=float, default=120.0, help="duration of each evaluated run"
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
