"""One question, one answer: weights and cache from every command, page and function."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from click.testing import CliRunner

from shardwise.analysis.run import Question
from shardwise.architecture.bundled import stored_in
from shardwise.architecture.models import load
from shardwise.cli.main import cli
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout
from shardwise.layout.shards import rank_shards
from shardwise.perfmodel.memory import MemoryPlan, plan
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.reports.answering import memory_of_each_gpu
from shardwise.reports.numbers import number
from shardwise.simulator.compiling import HAS_NUMBA
from shardwise.simulator.fleet import REFERENCE_CONTEXT, make_group
from shardwise.units import GB, GIB
from shardwise.web.asking import cells_of, explorer, found_of
from shardwise.web.details import details
from shardwise.web.state import State
from shardwise.workload.workload import TRAFFIC_CV

#: (model, GPU, TP, weight dtype): dense, latent attention, experts in mxfp4, gated delta nets with
#: experts, Mamba-2 with experts, integers by group, a sparse indexer in nvfp4.
QUESTIONS = [
    ("llama-3.1-70b", "h200", 2, "fp8"),
    ("deepseek-r1", "b200", 8, "fp8"),
    ("gpt-oss-120b", "h200", 1, "mxfp4"),
    ("qwen3-next-80b-a3b", "h200", 2, "bf16"),
    ("nemotron-3-nano", "h100", 1, "fp8"),
    ("qwen3-32b", "h100", 1, "int4"),
    ("deepseek-v3.2", "b200", 8, "nvfp4"),
]
ISL, OSL, CONCURRENCY = 1000, 280, 64


def memory(model: str, gpu: str, tp: int, dtype: str) -> tuple[Deployment, MemoryPlan]:
    deployment = Deployment(
        model, gpu, Layout(tp), EngineLimits(max_num_seqs=CONCURRENCY), Dtypes(dtype)
    )
    context = 1280  # isl + osl, a multiple of 256
    return deployment, plan(load(model), default_catalogue().gpu(gpu), deployment, context)


def run(*words: str) -> str:
    found = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.mark.parametrize(("model", "gpu", "tp", "dtype"), QUESTIONS)
def test_plan_gives_the_memory_models_numbers(model: str, gpu: str, tp: int, dtype: str) -> None:
    _, expected = memory(model, gpu, tp, dtype)
    document: dict[str, Any] = json.loads(
        run(
            *("plan", model, "--gpu", gpu, "--gpus", str(tp), "--isl", str(ISL)),
            *("--osl", str(OSL), "--concurrency", str(CONCURRENCY), "--dtype", dtype, "--json"),
        )
    )
    one = next(
        c for c in document["ranked"]
        if c["evidence"]["deployment"]["layout"]["tp_size"] == tp
        and c["evidence"]["deployment"]["layout"]["ep_size"] == 1
    )  # fmt: skip
    assert one["memory"]["weight_bytes"] == pytest.approx(expected.weight_bytes)
    assert one["memory"]["kv_capacity_tokens"] == expected.kv_capacity_tokens


@pytest.mark.parametrize(("model", "gpu", "tp", "dtype"), QUESTIONS)
def test_predict_gives_the_same(model: str, gpu: str, tp: int, dtype: str, tmp_path: Path) -> None:
    deployment, expected = memory(model, gpu, tp, dtype)
    table = tmp_path / "rows.csv"
    table.write_text(
        "model_id,gpu_id,engine_id,weight_dtype,tp,mode,concurrency,isl,osl\n"
        f"{model},{gpu},vllm,{dtype},{tp},closed_loop,{CONCURRENCY},{ISL},{OSL}\n"
    )
    run("predict", str(table), "-o", str(tmp_path / "out.csv"))
    (row,) = csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8"))
    assert float(row["pred_weight_gib"]) == pytest.approx(expected.weight_bytes / GIB, rel=1e-5)
    # capacity is in sequences of the mean length in flight, to which long answers add more than
    # short ones take away: only windows make a difference
    in_flight = ISL + OSL * (1 + TRAFFIC_CV**2) / 2
    mean = plan(load(model), default_catalogue().gpu(gpu), deployment, in_flight)
    assert int(row["pred_kv_cache_tokens"]) == mean.kv_capacity_tokens


@pytest.mark.parametrize(("model", "gpu", "tp", "dtype"), QUESTIONS)
def test_simulate_and_study_give_the_same(model: str, gpu: str, tp: int, dtype: str) -> None:
    deployment, expected = memory(model, gpu, tp, dtype)
    group = make_group(deployment)
    held = plan(load(model), default_catalogue().gpu(gpu), deployment, REFERENCE_CONTEXT)
    assert group.kv_capacity_tokens == held.kv_capacity_tokens
    subject, catalogue = subject_of(Asked(model, gpu, weight_dtype=dtype))
    question = Question(tp, (tp,), (CONCURRENCY,), ISL, OSL)
    use = next(u for u in memory_of_each_gpu(subject, catalogue, question, tp) if u.gpu == gpu)
    assert use.parts["weights"] == pytest.approx(expected.weight_bytes)
    assert use.parts["kv_cache"] == pytest.approx(expected.kv_bytes_per_sequence)


@pytest.mark.parametrize(("model", "gpu", "tp", "dtype"), QUESTIONS[:2] + QUESTIONS[3:6])
def test_the_explorers_page_gives_the_same(model: str, gpu: str, tp: int, dtype: str) -> None:
    shown = details(explorer(), State(model, gpu, tp, dtype=dtype, isl=ISL, osl=OSL))["memory"]
    recommended = int(shown["title"].rpartition("TP=")[2])
    _, expected = memory(model, gpu, recommended, dtype)
    own = next(row for row in shown["rows"] if row["own"])
    held = dict(zip(shown["parts"], own["gb"], strict=True))
    assert held["weights"] == number(expected.weight_bytes / GB)
    assert held["kv_cache"] == number(expected.kv_bytes_per_sequence / GB)


@pytest.mark.parametrize(("model", "gpu", "tp", "dtype"), QUESTIONS)
def test_the_catalogue_gives_the_model_that_the_ranks_hold(
    model: str, gpu: str, tp: int, dtype: str
) -> None:
    del gpu, tp
    stored = stored_in(load(model), dtype)
    rank = rank_shards(stored, Layout())
    # one rank holds the model and the padding of its vocabulary
    assert rank.weight_bytes - rank.tower_bytes == pytest.approx(stored.weight_bytes, rel=1e-3)


#: (model, GPU, TP, replicas, rate in requests/s, isl, osl)
TRAFFIC = [
    ("llama-3.1-70b", "h200", 4, 1, 2.0, 1000, 500),
    ("llama-3.1-8b", "h100", 1, 1, 10.0, 500, 200),
]


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
@pytest.mark.parametrize("question", TRAFFIC)
@pytest.mark.parametrize("way", ["--concurrency", "--rate"])
def test_plan_and_simulate_agree_where_neither_is_told_how_lengths_spread(
    question: tuple[str, str, int, int, float, int, int], way: str
) -> None:
    model, gpu, tp, replicas, rate, isl, osl = question
    closed = way == "--concurrency"
    load = ("--concurrency", "32") if closed else ("--request-rate", str(rate))
    lengths = ("--isl", str(isl), "--osl", str(osl), "--dtype", "bf16")
    document = json.loads(
        run("plan", model, "--gpu", gpu, "--gpus", str(tp), *lengths, *load, "--json")
    )
    planned = next(
        c["evidence"]["metrics"] for c in document["ranked"]
        if c["evidence"]["deployment"]["layout"]["tp_size"] == tp
        and c["evidence"]["deployment"]["layout"]["ep_size"] == 1
    )  # fmt: skip
    offered = ("--concurrency", "32") if closed else ("--rate", str(rate))
    layout = ("--gpu", gpu, "--tp", str(tp), "--replicas", str(replicas))
    simulated = []
    for seed in range(3):  # one short run's mean TTFT depends on the lengths drawn
        drawn = ("--seed", str(seed), "--json")
        found = json.loads(run("simulate", model, *layout, *lengths, *offered, *drawn))
        simulated.append(found["evidence"][0]["metrics"])
    for metric, tolerance in (("tpot_s", 0.1), ("e2e_latency_s", 0.1), ("ttft_s", 0.2)):
        value = mean(metrics[metric]["value"] for metrics in simulated)
        assert value == pytest.approx(planned[metric]["value"], rel=tolerance), metric


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize(("model", "gpu", "tp", "dtype"), QUESTIONS)
@pytest.mark.parametrize("cv", ["1", "0"])
def test_plan_study_predict_explorer_and_report_agree_on_a_steady_load(
    model: str, gpu: str, tp: int, dtype: str, cv: str, tmp_path: Path
) -> None:
    load_ = ("--isl", str(ISL), "--osl", str(OSL), "--dtype", dtype, "--length-cv", cv)
    node = ("--gpu", gpu, "--gpus", str(tp))
    planned = json.loads(
        run("plan", model, *node, *load_, "--concurrency", str(CONCURRENCY), "--json")
    )
    candidate = next(
        c for c in planned["ranked"]
        if c["evidence"]["deployment"]["layout"] == {**LAYOUT, "tp_size": tp}
    )  # fmt: skip
    limits = candidate["evidence"]["deployment"]["limits"]
    fixed = ("--max-num-batched-tokens", str(limits["max_num_batched_tokens"]))
    batch = ("--tp", str(tp), "--batch", str(CONCURRENCY))
    folder = str(tmp_path / "study")
    written = run("study", model, *node, *load_, *batch, *fixed, "-o", folder, "--json")
    studied = json.loads(written)["study"]["evidence"][0]
    table = tmp_path / "rows.csv"
    table.write_text(
        "model_id,gpu_id,engine_id,weight_dtype,tp,mode,concurrency,isl,osl,length_cv,"
        "max_num_batched_tokens,gpu_memory_utilization\n"
        f"{model},{gpu},vllm,{dtype},{tp},closed_loop,{CONCURRENCY},{ISL},{OSL},{cv},"
        f"{limits['max_num_batched_tokens']},{limits['gpu_memory_utilization']}\n"
    )
    run("predict", str(table), "-o", str(tmp_path / "out.csv"))
    (row,) = csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8"))
    found = {"study": studied["metrics"]}
    found["predict"] = {
        metric: {"value": factor * float(row[column])} for metric, column, factor in COLUMNS
    }
    if cv == "1":  # the explorer asks about traffic
        state = State(
            model=model, gpu=gpu, gpus=tp, dtype=dtype, isl=ISL, osl=OSL, mode="closed_loop"
        )
        (cell,) = cells_of(found_of(explorer(), state), [(Layout(tp), CONCURRENCY)])
        found["explorer"] = {m: {"value": i.value} for m, i in cell.metrics.items()}
        run("report", folder, "-o", str(tmp_path / "report.html"))
        page = (tmp_path / "report.html").read_text("utf-8")
        assert f"{1e3 * studied['metrics']['tpot_s']['value']:.3g}" in page
    for metric, _, _ in COLUMNS:
        value = candidate["evidence"]["metrics"][metric]["value"]
        for place, metrics in found.items():
            assert metrics[metric]["value"] == pytest.approx(value, rel=0.01), (place, metric)


LAYOUT = {
    **{"tp_size": 1, "pp_size": 1, "ep_size": 1, "attention_dp": 1},
    **{"replicas": 1, "dcp_size": 1},
}
COLUMNS = (
    ("ttft_s", "pred_ttft_ms", 1e-3),
    ("tpot_s", "pred_tpot_ms", 1e-3),
    ("e2e_latency_s", "pred_e2e_s", 1.0),
    ("output_tok_s", "pred_output_tok_s", 1.0),
)


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
@pytest.mark.parametrize("question", TRAFFIC)
def test_a_plan_at_a_rate_holds_what_is_simulated_at_that_rate_in_its_interval(
    question: tuple[str, str, int, int, float, int, int],
) -> None:
    model, gpu, tp, replicas, rate, isl, osl = question
    lengths = ("--isl", str(isl), "--osl", str(osl), "--dtype", "bf16")
    asked = ("plan", model, "--gpu", gpu, "--gpus", str(tp), *lengths)
    document = json.loads(run(*asked, "--request-rate", str(rate), "--json"))
    planned = next(
        c["evidence"]["metrics"] for c in document["ranked"]
        if c["evidence"]["deployment"]["layout"]["tp_size"] == tp
        and c["evidence"]["deployment"]["layout"]["ep_size"] == 1
    )  # fmt: skip
    layout = ("--gpu", gpu, "--tp", str(tp), "--replicas", str(replicas))
    found = json.loads(run("simulate", model, *layout, *lengths, "--rate", str(rate), "--json"))
    for metric in ("ttft_s", "tpot_s", "e2e_latency_s"):
        value = found["evidence"][0]["metrics"][metric]["value"]
        assert planned[metric]["lo"] <= value <= planned[metric]["hi"], metric
