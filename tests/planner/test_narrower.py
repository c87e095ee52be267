"""Weights in int4: looked at where nothing wider fits, named where the cache limits the batch."""

from __future__ import annotations

from typing import Any

import pytest

from shardwise.errors import DoesNotFitError
from shardwise.planner.command import checkpoint
from shardwise.planner.explanation import explain
from shardwise.planner.plan import plan
from shardwise.planner.question import Demand
from shardwise.reports.plan_words import recommendation


def test_a_32b_on_24_gb_is_its_published_awq_checkpoint(ask: Any) -> None:
    # 32.8e9 weights: 65 GB in bf16, 33 GB in fp8, 19 GB in int4 with 16-bit embeddings
    found = plan(ask("qwen3-32b", "rtx-4090", 1, Demand(1000, 500, 1)))
    assert found.too_wide == ("bf16", "fp8")
    assert found.best.deployment.dtypes.weight == "int4"
    assert checkpoint("qwen3-32b", found.question.arch, found.best.deployment).path == (
        "Qwen/Qwen3-32B-AWQ"
    )
    assert "Nothing fits in bf16 or fp8, so the plan uses Qwen/Qwen3-32B-AWQ" in (
        recommendation(found)
    )
    assert {r.option.weight_dtype for r in found.rejected} == {"bf16", "fp8"}


def test_what_fits_wider_stays_wider_and_hears_of_int4(ask: Any) -> None:
    found = plan(ask("qwen3-32b", "rtx-4090", 3, Demand(4000, 1000, 8)))
    assert found.too_wide == ()
    assert found.best.deployment.dtypes.weight == "fp8"
    narrower = explain(found).narrower
    assert narrower is not None
    assert narrower.tokens > 2 * narrower.now_tokens
    assert "--dtype int4" in recommendation(found)


def test_a_cache_with_room_needs_no_int4(ask: Any) -> None:
    found = plan(ask("qwen3-32b", "h100", 1, Demand(1000, 500, 4)))
    assert explain(found).narrower is None


def test_no_int4_where_none_is_published_or_another_dtype_is_asked_for(ask: Any) -> None:
    for question in (
        ask("deepseek-r1-distill-qwen-32b", "rtx-4090", 1, Demand(1000, 500, 1)),
        ask("qwen3-32b", "rtx-4090", 1, Demand(1000, 500, 1), weight_dtype="fp8"),
    ):
        with pytest.raises(DoesNotFitError):
            plan(question)
