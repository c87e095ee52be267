"""Steps of ranks that share a cache: what they read less, and what they send."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.planner.conftest import make_question

from shardwise import kernels
from shardwise.architecture.mixers import Mla
from shardwise.architecture.models import load
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, layout_of
from shardwise.layout.shards import rank_shards
from shardwise.perfmodel.context_parallel import merge_seconds
from shardwise.perfmodel.estimate import predict
from shardwise.perfmodel.grids import SEQUENCES
from shardwise.perfmodel.memory import plan
from shardwise.planner.question import Demand
from shardwise.workload.workload import Workload

DEEPSEEK = load("deepseek-r1")
H200 = default_catalogue().gpu("h200")


def deployed(layout: str) -> Deployment:
    limits = EngineLimits(64, 8192, 0.9, 40960)
    return Deployment("deepseek-r1", "h200", layout_of(layout), limits, Dtypes("fp8", "bf16"))


def predicted(layout: str, concurrency: int, isl: int) -> dict[str, Any]:
    subject = make_question("deepseek-r1", "h200", 8, Demand(isl, 500, 8)).subject("fp8")
    (found,) = predict(subject, [deployed(layout)], [Workload(isl, 500, concurrency)])
    return dict(found.metrics) | dict(found.breakdown)


def test_eight_ranks_that_share_hold_eight_times_the_tokens() -> None:
    one, eight = (
        plan(DEEPSEEK, H200, deployed(x), 8192).kv_capacity_tokens for x in ("TP8", "TP8xDCP8")
    )
    assert eight == pytest.approx(8 * one, rel=1e-3)


def test_queries_are_gathered_and_outputs_merged_in_each_layer() -> None:
    mixer = DEEPSEEK.groups[0].mixer
    assert isinstance(mixer, Mla)
    (none, found) = merge_seconds(
        [rank_shards(DEEPSEEK, layout_of(x)) for x in ("TP8", "TP8xDCP8")], H200
    )
    assert not none.any()
    tokens = SEQUENCES[10]  # 128 heads; 576 elements of a query, 512 of an output, 16 bits each
    by_hand = 61 * (
        kernels.all_gather(H200, 8, tokens * 128 * 576 * 2).seconds
        + kernels.all_gather(H200, 8, tokens * 128 * 8 * 4).seconds
        + kernels.reduce_scatter(H200, 8, tokens * 128 * 512 * 2).seconds
    )
    assert found[10] == pytest.approx(float(by_hand))


def test_sharing_costs_a_short_request_and_gains_long_ones() -> None:
    short, shared = (predicted(x, 1, 1000)["tpot_s"].value for x in ("TP8", "TP8xDCP8"))
    assert short < shared < 1.5 * short
    # 32 requests of 32,000 tokens read a latent cache of 70 GB a step on each rank of TP
    long, split = (predicted(x, 32, 32000) for x in ("TP8", "TP8xDCP8"))
    assert split["kv"] < 0.5 * long["kv"]
    assert split["communication"] > long["communication"]


def test_no_row_has_it_so_its_intervals_are_wide() -> None:
    known, unknown = (predicted(x, 16, 4000)["tpot_s"] for x in ("TP8", "TP8xDCP8"))
    assert unknown.hi / unknown.value > known.hi / known.value * 1.1


@given(st.sampled_from([2, 4, 8]))
def test_merging_more_tokens_never_takes_less(sharers: int) -> None:
    rank = rank_shards(DEEPSEEK, layout_of(f"TP8xDCP{sharers}"))
    assert np.all(np.diff(merge_seconds([rank], H200)[0]) >= -1e-9)
