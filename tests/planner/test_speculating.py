"""Whether a plan suggests to draft tokens, and up to which concurrency that gains."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from shardwise.layout.deployment import FixedLimits
from shardwise.layout.speculation import Speculation
from shardwise.planner.command import checkpoint, extra_flags, replicas
from shardwise.planner.plan import plan
from shardwise.planner.question import Demand
from shardwise.planner.speculating import break_even, drafted
from shardwise.reports.speculation_tables import speculation_document, speculation_lines


def test_break_even_is_where_the_ratio_falls_to_one() -> None:
    # 2 at 8 in flight, 1/2 at 32: halfway in logarithms
    assert break_even([8, 32], [2.0, 0.5]) == pytest.approx(16.0)
    assert break_even([8, 32], [2.0, 1.1]) == math.inf
    assert break_even([8, 32], [0.9, 0.8]) == 0.0
    # a dip is no break-even where it gains again further on
    assert break_even([1, 2, 4, 8], [1.5, 0.9, 2.0, 0.5]) == pytest.approx(math.sqrt(32.0))


def test_mtp_is_suggested_where_decoding_waits_for_weights(ask: Any) -> None:
    found = drafted(plan(ask("qwen3.5-27b", "h200", 1, Demand(1000, 1000, 4))))
    assert found is not None
    assert found.helps
    assert found.certain
    assert not found.asked
    assert "turn it on with --speculation mtp:" in speculation_lines(found)[0]


def test_it_gains_less_where_steps_are_full(ask: Any) -> None:
    few, many = (
        drafted(plan(ask("qwen3.5-27b", "h200", 1, Demand(200, 1000, load)))) for load in (4, 512)
    )
    assert few is not None
    assert many is not None
    assert many.speedup.value < 0.8 * few.speedup.value


def test_a_draft_that_is_never_right_loses_at_every_concurrency(ask: Any) -> None:
    vain = Speculation.parse("llama-3.2-1b:4", 0.0)
    demand = Demand(1000, 1000, 8)
    found = drafted(plan(ask("llama-3.1-70b", "h100", 4, demand, speculation=vain)))
    assert found is not None
    assert found.break_even.value == 0.0
    assert found.speedup.value < 1.0
    assert "on, as requested, but" in speculation_lines(found)[0]
    assert "it is slower at every concurrency" in speculation_lines(found)[1]


def test_the_plan_and_the_comparison_give_one_answer(ask: Any) -> None:
    asked = Speculation.parse("mtp:2", 0.7)
    made = plan(ask("qwen3.5-27b", "h200", 1, Demand(1000, 1000, 8), speculation=asked))
    found = drafted(made)
    assert found is not None
    assert found.asked
    assert found.here.tpot_with_s == pytest.approx(made.best.evidence.metrics["tpot_s"].value)
    off = plan(ask("qwen3.5-27b", "h200", 1, Demand(1000, 1000, 8)))
    limits = made.best.deployment.limits
    assert off.best.deployment.limits == limits
    assert found.here.tpot_s == pytest.approx(off.best.evidence.metrics["tpot_s"].value)


def test_a_model_without_heads_gets_no_suggestion(ask: Any) -> None:
    assert drafted(plan(ask("llama-3.1-8b", "h100", 1, Demand(1000, 1000, 8)))) is None


def test_commands_and_deployment_files_draft_as_scored(ask: Any) -> None:
    asked = Speculation.parse("llama-3.2-1b:4")
    question = ask("llama-3.1-70b", "h100", 4, Demand(1000, 1000, 8), speculation=asked)
    best = plan(question).best.deployment
    found = checkpoint("llama-3.1-70b", question.arch, best)
    line = replicas(best, question.arch, question.node.gpu, found)[0].line
    config = '{"method":"draft_model","model":"meta-llama/Llama-3.2-1B","num_speculative_tokens":4}'
    assert f"--speculative-config '{config}'" in line
    flags = extra_flags(best, question.arch, question.node.gpu, found)
    assert ("--speculative-config", config) in pairwise(flags)


def test_json_has_no_infinity(ask: Any) -> None:
    question = ask("qwen3.5-27b", "h200", 1, Demand(1000, 1000, 4), limits=FixedLimits(64))
    found = drafted(plan(question))
    assert found is not None
    never = replace(found, break_even=replace(found.break_even, value=math.inf, hi=math.inf))
    assert speculation_document(never)["break_even_concurrency"]["hi"] is None
