"""vLLM 0.20.2 on one H100, measured by `shardwise bench`: predictions that never saw it.

    python benchmarks/vllm_h100.py [--write]

`results/vllm_h100.json` has the measured times and says how they were measured; nothing bundled is
fitted to them. Each arrival run is simulated with its own arrival times, after all earlier runs of
the same server, whose prompts its prefix cache still held. Each closed loop is predicted. Then
`calibrate` corrects the predictions by the closed loops of the dense models, and the arrival runs
are simulated again. `--write` keeps docs/vllm-on-h100.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

import shardwise
from shardwise.evidence.record import Evidence
from shardwise.layout.deployment import Deployment, EngineLimits
from shardwise.perfmodel.profiles import Profile
from shardwise.reports.table import Column, Table, markdown, text_cell
from shardwise.simulator.fleet import make_group
from shardwise.simulator.simulate import simulate
from shardwise.simulator.trace import Shared, Trace, make_trace
from shardwise.workload.workload import Workload

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "results" / "vllm_h100.json"
DOCUMENT = ROOT / "docs" / "vllm-on-h100.md"
LIMITS = EngineLimits(max_num_seqs=256, max_num_batched_tokens=2048, max_model_len=4096)
#: Random weights do not route tokens to experts as trained ones do, so that the MoE model corrects
#: nothing.
MOE = "qwen3-30b-a3b"
#: What came before each run: a wave of other prompts, this many at a rate, and their tokens.
WARM_UP, WARM_TOKENS = 16, 8
PAUSE_S = 60.0  #: between two runs in the simulation; the server was idle between them
LOOP_TITLES = (
    *("model", "in flight", "isl", "decode step, ms", "TPOT, ms", "in its interval"),
    *("output tokens/s", "TTFT, ms"),
)
METRICS = ("E2E mean", "E2E p90", "E2E p99", "TTFT mean", "TTFT p90", "TTFT p99", "ITL mean")


Errors = Mapping[str, Sequence[float]]


class Cell(msgspec.Struct, frozen=True):
    """One load on one server; `requests` are (sent s, TTFT ms, E2E latency ms).

    TTFT is unknown for an answer without text. The first `shared_prefix` tokens of all prompts are
    the same.
    """

    requests_per_s: float | None
    in_flight: int | None
    isl: int
    osl: int
    median_itl_ms: float
    requests: list[tuple[float, float | None, float]]
    steady: dict[str, float] = msgspec.field(default_factory=dict)
    shared_prefix: int = 0

    def prompts(self, new: bool) -> str:
        """What the prompts have in common with each other or with those of earlier loads."""
        if self.shared_prefix:
            return f"{self.shared_prefix} of {self.isl} tokens shared"
        return "new" if new else "repeated"

    @property
    def times(self) -> np.ndarray:
        """Sent times in s, TTFT and E2E latency in ms: (requests, 3)."""
        return np.array(self.requests, dtype=float)


class Server(msgspec.Struct, frozen=True):
    """One vLLM server, and its loads in the order in which they ran.

    `new_prompts`: no load repeats the prompts of another one.
    """

    model: str
    kv_tokens: int
    cells: list[Cell]
    date: str = "2026-11-26"
    new_prompts: bool = False

    @property
    def is_dense(self) -> bool:
        return self.model != MOE


class Lane(msgspec.Struct):
    """Requests of a server's life, to be simulated."""

    sent_s: list[float] = msgspec.field(default_factory=list)
    isl: list[int] = msgspec.field(default_factory=list)
    osl: list[int] = msgspec.field(default_factory=list)
    parts: list[list[int]] = msgspec.field(default_factory=list)
    cell: list[int] = msgspec.field(default_factory=list)
    known: dict[tuple[object, int], int] = msgspec.field(default_factory=dict)

    def add(
        self, sent_s: float, lengths: tuple[int, int], prompt: object, cell: int, prefix: int = 0
    ) -> None:
        """Add a request; those with the same `prompt` and isl share all of it, and those with a
        prefix of the same length share that."""
        isl, osl = lengths
        self.sent_s.append(sent_s)
        self.isl.append(isl)
        self.osl.append(osl)
        parts: list[tuple[object, int]] = [("prefix", prefix)] if prefix else []
        parts.append((prompt, isl))
        self.parts.append([self.known.setdefault(part, len(self.known)) for part in parts])
        self.cell.append(cell)

    def trace(self) -> tuple[Trace, np.ndarray]:
        """The requests in order, and the cell of each."""
        order = np.argsort(self.sent_s, kind="stable")
        parts = [self.parts[i] for i in order]
        starts = np.cumsum([0, *map(len, parts)])
        ends = np.array([tokens for _, tokens in self.known])
        shared = Shared(starts, np.concatenate(parts), ends)
        sent_s, isl, osl = (np.array(x)[order] for x in (self.sent_s, self.isl, self.osl))
        return make_trace(sent_s, isl, osl, shared), np.array(self.cell)[order]


