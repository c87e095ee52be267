"""A simulation as a record: what it names, its intervals, and what it leaves out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec.structs import replace

from shardwise.layout.deployment import Deployment, Layout
from shardwise.simulator.evidence import evidence, simulate_thrice, timeline
from shardwise.simulator.fleet import Failure, Group
from shardwise.simulator.scheduling import Scheduling
from shardwise.simulator.steptable import StepTable
from shardwise.simulator.surface import plane
from shardwise.simulator.trace import make_trace
from shardwise.simulator.traffic import Lengths, Traffic, draw
from shardwise.workload.workload import Slo


def group(replicas: int = 1, step_s: float = 0.1, width: float = np.log(2)) -> Group:
    table = StepTable(np.full(10, step_s), np.full(514, step_s), plane(0.0), plane(0.0))
    return Group(
        Deployment("toy", "h200", Layout(replicas=replicas)), table, 8, 512, 10_000, 10**9,
        0.0, 0.0, 0.0,
        {"tpot_s": width}, "by hand",
    )  # fmt: skip


def test_a_record_is_of_kind_simulated_and_its_interval_is_the_step_times_own() -> None:
    # one request alone: a prefill step and 4 decode steps of 0.1 s, half and twice as long
    runs = simulate_thrice([group()], make_trace(np.zeros(1), np.array([10]), np.array([5])))
    (record,) = evidence(runs)
    assert (record.source.kind, record.source.name) == ("simulated", "by hand")
    assert record.deployment.model == "toy"
    for name, expected in (("ttft_s", 0.1), ("tpot_s", 0.1), ("e2e_latency_p99_s", 0.5)):
        found = record.metrics[name]
        assert found.value == pytest.approx(expected)
        assert found.lo == pytest.approx(expected / 2)
        assert found.hi == pytest.approx(expected * 2)
        assert found.n == 1


def test_a_first_tokens_interval_holds_what_is_not_known_beside_the_steps() -> None:
    wider = replace(group(), half_widths={"tpot_s": 0.3, "ttft_s": 0.5})
    runs = simulate_thrice([wider], make_trace(np.zeros(1), np.array([10]), np.array([5])))
    (record,) = evidence(runs)
    ttft, tpot = record.metrics["ttft_s"], record.metrics["tpot_s"]
    assert math.log(ttft.hi / ttft.value) == pytest.approx(0.5)  # 0.3 of the steps, 0.4 beside
    assert math.log(tpot.hi / tpot.value) == pytest.approx(0.3)


def test_cost_is_of_all_gpus_over_the_tokens_of_good_requests() -> None:
    # 2 GPUs at 3.6 USD/h are 0.002 USD/s; 2 requests of 5 tokens in 0.5 s, both good: 20 tok/s
    runs = simulate_thrice([group(2)], make_trace(np.zeros(2), np.full(2, 10), np.full(2, 5)))
    (record,) = evidence(runs, slo=Slo(ttft_s=0.3), usd_per_gpu_hour=3.6)
    cost = record.metrics["usd_per_million_good_tok"]
    assert cost.value == pytest.approx(0.002 / 20 * 1e6)
    assert record.metrics["goodput"].value == pytest.approx(4.0)
    (bad,) = evidence(runs, slo=Slo(ttft_s=0.05), usd_per_gpu_hour=3.6)
    assert "usd_per_million_good_tok" not in bad.metrics  # nothing good: no finite cost
    assert bad.metrics["goodput"].value == 0.0


def test_what_is_undefined_is_left_out() -> None:
    runs = simulate_thrice([group()], make_trace(np.zeros(1), np.array([10]), np.array([1])))
    (record,) = evidence(runs)
    assert not [name for name in record.metrics if name.startswith("tpot")]
    assert "recovery_s" not in record.metrics


def test_two_groups_are_two_records_that_share_the_requests() -> None:
    trace = draw(Traffic(4.0, Lengths(20), Lengths(5), 30.0))
    runs = simulate_thrice([group(), group(2)], trace)
    records = evidence(runs)
    assert sum(r.metrics["ttft_s"].n for r in records) == len(trace)
    # throughput is of one replica
    rate = sum(r.metrics["output_tok_s"].value * r.deployment.replicas for r in records)
    assert rate == pytest.approx(4 * 5, rel=0.15)


def test_the_share_of_the_cache_in_use_counts_tokens() -> None:
    # a prompt of 100 tokens and an answer of 100: 100 to 199 of 1,000 tokens, in blocks of 10
    whole = replace(group(), kv_capacity_tokens=1000, scheduling=Scheduling(block_tokens=10))
    runs = simulate_thrice([whole], make_trace(np.zeros(1), np.array([100]), np.array([100])))
    assert max(timeline(runs.expected)["kv_share"]) == pytest.approx(0.2, abs=0.02)


def test_a_failure_has_a_time_to_recover_and_shows_in_the_queue() -> None:
    # one of two replicas down from 100 to 150 s: alone the other cannot carry 9 x 10 steps a second
    trace = draw(Traffic(9.0, Lengths(20), Lengths(60), 400.0))
    runs = simulate_thrice(
        [group(2, step_s=0.01, width=0.05)], trace, failures=[Failure(0, 100.0, 150.0)]
    )
    (record,) = evidence(runs)
    line = timeline(runs.expected)
    start, waiting = np.array(line["start_s"]), np.array(line["waiting"])
    assert waiting[start < 95].mean() < waiting[(start > 110) & (start < 150)].mean()
    assert 0 <= record.metrics["recovery_s"].value < 300
    assert all(0 <= share <= 1 for share in line["kv_share"])
