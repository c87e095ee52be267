"""Every table that a command prints, made from real answers, fits 80, 100 and 120 columns."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from msgspec.structs import replace
from tests.node.samples import FAILED, PASTE
from tests.planner.conftest import make_question

import shardwise
from shardwise.analysis.comparison import compare_runs
from shardwise.analysis.layout_steps import layout_grid
from shardwise.analysis.measured_comparison import beside
from shardwise.analysis.run import Question
from shardwise.analysis.slo_search import Finalist, SloSearch
from shardwise.api import simulation
from shardwise.architecture.models import bundled, load
from shardwise.cli import bench_selftest
from shardwise.doctor.diagnosis import diagnose
from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.experiment.claims import Claim
from shardwise.experiment.correct import Compared, Corrected, Score
from shardwise.experiment.design import Cell as ExperimentCell
from shardwise.experiment.outcome import Outcome
from shardwise.experiment.split import Split
from shardwise.experiment.timeline import Spent
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hosting.operating import Seen
from shardwise.hosting.state import ReplicaState, State
from shardwise.layout.deployment import Deployment, Dtypes, Layout, layout_of
from shardwise.layout.speculation import Speculation
from shardwise.node.reading.read import read
from shardwise.perfmodel.memory import largest_models
from shardwise.perfmodel.predicting import NEW_COLUMNS
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.perfmodel.validation import Choice
from shardwise.perfmodel.validation import Score as ValidationScore
from shardwise.planner.kinds import plan_kinds
from shardwise.planner.plan import explore, plan
from shardwise.planner.question import Demand
from shardwise.planner.speculating import drafted
from shardwise.reports import (
    about,
    accuracy_tables,
    catalogue_tables,
    comparison_tables,
    day_tables,
    doctor_tables,
    experiment_tables,
    explain_tables,
    measured_tables,
    node_tables,
    plan_tables,
    profile_tables,
    search_tables,
    slo_search_tables,
    speculation_tables,
    status_tables,
    study_output,
)
from shardwise.reports import tables as tables_of_study
from shardwise.reports.answering import Wanted, answer
from shardwise.reports.kind_tables import kinds_table
from shardwise.reports.layout_tables import layout_tables
from shardwise.reports.runs import Run
from shardwise.reports.table import Table
from shardwise.reports.table_text import render
from shardwise.simulator.day import Day, Hour, Plan
from shardwise.simulator.summary import Summary
from shardwise.workload.workload import Slo, Workload

WIDTHS: Final = (80, 100, 120)
PACKAGE: Final = Path(shardwise.__file__).parent
LONG_MODEL: Final = "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B-Instruct"


@cache
def study() -> study_output.StudyOutput:
    subject, catalogue = subject_of(Asked("llama-3.1-70b", "mi300x", weight_dtype="fp8"))
    question = Question(8, (1, 2, 4, 8), (1, 16, 128), 2048, 2048, requests=256)
    return answer(subject, catalogue, Wanted(question, Slo(tpot_s=0.05)))


def measured(scale: float = 1.1) -> tuple[Evidence, ...]:
    """The study's cells as if measured, all values `scale` times the predicted ones."""
    return tuple(
        replace(
            item,
            metrics={
                name: Interval(v.value * scale, v.value * scale * 0.97, v.value * scale * 1.04, 200)
                for name, v in item.metrics.items()
            },
            source=Source("measured", "test", "2026-11-25"),
        )
        for item in study().study.evidence
    )


def plans() -> list[Table]:
    bounds = Slo(ttft_s=0.3, tpot_s=0.03)
    asked = [
        make_question(gpu="h100", demand=Demand(1000, 200, 64), slo=bounds, usd_per_gpu_hour=1.3),
        make_question("gpt-oss-120b", "h200", demand=Demand(8000, 1000, 8)),
        make_question("deepseek-r1", "b200", demand=Demand(4000, 1000, request_rate=2.0)),
    ]
    return [plan_tables.plan_table(explore(question)) for question in asked]