def deployment(model: str) -> Deployment:
    """The server of a model."""
    return Deployment(model, "h100", limits=LIMITS, engine_version="0.20.2")


def life(server: Server) -> Lane:
    """All requests of a server, warm-ups too. Times of closed loops are those measured."""
    lane, now = Lane(), 0.0
    for number, cell in enumerate(server.cells):
        for i in range(cell.in_flight or WARM_UP):
            prompt = f"warm-up {number if server.new_prompts else ''} {i}"
            lane.add(now, (cell.isl, WARM_TOKENS), prompt, -1, cell.shared_prefix)
        now += PAUSE_S
        for i, sent_s in enumerate(cell.times[:, 0]):
            prompt = f"{number if server.new_prompts else ''} {i}"
            lengths = cell.isl, cell.osl
            lane.add(now + float(sent_s), lengths, prompt, number, cell.shared_prefix)
        now += float(np.max(cell.times[:, 0] + cell.times[:, 2] / 1e3)) + PAUSE_S
    return lane


def values(ttft_ms: np.ndarray, e2e_ms: np.ndarray, osl: int) -> dict[str, float]:
    """`METRICS` of a run, in ms."""
    found = {"ITL mean": float(np.nanmean((e2e_ms - ttft_ms) / (osl - 1)))}
    for name, times in (("E2E", e2e_ms), ("TTFT", ttft_ms)):
        found[f"{name} mean"] = float(np.nanmean(times))
        for at in (90, 99):
            found[f"{name} p{at}"] = float(np.nanpercentile(times, at))
    return found


def arrivals(server: Server, profile: Profile | None) -> Iterator[tuple[Cell, dict[str, float]]]:
    """Each arrival run with its simulated values."""
    trace, number = life(server).trace()
    group = replace(
        make_group(deployment(server.model), profile), kv_capacity_tokens=server.kv_tokens
    )
    result = simulate([group], trace)
    ttft, e2e = (1e3 * result.latency(name) for name in ("ttft_s", "e2e_latency_s"))
    for at, cell in enumerate(server.cells):
        if cell.requests_per_s is not None:
            yield cell, values(ttft[number == at], e2e[number == at], cell.osl)


def predicted(server: Server, cell: Cell) -> Evidence:
    """The prediction of a closed loop."""
    assert cell.in_flight is not None
    load = Workload(
        cell.isl, cell.osl, cell.in_flight, length_spread=0.0, requests=len(cell.requests)
    )
    return shardwise.predict(deployment(server.model), load).evidence[0]


def decode_step_s(server: Server, cell: Cell) -> float:
    """A decode step of a closed loop, predicted at the mean context. The median ITL is such a step,
    since most steps have no prompt."""
    table, seqs = make_group(deployment(server.model)).table, cell.in_flight or 1
    context, reads = cell.isl + cell.osl / 2.0, table.reads
    by_rows = [np.interp(context, reads.columns, row) for row in reads.seconds]
    return float(table.decode[seqs] + np.interp(seqs, reads.rows, by_rows))


def corrected(servers: Sequence[Server]) -> Profile:
    """The profile that `calibrate` makes of the closed loops of dense models.

    TTFT and E2E latency are given for single streams alone: in runs of three or four waves, those
    of many streams are still those of the first burst.
    """
    rows = []
    for server in servers:
        for cell in server.cells if server.is_dense else ():
            if cell.in_flight is None or is_limited(server, cell):
                continue
            row = {
                "source_id": "vllm_h100", "model_id": server.model, "gpu_id": "h100",
                "engine_id": "vllm", "engine_version": "0.20.2", "weight_dtype": "bf16",
                "kv_dtype": "bf16", "tp": 1, "mode": "closed_loop", "concurrency": cell.in_flight,
                "isl": cell.isl, "osl": cell.osl, "requests": len(cell.requests), "length_cv": 0,
                "max_num_seqs": LIMITS.max_num_seqs, "max_model_len": LIMITS.max_model_len,
                "max_num_batched_tokens": LIMITS.max_num_batched_tokens,
                "tpot_ms": cell.steady["tpot_ms"], "ttft_ms": "", "e2e_s": "",
                "measured_on": server.date, "use": "calibrate",
            }  # fmt: skip
            if cell.in_flight == 1:
                row["ttft_ms"] = cell.steady["ttft_ms"]
                row["e2e_s"] = cell.steady["e2e_latency_ms"] / 1e3
            rows.append(row)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        # asked for even if held-out loops do not support a correction, as the page says
        return shardwise.calibrate(path, name="vllm-h100", save=False, force=True).profile


def is_limited(server: Server, cell: Cell) -> bool:
    """Whether the KV cache did not hold all requests of a closed loop."""
    return (cell.in_flight or 0) * (cell.isl + cell.osl) > server.kv_tokens


def pair(measured: float, ours: float, form: str = ".1f") -> str:
    """Measured and predicted value, and the error."""
    return f"{measured:{form}} / {ours:{form}} ({100.0 * (ours / measured - 1.0):+.0f} %)"


