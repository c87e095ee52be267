"""`shardwise simulate` as it is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.running import in_process

LENGTHS = ("--isl", "200", "--osl", "20")
SMALL = ("--gpu", "h200", *LENGTHS, "--duration", "10s")


def simulate(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", "simulate", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_answer_accounts_for_every_request_and_holds_its_intervals() -> None:
    done = simulate("llama-3.1-8b", *SMALL, "--rate", "3", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests"] == sum(found["outcomes"].values()) == 30
    for metric in ("ttft_s", "tpot_s", "e2e_latency_s"):
        p50 = found["evidence"][0]["metrics"][metric]
        assert p50["lo"] < p50["value"] < p50["hi"]
        assert p50["n"] == 30
    assert found["evidence"][0]["source"]["kind"] == "simulated"
    line = found["timeline"]
    assert len(line["start_s"]) == len(line["waiting"]) == len(line["kv_share"]) > 10


def test_overload_says_the_rate_that_holds() -> None:
    done = simulate(
        "llama-3.1-70b", "--weight-dtype", "fp8", "--gpu", "h200", "--isl", "8000",
        "--osl", "20", "--duration", "30s", "--rate", "20",
    )  # fmt: skip
    assert done.returncode == 3
    held = float(done.stderr.rsplit("; ", 1)[1].split()[0])
    assert 0 < held < 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no traffic; needed: exactly one of --trace, --rate, --stage, --concurrency, --day"),
        (("--rate", "0"), "0.0 is not in the range x>0"),
        (("--rate", "nan"), "nan is not a finite number"),
        (("--rate", "1", "--seed", "-1"), "'--seed': -1 is not in the range"),
        (("--rate", "1", "--warmup", "-inf"), "--warmup is '-inf'; allowed: a time with a unit"),
        (("--rate", "1", "--warmup", "10m"), "below the 10 s of arrivals"),
        (("--stage", "1:5s", "--stage", "2:5s", "--warmup", "10s"), "below the 10 s of arrivals"),
        (("--rate", "1", "--replicas", "10000000"), "'--replicas': 10000000"),
        (("--rate", "1", "--usd-per-gpu-hour", "-3"), "'--usd-per-gpu-hour': -3.0"),
        (("--rate", "1", "--usd-per-gpu-hour", "nan"), "nan is not a finite number"),
        (("--rate", "1e6", "--duration", "600s"), "6e+08 requests; allowed: up to 20,000,000"),
        (("--rate", "1", "--fail", "0:nan"), "expected: REPLICA:DOWN_S[:UP_S]"),
        (("--rate", "1", "--stage", "1:2m"), "given: --rate, --stage"),
        (("--stage", "8"), "--stage '8'; expected: REQUESTS_PER_S:DURATION, e.g. 8:10m"),
        (("--stage", "8:0s"), "stages of 0 s in all; needed: above 0"),
        (("--rate", "1", "--duration", "0"), "--duration is 0; allowed: above 0, up to 1e+09s"),
        (("--rate", "1", "--duration", "9e9h"), "--duration is 9e9h; allowed: above 0, up"),
        (
            ("--rate", "1", "--duration", "long"),
            "--duration is 'long'; allowed: a time with a unit",
        ),
        (("--rate", "1", "--ttft", "0ms"), "--ttft is 0ms; allowed: above 0"),
        (("--rate", "1", "--isl", "inf"), "'--isl': inf is not in the range"),
        (("--rate", "1", "--prefix-tokens", "-1"), "'--prefix-tokens': -1 is not in the range"),
        (("--rate", "1", "--turns", "inf"), "turns is inf; allowed: 1 to 1000; a session must end"),
        (("--rate", "1", "--profile", "none"), "none"),
        (("--rate", "1", "--catalogue", "absent.toml"), "absent.toml"),
        (("--rate", "1", "--lengths", "absent.json"), "cannot read absent.json"),
        (("--rate", "1", "--kv-dtype", "nonsense"), "nonsense"),
        (("--rate", "1", "--engine", "nonsense"), "nonsense"),
        (
            ("--concurrency", "2", "--prefill-replicas", "1"),
            "--prefill-replicas with --concurrency",
        ),
        (("--rate", "1", "--prefill-tp", "2"), "--prefill-tp without --prefill-replicas"),
        (("--rate", "1", "--ep", "4"), "expert parallelism over 4 ranks needs experts"),
        (("--rate", "1", "--pp", "99"), "PP=99 is not from 1 to the 32 layers"),
        (("--rate", "1", "--attention-dp", "2"), "attention DP=2 needs experts"),
        (("--rate", "1", "--speculation", "mtp:2"), "models with multi-token prediction heads"),
        (("--rate", "1", "--max-num-seqs", "0"), "max_num_seqs is 0; allowed: 1 to"),
        (("--day", "1,2"), "--day without a bound; needed: --ttft, --tpot or both"),
        (("--day", "1,x", "--ttft", "1s"), "--day '1,x'; expected: requests/s of each hour"),
        (("--rate", "0.01"), "0 requests; needed: at least 1"),
        (("--concurrency", "0"), "0 is not in the range 1<=x<=1000000"),
        (("--rate", "1", "--fail", "0"), "expected: REPLICA:DOWN_S[:UP_S]"),
        (("--trace", "absent.csv"), "cannot read absent.csv"),
        (("--trace", "a.csv", "--hash-block", "8"), "allowed: a .jsonl trace with hash_ids"),
        (("--concurrency", "2", "--duration", "5s", "--warmup", "5s"), "below the 5 s of arrivals"),
    ],
)
def test_bad_input_is_one_line(words: tuple[str, ...], message: str) -> None:
    own = {"--trace", "--lengths"} & set(words)
    lasts = "--rate" in words and "--duration" not in words
    few = (*(() if own else LENGTHS), *(("--duration", "10s") if lasts else ()))
    done = in_process("simulate", "llama-3.1-8b", "--gpu", "h200", *few, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_requests_that_the_model_cannot_hold_are_no_answer() -> None:
    # the context of llama-3.1-8b is 131,072 tokens
    done = simulate("llama-3.1-8b", *SMALL, "--rate", "4", "--isl", "1e6")
    assert done.returncode == 2
    assert "requests of 1,000,020 tokens on average; allowed: up to 131,072" in done.stderr


def test_a_warm_up_past_the_end_of_a_closed_loop_is_no_answer() -> None:
    done = simulate("llama-3.1-8b", *LENGTHS, "--concurrency", "2", "--warmup", "1e6s")
    assert done.returncode == 2
    assert "no request finished after the warm-up" in done.stderr


def test_a_malformed_line_of_a_trace_is_named_with_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("arrival_s,isl,osl\n0.0,100,20\n0.5,many,20\n")
    done = simulate("llama-3.1-8b", "--gpu", "h200", "--trace", str(path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "line 3: isl is 'many'; expected: a whole number of tokens, 1 to" in done.stderr
    path.write_text("arrival_s,isl,osl\n")
    assert "has 0 requests" in simulate("llama-3.1-8b", "--trace", str(path)).stderr


def test_hash_ids_without_a_block_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    line = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}
    path.write_text(json.dumps(line))
    done = simulate("llama-3.1-8b", "--gpu", "h200", "--trace", str(path))
    assert done.returncode == 2
    assert "line 1: hash_ids without a block size; needed: --hash-block" in done.stderr
    assert simulate("llama-3.1-8b", "--trace", str(path), "--hash-block", "512").returncode == 0


def test_sessions_and_stages_are_simulated_and_their_cache_hits_said() -> None:
    words = ("llama-3.1-8b", "--isl", "100", "--osl", "20", "--json")
    sessions = (
        "--rate",
        "2",
        "--duration",
        "20s",
        "--turns",
        "4",
        "--think",
        "500ms",
        "--prefix-tokens",
        "200",
    )
    found = json.loads(simulate(*words, *sessions, "--policy", "session_sticky").stdout)
    assert found["outcomes"]["done"] == found["requests"] > 100
    assert found["cache_hit_rate"] > 0.5
    without = json.loads(simulate(*words, *sessions, "--no-prefix-caching").stdout)
    assert without["cache_hit_rate"] == 0
    staged = json.loads(simulate(*words, "--stage", "2:10s", "--stage", "8:10s").stdout)
    assert staged["requests"] == 100
    assert staged["beyond_p99"] == 1


def test_the_table_says_how_many_requests_its_p99_stands_on() -> None:
    done = simulate("llama-3.1-8b", *SMALL, "--rate", "3")
    assert done.returncode == 0, done.stderr
    assert "slowest requests that the p99 is based on: 0; mostly noise: run longer" in done.stdout
    assert "intervals: 80 %, from step times and run-to-run variation" in done.stdout


def test_a_closed_loop_says_what_it_covers_and_how_many_requests_its_p99_stands_on() -> None:
    words = ("llama-3.1-8b", *LENGTHS, "--concurrency", "16")
    shown = simulate(*words, "--duration", "20s").stdout
    found = json.loads(simulate(*words, "--duration", "20s", "--json").stdout)
    assert found["beyond_p99"] == found["counted"] // 100 >= 10
    assert f"slowest requests that the p99 is based on: {found['beyond_p99']}\n" in shown
    assert "closed loop: 16 in flight until the last of these requests ends" in " ".join(
        shown.split()
    )
    metrics = found["evidence"][0]["metrics"]
    for name in ("ttft_s", "ttft_p99_s", "e2e_latency_p90_s"):
        assert metrics[name]["lo"] < metrics[name]["value"] < metrics[name]["hi"]
        assert metrics[name]["n"] == found["counted"] == found["requests"]
    ten = json.loads(simulate(*words, "--json").stdout)
    assert ten["requests"] == 160
    assert ten["request_rate"] is None


def test_a_day_is_sized_by_the_hour() -> None:
    done = simulate(
        "llama-3.1-8b", "--gpu", "h200", "--isl", "500", "--osl", "50", "--day", "1,3",
        "--ttft", "500ms", "--start-up", "2m", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [hour["request_rate"] for hour in found["day"]["hours"]] == [1.0, 3.0]
    assert [plan["name"] for plan in found["day"]["plans"]] == [
        "always the peak", "schedule", "autoscaler",
    ]  # fmt: skip


def test_a_file_without_models_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deployment.toml"
    path.write_text('[node]\ngpu = "h200"\n')
    done = simulate(str(path), "--rate", "1")
    assert done.returncode == 2
    assert "missing required field `model`" in done.stderr


def test_disaggregated_pools_are_a_what_if_of_simulate() -> None:
    done = simulate(
        "llama-3.1-8b",
        *SMALL,
        "--rate",
        "2",
        "--replicas",
        "2",
        "--prefill-replicas",
        "1",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["pools"] == "1 x TP1 prefill + 2 x TP1 decode"
    assert found["outcomes"]["done"] == found["requests"]
    assert 0 < found["transfer_s"] < found["evidence"][0]["metrics"]["ttft_s"]["value"]
