"""`shardwise plan` as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from shardwise.cli.plan import plan
from shardwise.errors import InputError
from shardwise.simulator.compiling import HAS_NUMBA

ROOT = Path(__file__).parents[2]
BASE = ["llama-3.1-70b", "--gpu", "mi300x", "--gpus", "8", "--isl", "1024", "--osl", "256"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )


def test_json_is_one_document_and_nothing_else() -> None:
    done = run("plan", *BASE, "--concurrency", "64", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ranked"][0]["evidence"]["source"]["kind"] == "predicted"
    assert document["commands"][0]["argv"][:2] == ["vllm", "serve"]


def test_an_slo_that_nothing_meets_exits_3_with_one_line() -> None:
    done = run("plan", *BASE, "--ttft", "1ms")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert "misses TTFT" in done.stderr


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--concurrency", "0"], "concurrency is 0"),
        (["--concurrency", "4", "--request-rate", "1"], "allowed: one of them"),
        (["--tpot", "-5"], "--tpot"),
        (["--dtype", "fp7"], "weight dtype"),
        (["--engine", "foo"], "engine"),
        (["--objective", "joy"], "objective"),
        (["-o", "/proc/none/plan.json"], "/proc/none"),
    ],
)
def test_bad_input_is_one_clear_error(extra: list[str], says: str) -> None:
    result = CliRunner().invoke(plan, [*BASE, *extra])
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)


def test_output_starts_with_the_recommendation_and_ends_with_the_command() -> None:
    result = CliRunner().invoke(plan, [*BASE, "--concurrency", "64"], catch_exceptions=False)
    lines = result.stdout.strip().splitlines()
    assert lines[0].startswith("Deploy llama-3.1-70b as ")
    assert "80 % interval" in lines[0]
    assert "vllm serve RedHatAI/Meta-Llama-3.1-70B-Instruct-FP8" in lines[-1]


def test_output_file_holds_the_document(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    CliRunner().invoke(plan, [*BASE, "-o", str(file)], catch_exceptions=False)
    assert json.loads(file.read_text())["gpus"] == 8


def test_commands_of_the_howto_run() -> None:
    text = (ROOT / "docs/howto/plan.md").read_text()
    commands = re.findall(r"^shardwise plan ([^\\\n]*(?:\\\n[^\\\n]*)*)$", text, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        arguments = command.replace("\\\n", " ").split()
        result = CliRunner().invoke(plan, arguments, catch_exceptions=False)
        assert result.exit_code == 0


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
def test_bounds_on_percentiles_are_searched_by_simulation(tmp_path: Path) -> None:
    saved = tmp_path / "deployment.toml"
    done = plan_p99("--request-rate", "4", "--json", "--save", str(saved))
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout)["finalists"][0]
    assert best["evidence"]["source"]["kind"] == "simulated"
    assert best["evidence"]["metrics"]["tpot_p99_s"]["value"] <= 0.03
    assert best["request_rate_held"]["value"] >= 4
    assert f"replicas = {best['evidence']['deployment']['layout']['replicas']}" in saved.read_text(
        "utf-8"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "percentile bounds without a rate; add --request-rate"),
        (("--request-rate", "4", "--objective", "latency"), "allowed: cost"),
        (("--request-rate", "4", "--model", "qwen3-8b"), "allowed: one model"),
        (("--request-rate", "4", "--ttft-p99", "soon"), "--ttft-p99 is 'soon'"),
    ],
)
def test_a_search_by_simulation_refuses_what_it_cannot_do(
    words: tuple[str, ...], message: str
) -> None:
    done = plan_p99(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def plan_p99(*words: str) -> subprocess.CompletedProcess[str]:
    asked = ("llama-3.1-8b", "--gpu", "h200", "--gpus", "2", "--isl", "500", "--osl", "50")
    return subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", "plan", *asked, "--tpot-p99", "30ms", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_price_of_ones_own_is_used_and_named() -> None:
    cheap, dear = (
        json.loads(run("plan", *BASE, "--concurrency", "64", "--price", usd, "--json").stdout)
        for usd in ("1.5", "3")
    )
    name = "usd_per_million_output_tok"
    assert dear["ranked"][0][name]["value"] == pytest.approx(2 * cheap["ranked"][0][name]["value"])
    assert cheap["price_note"] == "price: 1.5 USD per GPU-hour (given by the user)"


def test_the_catalogues_price_is_named_with_its_source_and_date() -> None:
    shown = " ".join(run("plan", *BASE, "--concurrency", "64").stdout.split())
    assert re.search(r"price: [\d.]+ USD per GPU-hour \(.+, \d{4}(-\d\d)*\)", shown)


def test_a_price_for_several_kinds_of_gpu_is_refused() -> None:
    done = run("plan", *BASE, "--gpu", "h200", "--request-rate", "1", "--ttft-p99", "9s",
               "--price", "2")  # fmt: skip
    assert done.returncode == 2
    assert "--price with 2 kinds of GPU" in done.stderr


def test_the_kv_tokens_of_a_start_up_log_are_those_of_the_plan(tmp_path: Path) -> None:
    """The candidate with the log's layout and flags holds as many tokens as the log says."""
    log = tmp_path / "vllm.log"
    log.write_text(
        "$ vllm serve some/llama --tensor-parallel-size 4 --max-num-seqs 16 "
        "--max-num-batched-tokens 8192 --gpu-memory-utilization 0.9\n"
        "INFO [gpu_model_runner.py:1] Model loading took 32.90 GiB memory and 4.5 seconds\n"
        "INFO [kv_cache_utils.py:3] GPU KV cache size: 400,000 tokens\n"
    )
    asked = ("llama-3.1-70b", "--gpu", "h100", "--isl", "2000", "--osl", "500", "--dtype", "bf16")
    limits = ("--max-num-seqs", "16", "--max-num-batched-tokens", "8192", "--concurrency", "32")
    done = run("plan", *asked, *limits, "--startup-log", str(log), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    tokens = {c["name"]: c["memory"]["kv_capacity_tokens"] for c in found["ranked"]}
    assert tokens["2 x TP4 in bf16"] == pytest.approx(400_000, rel=1e-5)
    told = "KV cache from a start-up log: 30.52 GiB per GPU at TP=4"
    assert found["memory_note"].startswith(told)


def test_a_start_up_log_is_of_one_kind_of_gpu_and_states_a_cache(tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    log.write_text("")
    asked = (*BASE, "--concurrency", "64", "--startup-log", str(log))
    for more, says in (
        ((), "the start-up log does not state the KV cache"),
        (("--gpu", "h200"), "--startup-log with 2 kinds of GPU"),
    ):
        done = run("plan", *asked, *more)
        assert done.returncode == 2, done.stdout
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_reader_that_closes_the_output_early_does_not_cost_the_saved_files(
    tmp_path: Path,
) -> None:
    saved, document = tmp_path / "deployment.toml", tmp_path / "plan.json"
    command = ["plan", *BASE, "--concurrency", "64", "--save", str(saved), "-o", str(document)]
    with subprocess.Popen(
        [sys.executable, "-m", "shardwise.cli.main", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()  # as `head` does once it has its lines
        told = process.stderr.read().decode()
    assert "Traceback" not in told
    assert "replicas" in saved.read_text()
    assert json.loads(document.read_text())["kind"] == "plan"