def arrival_rows(
    servers: Sequence[Server], profile: Profile | None
) -> tuple[list[tuple[str, ...]], Errors]:
    """Table rows of the arrival runs, and the absolute errors of the dense models' in percent."""
    rows, errors = [], {name: list[float]() for name in METRICS}
    for server in servers:
        for cell, ours in arrivals(server, profile):
            theirs = values(cell.times[:, 1], cell.times[:, 2], cell.osl)
            cells = [pair(theirs[name], ours[name]) for name in METRICS]
            prompts = cell.prompts(server.new_prompts)
            rows.append((server.model, f"{cell.requests_per_s:g}", prompts, *cells))
            if server.is_dense:
                for name in METRICS:
                    errors[name].append(100.0 * abs(ours[name] / theirs[name] - 1.0))
    return rows, errors


def loop_rows(servers: Sequence[Server]) -> list[tuple[str, ...]]:
    """Table rows of the closed loops."""
    rows: list[tuple[str, ...]] = []
    for server in servers:
        for cell in server.cells:
            if cell.in_flight is None or is_limited(server, cell):
                continue
            found, steady = predicted(server, cell).metrics, cell.steady
            tpot = found["tpot_s"]
            held = tpot.lo <= steady["tpot_ms"] / 1e3 <= tpot.hi
            first = pair(steady["ttft_ms"], 1e3 * found["ttft_s"].value)
            cells = (
                server.model,
                str(cell.in_flight),
                str(cell.isl),
                pair(cell.median_itl_ms, 1e3 * decode_step_s(server, cell), ".2f"),
                pair(steady["tpot_ms"], 1e3 * tpot.value, ".2f"),
                "yes" if held else "no",
                pair(steady["output_tok_s"], found["output_tok_s"].value, ",.0f"),
                first if cell.in_flight == 1 else "",
            )
            rows.append(cells)
    return rows


def table(name: str, title: str, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of finished cells; models and metrics are on the left."""
    columns = tuple(Column(t, t, align="right" if k else "left") for k, t in enumerate(titles))
    return markdown(Table(name, title, columns, (tuple(tuple(map(text_cell, r)) for r in rows),)))


def document(data: Mapping[str, Any], servers: Sequence[Server]) -> tuple[str, dict[str, Any]]:
    """The page, and the medians that it states."""
    first = [server for server in servers if not server.new_prompts]
    later = [server for server in servers if server.new_prompts]
    first_rows, blind = arrival_rows(first, None)
    later_rows, unseen = arrival_rows(later, None)
    fitted_rows, fitted = arrival_rows(first, corrected(first))
    medians = {
        name: {
            "unseen": round(statistics.median(unseen[name]), 1),
            "blind": round(statistics.median(blind[name]), 1),
            "corrected": round(statistics.median(fitted[name]), 1),
        }
        for name in METRICS
    }
    hardware, software = data["hardware"], data["software"]
    summary = [
        (name, *(f"{found[which]} %" for which in ("unseen", "blind", "corrected")))
        for name, found in medians.items()
    ]
    runs = ("model", "requests/s", "prompts", *METRICS)
    bundled, own = "bundled profile", "corrected by nine closed loops of dense models, with --force"
    dates = " and ".join(sorted({server.date for server in servers}))
    parts = [
        (ROOT / "docs" / "vllm-on-h100.head.md").read_text("utf-8"),
        f"{hardware['gpu']}; driver {hardware['driver']}; {hardware['cpu']}; vLLM "
        f"{software['vllm']}, torch {software['torch']}, Python {software['python']}; {dates}.",
        "## Arriving requests",
        table(
            "medians",
            f"Median absolute error over the runs of dense models: {count(later)} of 27 November, "
            f"{count(first)} of 26 November",
            (
                "metric",
                "27 November: never fitted",
                "26 November: never fitted",
                "26 November: corrected by closed loops, with --force",
            ),
            summary,
        ),
        table("unseen", f"27 November, measured / simulated in ms: {bundled}", runs, later_rows),
        table("blind", f"26 November, measured / simulated in ms: {bundled}", runs, first_rows),
        table("corrected", f"26 November, measured / simulated in ms: {own}", runs, fitted_rows),
        "## Closed loops",
        table("loops", f"Measured / predicted: {bundled}", LOOP_TITLES, loop_rows(servers)),
        (ROOT / "docs" / "vllm-on-h100.tail.md").read_text("utf-8"),
    ]
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    return text, medians


def count(servers: Sequence[Server]) -> int:
    """Arrival runs of dense models."""
    return sum(c.requests_per_s is not None for s in servers if s.is_dense for c in s.cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true", help="write the page")
    asked = parser.parse_args()
    data = json.loads(MEASURED.read_text("utf-8"))
    servers = msgspec.convert(data["models"], list[Server])
    text, medians = document(data, servers)
    if asked.write:
        DOCUMENT.write_text(text, "utf-8")
    else:
        print(text)
    print(json.dumps({"benchmark": "vllm_h100", "median_error_pct": medians}))


if __name__ == "__main__":
    main()