def kinds() -> list[Table]:
    demand = Demand(1024, 256, 64)
    asked = [
        make_question("gpt-oss-120b", gpu, 8, demand, usd_per_gpu_hour=2.0, price_note="a test's")
        for gpu in ("h100", "mi300x", "b200")
    ]
    by_gpu = {q.node.gpu.id: q for q in asked}
    return [kinds_table(plan_kinds(list(by_gpu), lambda gpu: plan(by_gpu[gpu])))]


def speculation() -> list[Table]:
    asked = Speculation.parse("mtp:2", 0.7)
    question = make_question("qwen3.5-27b", "h200", 1, Demand(1000, 1000, 8), speculation=asked)
    found = drafted(plan(question))
    assert found is not None
    return [speculation_tables.speculation_table(found)]


def layouts() -> list[Table]:
    subject, _ = subject_of(Asked("deepseek-r1", "h200"))
    asked = [layout_of(name) for name in ("TP8", "TP8xEP8", "TP2xDP4xEP8", "DP8xEP8", "TP4xPP2")]
    return layout_tables(layout_grid(subject, Question(8, (), (8, 512), 4000, 1000), asked))


def holding() -> list[Table]:
    question = make_question(gpu="h100", demand=Demand(1000, 200, request_rate=30.0))
    latencies = ("ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "tpot_p99_s")
    values = (*latencies, "usd_per_million_good_tok")
    evidence = Evidence(
        Deployment("llama-3.1-70b", "rtx-6000-ada", Layout(4, replicas=16), dtypes=Dtypes("nvfp4")),
        Workload(1000, 200, 64),
        {name: Interval(0.0123, 0.0100, 0.0157, 1000) for name in values},
        Source("simulated", "seed 0"),
    )
    finalists = tuple(
        Finalist(question, evidence, 123.4, Interval(31.4, 29.9, 33.0), certain)
        for certain in (True, False)
    )
    return [slo_search_tables.slo_search_table(SloSearch((), finalists, ()))]


def catalogue() -> list[Table]:
    known = default_catalogue()
    models = [load(name) for name in bundled()]
    found = [
        catalogue_tables.gpu_table(known),
        catalogue_tables.model_table(models),
        catalogue_tables.fit_table(largest_models(known.gpus(), models)),
    ]
    for gpu in known.gpus():
        found.append(catalogue_tables.fact_table(gpu, known.facts(gpu.id)))
        found.append(catalogue_tables.price_table(gpu, known.prices(gpu.id)))
    return found


def doctor() -> list[Table]:
    engines = ("vllm", "sglang")
    node = read(PASTE).node
    assert node is not None
    return [
        doctor_tables.device_table(node),
        doctor_tables.link_table(node),
        doctor_tables.verdict_table(diagnose(read(PASTE), engines), engines),
        doctor_tables.startup_table(read(FAILED).startups),
    ]


def experiment() -> Outcome:
    made = study().study.evidence[:4]
    compared = tuple(
        Compared(
            str(i), ExperimentCell(Split(2, 4, 2), item.workload), real, True, i % 2 == 0, "now",
            item, item, (1.0, 1.2),
        )
        for i, (item, real) in enumerate(zip(made, measured(), strict=False))
    )  # fmt: skip
    claim = Claim(
        "TP gains more throughput than it costs latency", "TP1 x 2 → TP2", 128,
        Interval(0.11, 0.06, 0.67), "points", "not judged", 0.2,
    )  # fmt: skip
    scores = (Score("tpot_s", 12, 1234.5, 5.4, 3, 9, 0.8),)
    return Outcome(
        LONG_MODEL, "vllm", "bf16", 2048, 256, "2 x Intel(R) Xeon(R) CPU, 2 ranks", "this-machine",
        Corrected(compared, scores, (), None), (claim,), (), Spent(60.0, {"measuring": 50.0}),
    )  # fmt: skip


def comparisons() -> list[Table]:
    found = compare_runs(measured(), measured(1.3))
    a, b = Run("before", measured(), {"vllm": "0.9.1"}), Run("after", measured(1.3), {})
    return [comparison_tables.overall_table(found, a, b), *comparison_tables.cell_tables(found)]


def accuracy() -> list[Table]:
    group = "llama-3.1-405b on mi300x with sglang"
    return [
        accuracy_tables.score_table(
            [ValidationScore(group, "output_tok_s", 1234, 12.3, -4.5, 81.0)], "GPU and engine"
        ),
        accuracy_tables.choice_table([Choice("output throughput per GPU", 123, 100, 1.2)]),
        accuracy_tables.calibration_table({"ttft_s": 1234.5}, {"ttft_s": 12.3}),
        accuracy_tables.held_out_table(bundled_profile().errors),
    ]


def predictions() -> list[Table]:
    header = ["model_id", "gpu_id", "tp", "concurrency", *NEW_COLUMNS]
    row = dict.fromkeys(header, "123.456") | {"model_id": LONG_MODEL, "gpu_id": "h200", "tp": "8"}
    return [tables_of_study.evidence_table(measured()), tables_of_study.rows_table(header, [row])]


def search() -> list[Table]:
    d, seen = Deployment("m", "h100", Layout(4, replicas=2)), Interval(12.345, 11.2, 14.0, 5)
    summary = Summary(d, "prefix_affinity", 12.5, 16, 3, "", seen, seen, seen, seen, seen)
    broken = replace(summary, error="llama-3.1-70b in bf16 at TP1 does not fit NVIDIA H100 SXM")
    return [search_tables.search_table([summary, broken])]


def simulated() -> list[Table]:
    from shardwise.metrics import percentile_name
    from shardwise.simulator.results import LATENCIES, PERCENTILES

    values = {
        name: Interval(123.4, 100.1, 160.2, 1000)
        for name in (
            *(*LATENCIES, "output_tok_s", "goodput"),
            *(percentile_name(name, at) for name in LATENCIES for at in PERCENTILES),
        )
    }
    item = replace(study().study.evidence[0], metrics=values)
    day = Day(
        (Hour(123.4, 12, 12.34, 0.99, 0.98),),
        (Plan("always the peak", 240.0, 1234, 1_000_000),),
        180.0,
    )
    answered = {"evidence": [item], "failures": 0, "price_note": "price"}
    document = {"deployment": item.deployment, "day": day, "usd": [1234.5], "price_note": "price"}
    return [*simulation.tables(answered), *day_tables.day_tables(document)]


def status() -> list[Table]:
    replica = ReplicaState(
        "llama-3.1-70b/0", "m", "http://127.0.0.1:8000", list(range(8)), "", "gave up", None, 3,
        "exit 1: CUDA out of memory. Tried to allocate 20.00 GiB",
    )  # fmt: skip
    seen, now = [Seen(replica, "gave up", 2**36, 128)], State("d", "d.toml", "http://127.0.0.1:80")
    looks = {replica.replica: deque([1.0, 2.0] * 15)}
    return [status_tables.status_table(now, seen), status_tables.status_table(now, seen, looks)]


def profiles() -> list[Table]:
    product = SimpleNamespace(
        name="gate_up_proj", rows=2048, inputs=8192, outputs=57344, calls=80, seconds=1.234,
        flops_per_s=1.23e15, bytes_per_s=3.2e12,
    )  # fmt: skip
    message = SimpleNamespace(bytes=123_456_789, calls=160, seconds=0.0123)
    rank = SimpleNamespace(
        tp_rank=0, seconds=dict.fromkeys(profile_tables.PARTS, 1.23456), products=[product],
        messages=[message],
    )  # fmt: skip
    limit = SimpleNamespace(matrix_flops=1e15, copy_bytes_per_s=3.3e12)
    found: Any = SimpleNamespace(
        tp_size=8, batch=128, dtype="bf16", device="cuda", emulated=False, peak_rates=[limit],
        prefill=[rank], decode=[rank],
    )  # fmt: skip
    return profile_tables.profile_tables(found)


def explained() -> list[Table]:
    ranks = range(8)
    cut = SimpleNamespace(
        name="self_attn.kv_a_proj_with_mqa.weight", shape=(28672, 16384), how="rows, replicated",
        ranges=[(3584 * r, 3584 * (r + 1)) for r in ranks],
    )  # fmt: skip
    values = [-1234.56789] * 4
    part = SimpleNamespace(
        part="attention", shape=(2048, 16384), partials=[values for _ in ranks], total=values,
        unsharded=values, relative_error=1.2e-6,
    )  # fmt: skip
    found: Any = SimpleNamespace(
        tp_size=8, heads_per_rank=16, kv_heads=[(r, r + 1) for r in ranks], cuts=[cut], sums=[part]
    )
    return [explain_tables.weights_table(found), explain_tables.sums_table(found)]


def selftest() -> list[Table]:
    readings = [
        SimpleNamespace(metric=name, error=-0.1234, within=False, measured_s=12.345)
        for name in ("ttft_s", "itl_s", "e2e_latency_s")
    ]
    found: Any = SimpleNamespace(
        concurrency=512, readings=readings, cpu_s_per_1000_tokens=0.1234, completed=5000,
        requests=5120, client=SimpleNamespace(lag_p99_s=0.0123), within=False,
    )  # fmt: skip
    return [bench_selftest.selftest_table([found])]


def studies() -> list[Table]:
    costs = study().study.costs
    about_it = study().about
    assert about_it is not None
    return [
        *study_output.study_tables(study()),
        node_tables.redundancy_table(costs),
        node_tables.beside_table(beside(study().study.evidence, measured())),
        about.hardware_table(about_it.facts, "mi300x"),
        about.known_errors_table(about_it, "mi300x", "vllm"),
    ]


def measurements() -> list[Table]:
    conditions = {"failures": {"http_5xx": 12}, "interrupted": True}
    return [
        measured_tables.measured_table([Measured("s", str(i), item, conditions)])
        for i, item in enumerate(measured()[:2])
    ]


MAKERS_OF_TABLES: Final = ("Table", "ranked_table")
MAKERS: Final[dict[str, Callable[[], list[Table]]]] = {
    "plan": plans,
    "plan of several kinds": kinds,
    "plan with percentiles": holding,
    "plan --speculation": speculation,
    "catalogue": catalogue,
    "doctor": doctor,
    "study": studies,
    "study --layouts": layouts,
    "study --measure": lambda: experiment_tables.experiment_tables(experiment()),
    "compare": comparisons,
    "validate": accuracy,
    "search": search,
    "predict": predictions,
    "simulate": simulated,
    "status": status,
    "explain": explained,
    "profile": profiles,
    "bench selftest": selftest,
    "bench show": measurements,
}


@cache
def tables(command: str) -> tuple[Table, ...]:
    return tuple(MAKERS[command]())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", MAKERS)
def test_no_table_is_wider_than_the_terminal_and_no_number_is_cut(command: str, width: int) -> None:
    for table in tables(command):
        lines = render(table, width).splitlines()
        widest = max(lines, key=len)
        assert len(widest) <= width, f"{table.name}: {widest}"
        body = "\n".join(lines)
        always = [i for i, c in enumerate(table.columns) if not c.optional and c.align == "right"]
        for row in table.rows:
            assert all(row[i].text in body for i in always), f"{table.name}: {row}"


@pytest.mark.parametrize("command", MAKERS)
def test_the_full_table_has_every_column_and_bound_in_a_line_for_each_row(command: str) -> None:
    for table in tables(command):
        lines = render(table).splitlines()
        for row in table.rows:
            whole = [f"{cell.text} {cell.detail}".strip() for cell in row]
            found = any(all(text in line for text in whole) for line in lines)
            assert found, f"{table.name}: {row}"


def test_every_function_that_makes_a_table_is_tried_here() -> None:
    made = {table.name for command in MAKERS for table in tables(command)}
    sources = [
        path for folder in ("reports", "cli", "api") for path in (PACKAGE / folder).glob("*.py")
    ]
    named = set()
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in MAKERS_OF_TABLES:
                first = next((k.value for k in node.keywords if k.arg == "name"), None)
                name = first or node.args[0]
                if isinstance(name, ast.Constant):
                    named.add(str(name.value))
    assert len(named) > 25
    assert named <= made, f"not rendered in this test: {sorted(named - made)}"
