"""Simulated against measured: vLLM 0.15.1 on H100 under Poisson arrivals, every row of a table.

    python benchmarks/traffic_h100.py [--reference ../shared/reference] [--write]

Each row is simulated with the step times that the performance model has for its deployment, at its
rates, lengths and token budget. Nothing is fitted to the rows. What their source does not say is
assumed, once for all rows: `SYSTEM_TOKENS` of each prompt are one of `SYSTEM_PROMPTS` shared
beginnings (the load generator's defaults, kubernetes-sigs/inference-perf), every length is the
row's mean, a stage lasts `STAGE_S`. The medians are printed for other shared parts too, to show
what the assumption is worth. `--write` keeps docs/traffic.md and results/traffic_h100.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shardwise.layout.deployment import Deployment, EngineLimits, Layout
from shardwise.simulator.fleet import make_group
from shardwise.simulator.results import Result
from shardwise.simulator.simulate import simulate
from shardwise.simulator.traffic import Lengths, Stage, draw, in_stages

ROOT = Path(__file__).parents[1]
SYSTEM_TOKENS, SYSTEM_PROMPTS = 100, 10
STAGE_S = 600.0
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


@dataclass(frozen=True)
class Measured:
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
    """Gaps of the measured mean ITL that fit between first and last token, over osl - 1."""
    v = row.values
    return (v["e2e_mean"] - v["ttft_mean"]) / v["itl_mean"] / (row.osl - 1)


@dataclass(frozen=True)
class Compared:
    row: Measured
    simulated: dict[str, float]
    requests: int

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
    """What the source reports, in ms. The mean gap is over all tokens after first ones."""
    q = result.requests
    e2e, ttft = result.latency("e2e_latency_s"), result.latency("ttft_s")
    found = {"itl_mean": float((e2e - ttft).sum() / (q.osl - 1).sum())}
    for name, values in (("e2e", e2e), ("ttft", ttft)):
        found[f"{name}_mean"] = float(values.mean())
        for at in (90, 99):
            found[f"{name}_p{at}"] = float(np.percentile(values, at))
    return {name: 1e3 * found[name] for name in BOUNDS}


def compare(row: Measured, system_tokens: int) -> Compared:
    deployment = Deployment(
        row.model,
        "h100",
        Layout(tp_size=row.tp_size),
        EngineLimits(max_num_batched_tokens=row.max_num_batched_tokens),
    )
    traffic = in_stages(
        [Stage(rate, STAGE_S) for rate in row.rates],
        Lengths(row.isl - system_tokens),
        Lengths(row.osl),
        prefixes=SYSTEM_PROMPTS,
        prefix_tokens=system_tokens,
    )
    result = simulate([make_group(deployment)], draw(traffic))
    return Compared(row, values_of(result), len(result.requests.arrival))


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


def document(rows: Sequence[Compared], others: dict[int, dict[str, float]]) -> str:
    found = medians(rows)
    titles = [m.replace("_", " ").replace("e2e", "E2E").replace("ttft", "TTFT") for m in BOUNDS]
    titles = [title.replace("itl", "ITL") for title in titles]
    verdicts = []
    for metric, title in zip(BOUNDS, titles, strict=True):
        bound = BOUNDS[metric]
        within = "" if bound is None else "yes" if found[metric] <= bound else "no"
        least = "" if bound is None else f"{bound:g} %"
        more = " | ".join(f"{values[metric]:.1f} %" for values in others.values())
        verdicts.append(f"| {title} | {found[metric]:.1f} % | {least} | {within} | {more} |")
    shared = " | ".join(f"{tokens} shared" for tokens in others)
    return "\n".join(
        [
            "# Traffic on H100: simulated against measured",
            "",
            "Generated by `python benchmarks/traffic_h100.py --write`: vLLM 0.15.1 on H100 under "
            "Poisson arrivals with prefix caching (inference-sim's published measurements), and "
            "the simulation of each row with the bundled profile. Nothing is fitted to these "
            f"rows. Assumed for all of them: {SYSTEM_TOKENS} tokens of each prompt are one of "
            f"{SYSTEM_PROMPTS} system prompts, lengths are all equal, a stage lasts "
            f"{STAGE_S:g} s.",
            "",
            "Median over the rows of the absolute error, and what it would be with another part "
            "of the prompt shared:",
            "",
            f"| metric | median error | bound | within | {shared} |",
            "| --- | ---: | ---: | --- |" + " ---: |" * len(others),
            *verdicts,
            "",
            "Each cell: measured / simulated, in ms. The last column is of the measurement alone: "
            "(E2E - TTFT) / ITL as a share of osl - 1. Below 1, answers had fewer tokens than osl, "
            "or the ITL is over other gaps than a token's; no simulation of osl tokens is then "
            "right on E2E and on ITL.",
            "",
            "| model | TP | workload | stage | requests/s | token budget | "
            + " | ".join([*titles, "accounted for"])
            + " |",
            "| --- | ---: | --- | --- | --- | ---: |" + " ---: |" * (len(BOUNDS) + 1),
            *map(table_row, rows),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--reference", type=Path, default=ROOT / ".." / "shared" / "reference")
    parser.add_argument("--write", action="store_true", help="keep page and figures")
    asked = parser.parse_args()
    measured = read(asked.reference / "traffic_h100.csv")
    rows = [compare(row, SYSTEM_TOKENS) for row in measured]
    others = {
        tokens: medians([compare(row, tokens) for row in measured]) for tokens in (0, 250, 500)
    }
    text = document(rows, others)
    print(text)
    line = {
        "benchmark": "traffic_h100",
        "median_error_pct": {m: round(x, 2) for m, x in medians(rows).items()},
        "bounds_pct": BOUNDS,
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
