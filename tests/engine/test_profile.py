"""Timed steps: parts that add up, shapes of the shard, rows that calibrate reads."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")

from shardwise.architecture import models  # noqa: E402
from shardwise.cli.calibrate import calibrate  # noqa: E402
from shardwise.cli.profile import profile as command  # noqa: E402
from shardwise.engine import profile_rows  # noqa: E402
from shardwise.engine.checkpoint import open_checkpoint  # noqa: E402
from shardwise.engine.decode_graphs import Step  # noqa: E402
from shardwise.engine.engine import Engine  # noqa: E402
from shardwise.engine.options import EngineOptions  # noqa: E402
from shardwise.engine.profile_rows import CSV_COLUMNS  # noqa: E402
from shardwise.engine.step_timer import decode_plan, prefill_plan, profile_rank  # noqa: E402
from shardwise.errors import InputError  # noqa: E402

QUICK = ["--isl", "32", "--osl", "8", "--repeats", "3", "--device", "cpu"]


def run(model: Path, *options: str) -> list[dict[str, Any]]:
    got = CliRunner().invoke(command, [str(model), *QUICK, "--json", *options])
    assert got.exit_code == 0, got.output
    document = json.loads(got.stdout)
    assert (document["kind"], document["schema_version"]) == ("profile", 1)
    rows: list[dict[str, Any]] = document["profiles"]
    return rows


def test_parts_add_up_and_products_have_the_shapes_of_the_shard(llama: Path) -> None:
    (row,) = run(llama, "--tp", "2", "--batch", "3")
    for step, tokens in (("prefill", 96), ("decode", 3)):
        ranks = row["profile"][step]
        assert [rank["tp_rank"] for rank in ranks] == [0, 1]
        for rank in ranks:
            seconds = rank["seconds"]
            total = seconds.pop("total")
            assert sum(seconds.values()) == pytest.approx(total)
            assert all(value > 0 for value in seconds.values())
            # 2 layers of 2 sums and the embedding's: hidden 64 x fp32 x tokens
            assert rank["messages"][0]["bytes"] == 64 * 4 * tokens
            assert rank["messages"][0]["calls"] == 5
        shapes = {p["name"]: (p["rows"], p["inputs"], p["outputs"]) for p in ranks[0]["products"]}
        # TP=2 of 4 heads of 16, 2 KV heads, intermediate 96, vocabulary 131
        assert shapes == {
            "qkv": (tokens, 64, 32 + 16 + 16),
            "output": (tokens, 32, 64),
            "gate_up": (tokens, 64, 96),
            "down": (tokens, 48, 64),
            "lm_head": (3, 64, 65),
        }


def test_a_decode_step_that_is_served_as_a_graph_is_timed_as_one(llama: Path) -> None:
    options = EngineOptions(device="cpu", dtype="fp32", kv_cache_tokens=512)
    with Engine(llama, options) as engine:
        rank = engine.group.local
        rank._scratch_block = 31  # the last block, which the plan below does not use
        captured = []

        def record(work: Step) -> Step:
            captured.append(work)
            return work  # calling it again is what a replay does

        rank.record = record
        rank._graphs = rank.graphs(record)
        prefill, decode = prefill_plan(3, 32, 16), decode_plan(3, 32, 16)
        assert not rank.replays(prefill)
        assert rank.replays(decode)
        assert len(profile_rank(rank, prefill, 3).totals_s) == 3
        assert not captured  # the server launches prompts kernel by kernel
        found = profile_rank(rank, decode, 3)
    assert len(captured) == 2  # one with timers between the parts, one without
    seconds = dict(found.seconds)
    total = seconds.pop("total")
    assert total in found.totals_s
    assert sum(seconds.values()) == pytest.approx(total)
    assert all(value >= 0 for value in seconds.values())
    # a batch of 3 is filled up to 4 rows
    calls = {product.name: (product.rows, product.calls) for product in found.products}
    assert calls == {
        "qkv": (4, 2), "output": (4, 2), "gate_up": (4, 2), "down": (4, 2), "lm_head": (4, 1)
    }  # fmt: skip


def test_rates_follow_from_shape_and_time(llama: Path) -> None:
    (row,) = run(llama)
    product = row["profile"]["decode"][0]["products"][0]
    rows, inputs, outputs = product["rows"], product["inputs"], product["outputs"]
    assert product["flops_per_s"] * product["seconds"] == pytest.approx(2 * rows * inputs * outputs)
    moved = 4 * (inputs * outputs + rows * (inputs + outputs))
    assert product["bytes_per_s"] * product["seconds"] == pytest.approx(moved)


def test_emulation_runs_one_ranks_shard_and_says_what_is_left_out(llama: Path) -> None:
    one, four = run(llama, "--tp", "1,4", "--emulate", "--random-weights")
    assert not one["profile"]["emulated"]
    assert four["profile"]["emulated"]
    assert len(four["profile"]["decode"]) == 1
    down = next(p for p in four["profile"]["decode"][0]["products"] if p["name"] == "down")
    assert (down["inputs"], down["outputs"]) == (24, 64)
    assert "all-reduce not included" in four["evidence"]["source"]["note"]


def test_evidence_is_prefill_and_the_decode_steps_with_their_interval(llama: Path) -> None:
    (row,) = run(llama)
    metrics = row["evidence"]["metrics"]
    expected = metrics["ttft_s"]["value"] + 7 * metrics["tpot_s"]["value"]
    assert metrics["e2e_latency_s"]["value"] == pytest.approx(expected)
    assert metrics["tpot_s"]["n"] == 3
    assert metrics["tpot_s"]["lo"] <= metrics["tpot_s"]["value"] <= metrics["tpot_s"]["hi"]
    assert row["evidence"]["source"]["kind"] == "measured"


def test_rows_have_the_columns_that_calibrate_reads(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    run(llama, "--batch", "1,2", "-o", str(path), "--gpu", "my-cpu")
    rows = list(csv.DictReader(path.open()))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(r["concurrency"], r["gpu_id"], r["engine_id"], r["tp"]) for r in rows] == [
        ("1", "my-cpu", "builtin", "1"),
        ("2", "my-cpu", "builtin", "1"),
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tp", "two"], "--tp is 'two'"),
        (["--tp", "2", "--emulate", "-o", "/tmp/x.csv"], "--gpu is 'cpu', and rows of --emulate"),
        (["-o", "/proc/nowhere/x.csv"], "cannot write to /proc/nowhere"),
        (["--isl", "200", "--osl", "57"], "together at most 256 tokens, the model's context"),
    ],
)
def test_options_that_cannot_be_used_are_named(llama: Path, options: list[str], says: str) -> None:
    got = CliRunner().invoke(command, [str(llama), *options])
    assert isinstance(got.exception, InputError)
    assert says in str(got.exception)


def test_emulated_rows_hold_the_modelled_all_reduce_and_calibrate_takes_them(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    options = ("--tp", "1,2,4", "--emulate", "--gpu", "h200", "-o", str(path))
    _, two, four = run(llama, *options)
    assert two["evidence"]["source"]["kind"] == "predicted"
    assert "all-reduce predicted: vllm, h200" in two["evidence"]["source"]["note"]
    # 5 all-reduces a step (2 layers of 2 and the embedding's), 1 prefill and 7 decode steps; each
    # some microseconds on an H200: latency of the measured kernel and waiting for the other ranks
    for row, waits in ((two, 1), (four, 3)):
        each = row["evidence"]["breakdown"]["all_reduce"] / (5 * 8)
        assert waits * 0.1e-6 < each < 50e-6
        measured = row["profile"]["decode"][0]
        median = sorted(measured["totals_s"])[1]
        tpot = row["evidence"]["metrics"]["tpot_s"]
        assert median < tpot["value"] < median + 5 * 50e-6
    rows = list(csv.DictReader(path.open()))
    assert [(r["source_id"], r["tp"]) for r in rows] == [
        ("shardwise_profile", "1"),
        ("shardwise_profile_emulate", "2"),
        ("shardwise_profile_emulate", "4"),
    ]
    for r in rows:  # times of a busy machine, which calibrate would take for another unit
        tpot = min(float(r["tpot_ms"]), 2.0)
        ttft = min(float(r["ttft_ms"]), 20.0 * tpot)
        r |= {"tpot_ms": str(tpot), "ttft_ms": str(ttft), "e2e_s": str((ttft + 7 * tpot) / 1e3)}
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    monkeypatch.setenv("SHARDWISE_HOME", str(tmp_path))
    got = CliRunner().invoke(calibrate, [str(path), "--name", "mine"])
    assert got.exit_code == 0, got.output
    assert got.stdout.startswith("3 rows;")


def test_the_tables_end_with_the_evidence_and_what_it_rests_on(llama: Path) -> None:
    options = ["--tp", "2", "--emulate", "--gpu", "h200"]
    got = CliRunner().invoke(command, [str(llama), *QUICK, *options])
    assert got.exit_code == 0
    said = " ".join(got.output.split())
    assert "(one rank's shard only, fp32, cpu)" in said
    assert re.search(r"predicted: TTFT [^;]*n=3", said)
    assert "all-reduce predicted: vllm, h200" in said


def test_a_rows_model_is_found_by_other_commands(llama: Path) -> None:
    assert models.load(profile_rows.model_id(llama)).num_layers == 2
    bundled = Path(models.__file__).parent / "data" / "llama-3.1-8b.json"
    assert models.load("llama-3.1-8b").id == "llama-3.1-8b"
    named = llama.parent / "Llama-3.1-8B-Instruct"
    named.mkdir(exist_ok=True)
    (named / "config.json").write_text(bundled.read_text())
    assert profile_rows.model_id(named) == "llama-3.1-8b"
    # the name of another shape is no name
    (named / "config.json").write_text((llama / "config.json").read_text())
    assert profile_rows.model_id(named) == str(named)


def test_watching_leaves_the_model_as_it_was(llama: Path) -> None:
    from shardwise.engine import step_timer

    options = EngineOptions(device="cpu", dtype="fp32", kv_cache_tokens=256, max_num_seqs=4)
    with Engine(llama, options) as engine:
        before = engine.logits([1, 2, 3])
        plan = step_timer.decode_plan(2, 8, engine.options.block_size)
        step_timer.profile_rank(engine.group.local, plan, 2)
        assert torch.equal(engine.logits([1, 2, 3]), before)
        assert engine.group.local.model.layers[0].attention.__class__.__name__ == "Attention"
    assert open_checkpoint(llama).config == engine.config
