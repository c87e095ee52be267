"""Simulated against measured: vLLM 0.15.1 on H100 under Poisson arrivals, every row of a table.

    python benchmarks/traffic_h100.py [--reference ../shared/reference] [--write]

Each row is simulated with the step times that the performance model has for its deployment, as its
source ran it; nothing is fitted to the rows. The source's configurations (workloads.yaml and
blis-campaign/campaign/*/values.yaml of github.com/inference-sim/tektonc-data-collection) say how:
load generator kubernetes-sigs/inference-perf, exponential gaps, stages of 600 s (1200 s where there
is one), `--max-num-seqs 128 --max-model-len 4096`, engine defaults otherwise, no warm-up left out.

The load generator makes `Prompts.number` prompts before it starts, and sends one after the other,
over and over (shared_prefix_datagen.py). From its second use on, a prompt is in the prefix cache up
to its last block. The configurations ask for sessions that grow; at the commit that was used they
did not (github.com/inference-sim/inference-sim/pull/513: "real inference-perf data shows constant
input tokens"). `--write` keeps docs/traffic.md and results/traffic_h100.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from shardwise.evidence.record import Evidence
from shardwise.layout.deployment import Deployment, EngineLimits, Layout
from shardwise.metrics import percentile_name
from shardwise.simulator.evidence import evidence, simulate_thrice
from shardwise.simulator.fleet import make_group
from shardwise.simulator.results import Result
from shardwise.simulator.simulate import simulate
from shardwise.simulator.trace import Shared, Trace, make_trace

ROOT = Path(__file__).parents[1]
STAGE_S = {1: 1200.0, 2: 600.0}  #: by the number of stages that a run of all of them has
LIMITS = EngineLimits(max_num_seqs=128, max_model_len=4096)
VERSION = "0.15.1"
COMPLETE = 0.9  #: share of osl that the client of a complete row counted
DRAWS = 5  #: of the arrivals; the figures are their mean
#: Metric -> bound on the median over rows of its absolute error in percent.
BOUNDS = {
    "e2e_mean": 8.0,
    "e2e_p90": 8.0,
    "e2e_p99": 12.0,
    "ttft_mean": 20.0,
    "ttft_p90": None,
    "ttft_p99": None,
    "itl_mean": 7.0,
}


class Prompts(msgspec.Struct, frozen=True):
    """The prompts of a workload: `users` questions behind each of `systems` system prompts."""

    systems: int
    users: int
    system_tokens: int
    stages: int

    @property
    def number(self) -> int:
        return self.systems * self.users


#: workloads.yaml, see above. Questions and answers have the rest of the row's lengths, all equal.
WORKLOADS = {
    "general": Prompts(9, 5, 100, 2),
    "codegen": Prompts(11, 4, 100, 2),
    "roleplay": Prompts(10, 5, 150, 1),
    "reasoning": Prompts(23, 1, 100, 1),
}


class Measured(msgspec.Struct, frozen=True):
    """A row: what ran, and what its clients saw in ms."""

    model: str
    tp_size: int
    workload: str
    stage: str  #: "all", or the number of the stage that was run
    rates: tuple[float, ...]
    isl: int
    osl: int
    max_num_batched_tokens: int
    values: dict[str, float]


def accounted(row: Measured) -> float:
    """Output tokens that the client counted, as a share of osl: its mean ITL is E2E latency over
    them (`normalized_time_per_output_token`, experiment/ground_truth.py of
    github.com/inference-sim/sim-to-real-accuracy-validation)."""
    return row.values["e2e_mean"] / row.values["itl_mean"] / row.osl


class Compared(msgspec.Struct, frozen=True):
    row: Measured
    simulated: dict[str, float]
    requests: int
    held: dict[str, bool]  #: whether the measured value is within the 80 % interval

    def error_pct(self, metric: str) -> float:
        return 100.0 * (self.simulated[metric] / self.row.values[metric] - 1.0)


def read(path: Path) -> list[Measured]:
    with path.open(newline="", encoding="utf-8") as handle:
        return [
            Measured(
                cells["model_id"],
                int(float(cells["tp"])),
                cells["workload"],
                cells["stage"],
                tuple(float(x) for x in cells["request_rate"].split(" then ")),
                int(cells["isl"]),
                int(cells["osl"]),
                int(float(cells["max_num_batched_tokens"])),
                {name: float(cells[name]) for name in BOUNDS},
            )
            for cells in csv.DictReader(handle)
        ]


def values_of(result: Result) -> dict[str, float]:
    """What the source reports, in ms; its mean ITL is the mean of E2E latency over output tokens,
    which are all of osl here."""
    e2e, ttft = result.latency("e2e_latency_s"), result.latency("ttft_s")
    found = {"itl_mean": float((e2e / result.requests.osl).mean())}
    for name, values in (("e2e", e2e), ("ttft", ttft)):
        found[f"{name}_mean"] = float(values.mean())
        for at in (90, 99):
            found[f"{name}_p{at}"] = float(np.percentile(values, at))
    return {name: 1e3 * found[name] for name in BOUNDS}


def trace_of(row: Measured, repeated: bool, seed: int = 0) -> Trace:
    """The row's requests: the workload's prompts in turn, or, unless `repeated`, new questions
    behind the same system prompts."""
    prompts = WORKLOADS[row.workload]
    rng, times = np.random.default_rng(seed), []
    for stage, rate in enumerate(row.rates):
        # as ConstantLoadTimer has it (load_timer.py): exponential gaps that fill the stage
        upto = np.cumsum(rng.exponential(1.0, int(rate * STAGE_S[prompts.stages])))
        times.append((stage + upto / upto[-1]) * STAGE_S[prompts.stages])
    arrival_s = np.concatenate(times)
    isl, osl = (np.full(len(arrival_s), tokens) for tokens in (row.isl, row.osl))
    order = rng.permutation(prompts.number)
    number = order[np.arange(len(arrival_s)) % prompts.number]
    system = number // prompts.users
    question = prompts.systems + number
    segments = np.stack([system, question] if repeated else [system], axis=1)
    ends = np.full(prompts.systems + prompts.number, row.isl)
    ends[: prompts.systems] = prompts.system_tokens
    at = np.arange(len(arrival_s) + 1) * segments.shape[1]
    return make_trace(arrival_s, isl, osl, Shared(at, segments.ravel(), ends))


def compare(row: Measured, repeated: bool = True) -> Compared:
    deployment = Deployment(
        row.model,
        "h100",
        Layout(tp_size=row.tp_size),
        replace(LIMITS, max_num_batched_tokens=row.max_num_batched_tokens),
        engine_version=VERSION,
    )
    group = make_group(deployment)
    runs = simulate_thrice([group], trace_of(row, repeated))
    results = [runs.expected]
    results += [simulate([group], trace_of(row, repeated, seed)) for seed in range(1, DRAWS)]
    values = [values_of(result) for result in results]
    mean = {metric: statistics.fmean(found[metric] for found in values) for metric in BOUNDS}
    (record,) = evidence(runs)
    return Compared(row, mean, len(runs.expected.requests.arrival), holds(record, row))


def holds(record: Evidence, row: Measured) -> dict[str, bool]:
    """By metric, whether its 80 % interval has the measured value; the mean ITL has none."""
    found = {}
    for short, name in (("e2e", "e2e_latency_s"), ("ttft", "ttft_s")):
        for at in (None, 90, 99):
            interval = record.metrics[name if at is None else percentile_name(name, at)]
            metric = f"{short}_mean" if at is None else f"{short}_p{at}"
            found[metric] = interval.lo <= row.values[metric] / 1e3 <= interval.hi
    return found


def medians(rows: Sequence[Compared]) -> dict[str, float]:
    return {m: statistics.median(abs(row.error_pct(m)) for row in rows) for m in BOUNDS}


def table_row(compared: Compared) -> str:
    row = compared.row
    rate = " then ".join(f"{rate:g}" for rate in row.rates)
    cells = [
        f"{row.values[m]:.1f} / {compared.simulated[m]:.1f} ({compared.error_pct(m):+.0f} %)"
        for m in BOUNDS
    ]
    named = [row.model, str(row.tp_size), row.workload, row.stage, rate]
    cells.append(f"{accounted(row):.2f}")
    return "| " + " | ".join([*named, str(row.max_num_batched_tokens), *cells]) + " |"


def document(rows: Sequence[Compared], fresh: Sequence[Compared]) -> str:
    found, others = medians(rows), medians(fresh)
    complete = [row for row in rows if accounted(row.row) >= COMPLETE]
    counted = medians(complete)
    titles = [m.replace("_", " ").replace("e2e", "E2E").replace("ttft", "TTFT") for m in BOUNDS]
    titles = [title.replace("itl", "ITL") for title in titles]
    verdicts = []
    for metric, title in zip(BOUNDS, titles, strict=True):
        bound = BOUNDS[metric]
        within = "" if bound is None else "yes" if found[metric] <= bound else "no"
        least = "" if bound is None else f"{bound:g} %"
        held = [row.held[metric] for row in rows if metric in row.held]
        verdicts.append(
            f"| {title} | {found[metric]:.1f} % | {least} | {within} | "
            f"{f'{sum(held)} of {len(held)}' if held else ''} | {others[metric]:.1f} % | "
            f"{counted[metric]:.1f} % |"
        )
    return "\n".join(
        [
            "# Traffic on H100: simulated against measured",
            "",
            "`python benchmarks/traffic_h100.py --write` writes this page. It compares published "
            "measurements of inference-sim (vLLM 0.15.1 on H100 under Poisson arrivals with prefix "
            "caching) with simulations that use the bundled profile. Nothing is fitted to these "
            "rows, but the measurement method was looked up after their errors were known. "
            "Simulated "
            f"values are means over {DRAWS} draws of the arrivals.",
            "",
            "The source's load generator repeats the same 23 to 50 prompts, so after its first use "
            "each prompt is in the prefix cache. The last column shows the error if each request "
            "has a new question after the same system prompts. Five rows have the same deployment "
            "and workload; their mean E2E latencies differ by up to "
            f"{same_row_spread(rows):.0f} %.",
            "",
            "Median absolute error over the rows, and number of rows whose measured value is "
            "within the simulation's 80 % interval. Rows are complete if their client counted at "
            f"least {100 * COMPLETE:g} % of the output tokens that were asked for:",
            "",
            "| metric | median error | bound | within | in the interval | with new questions | "
            f"{len(complete)} complete rows |",
            "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
            *verdicts,
            "",
            "Each cell: measured / simulated, in ms. ITL is E2E latency divided by output tokens, "
            "as "
            "in the source. The last column is measured: the tokens that the client counted, as a "
            "share of osl. The engine was asked for osl tokens; if the share is below 1, no "
            "simulation can match both E2E and ITL.",
            "",
            "| model | TP | workload | stage | requests/s | token budget | "
            + " | ".join([*titles, "tokens counted"])
            + " |",
            "| --- | ---: | --- | --- | --- | ---: |" + " ---: |" * (len(BOUNDS) + 1),
            *map(table_row, rows),
            "",
        ]
    )


def same_row_spread(rows: Sequence[Compared]) -> float:
    """Percent between the fastest and the slowest mean E2E latency of equal deployments."""
    means: dict[tuple[str, int, str, str], list[float]] = {}
    for compared in rows:
        row = compared.row
        key = (row.model, row.tp_size, row.workload, row.stage)
        means.setdefault(key, []).append(row.values["e2e_mean"])
    return max(100.0 * (max(values) / min(values) - 1.0) for values in means.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--reference", type=Path, default=ROOT / ".." / "shared" / "reference")
    parser.add_argument("--write", action="store_true", help="write the page and the results")
    asked = parser.parse_args()
    measured = read(asked.reference / "traffic_h100.csv")
    rows = [compare(row) for row in measured]
    fresh = [compare(row, repeated=False) for row in measured]
    text = document(rows, fresh)
    print(text)
    line = {
        "benchmark": "traffic_h100",
        "median_error_pct": {m: round(x, 2) for m, x in medians(rows).items()},
        "bounds_pct": BOUNDS,
        "in_interval": {
            m: sum(row.held[m] for row in rows) for m in BOUNDS if all(m in r.held for r in rows)
        },
        "rows": [
            {
                "row": number,
                "requests": row.requests,
                "simulated_ms": {m: round(x, 2) for m, x in row.simulated.items()},
                "error_pct": {m: round(row.error_pct(m), 2) for m in BOUNDS},
            }
            for number, row in enumerate(rows)
        ],
    }
    if asked.write:
        (ROOT / "docs" / "traffic.md").write_text(text, "utf-8")
        (ROOT / "results" / "traffic_h100.json").write_text(json.dumps(line, indent=1), "utf-8")
    print(json.dumps({key: line[key] for key in ("benchmark", "median_error_pct")}))


if __name__ == "__main__":
    main()
