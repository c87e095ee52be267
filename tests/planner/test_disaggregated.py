"""Pools of prefill and decode instances: queueing by hand, and the verdict against one layout."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.errors import NothingMeetsError
from shardwise.layout.deployment import EngineLimits, Layout
from shardwise.perfmodel.pools import (
    BATCHES,
    HAND_OVER_S,
    TRANSFER_SHARE,
    Pools,
    Requests,
    Times,
    serve,
    times,
    transfer_s,
)
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.planner.disaggregated import RATIO_WIDTH, judge
from shardwise.planner.plan import explore, plan
from shardwise.planner.question import Demand
from shardwise.reports.disaggregated_tables import disaggregated_document, disaggregated_lines
from shardwise.workload.workload import Slo

LLAMA, _ = subject_of(Asked("llama-3.1-70b", "h200", weight_dtype="fp8"))
ONE, TWO = Layout(1), Layout(2)


def by_hand() -> Times:
    """A prompt takes 0.1 s; 101 tokens take 2 s, however many decode."""
    return Times(
        layouts=(ONE,),
        prompt_s=np.array([0.1]),
        own_s=np.array([0.1]),
        decoding_s=np.full((1, len(BATCHES)), 2.0),
        held=np.array([20.0]),
        cache_bytes=np.array([1e9]),
        tokens_per_step=1.0,
    )


def test_rate_wait_and_requests_in_flight_by_hand() -> None:
    requests, c = Requests(1000, 101), LLAMA.setting.coefficients
    found = serve(LLAMA, by_hand(), Pools(ONE, 1, ONE, 1), requests, first_share=0.0)
    at = int(np.argmin(np.abs(found.batch - 8.0)))
    batch = found.batch[at]
    rate = batch / 2.0  # Little's law over decoding
    assert found.output_tok_s[at] == pytest.approx(101 * rate)
    busy = 0.1 * rate
    assert found.prefill_busy[at] == pytest.approx(busy)
    # M/D/1: rho / (2 (1 - rho)) service times; then two servers' handling, the transfer and a step
    wait = 0.1 * busy / (2 * (1 - busy))
    sent = HAND_OVER_S + 1e9 / (TRANSFER_SHARE * 450e9)
    ttft = wait + 0.1 + sent + 2 * (c["request"] + 1000 * c["tokenize"]) + 2.0 / 100
    assert found.ttft_s[at] == pytest.approx(ttft)
    assert found.tpot_s[at] == pytest.approx(0.02)
    assert found.in_flight[at] == pytest.approx(rate * (ttft + 2.0))
    # a prompt every 0.1 s is the most, and the cache holds 20 sequences
    assert found.prefill_busy.max() < 1.0
    assert found.batch.max() <= 20.0


def test_one_prefill_gpu_sends_to_every_gpu_of_a_decode_instance() -> None:
    seconds = 1e9 / (TRANSFER_SHARE * LLAMA.gpu.interconnect.peer_bandwidth(2))
    assert transfer_s(LLAMA, TWO, TWO, 1e9) == pytest.approx(HAND_OVER_S + seconds)
    assert transfer_s(LLAMA, Layout(4), TWO, 1e9) == pytest.approx(HAND_OVER_S + seconds)
    assert transfer_s(LLAMA, ONE, Layout(4), 1e9) == pytest.approx(HAND_OVER_S + 4 * seconds)


def test_a_prompts_cache_is_what_its_layers_keep() -> None:
    found = times(LLAMA, [ONE, TWO], Requests(1000, 100), EngineLimits())
    # 80 layers x 2 x 8 heads x 128 x 2 bytes a token; TP2 halves it
    assert found.cache_bytes == pytest.approx([327_680_000.0, 163_840_000.0])


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(16, 16_000),
    st.integers(2, 4000),
    st.floats(0, 1),
)
@example(prefill=1, decode=4, isl=466, osl=479, cached=0.484375)  # a slower step at a larger batch
def test_pools_keep_littles_law_and_grow_with_their_batch(
    prefill: int, decode: int, isl: int, osl: int, cached: float
) -> None:
    requests = Requests(isl, osl, cached * (isl - 1))
    found = times(LLAMA, [TWO], requests, EngineLimits())
    served = serve(LLAMA, found, Pools(TWO, prefill, TWO, decode), requests, 0.0)
    rate = served.output_tok_s / osl
    assert served.in_flight == pytest.approx(rate * served.e2e_latency_s)
    assert np.all(np.diff(served.in_flight) > 0)
    assert served.e2e_latency_s == pytest.approx(served.ttft_s + served.tpot_s * (osl - 1))
    whole = times(LLAMA, [TWO], Requests(isl, osl), EngineLimits())
    assert found.prompt_s <= whole.prompt_s * (1 + 1e-9)


def test_a_model_that_fills_the_node_has_no_two_pools(ask: Any) -> None:
    found = judge(plan(ask("deepseek-r1", "h200", 8, Demand(4000, 1000, 64), engine="sglang")))
    assert found.answer == "not for you"
    assert found.best is None
    (line,) = disaggregated_lines(found, "NVLink")
    assert line.endswith("needs 8 of the 8 GPUs, so two pools need 16.")


def test_short_prompts_and_long_answers_leave_a_prefill_pool_idle(ask: Any) -> None:
    found = judge(plan(ask("llama-3.1-70b", "h200", 4, Demand(200, 2000, 128))))
    assert found.answer == "not for you"
    assert found.best is not None
    assert found.gain is not None
    assert found.gain.value < 1.0
    assert found.best.prefill_busy < 0.5
    lines = disaggregated_lines(found, "NVLink")
    assert lines[0].startswith("Disaggregated prefill and decode: not for you, because ")
    assert all(line.endswith(".") for line in lines)
    assert "its GPUs are idle" in found.reason


def test_long_prompts_under_a_tight_tpot_are_what_pools_are_for(ask: Any) -> None:
    asked = ask("llama-3.1-70b", "h200", 8, Demand(4000, 500), slo=Slo(ttft_s=4.0, tpot_s=0.02))
    found = judge(plan(asked))
    assert found.answer == "for you"
    assert found.gain is not None
    assert found.gain.lo == pytest.approx(found.gain.value / math.exp(RATIO_WIDTH))
    assert found.gain.lo > 1.0


def test_a_bound_that_is_met_by_little_is_to_be_measured(ask: Any) -> None:
    demand = Demand(4000, 500, 48)
    slack = judge(explore(ask("llama-3.1-70b", "h200", 8, demand, slo=Slo(4.0, 0.02))))
    assert slack.best is not None
    ttft = slack.best.values["ttft_s"].value
    tight = judge(explore(ask("llama-3.1-70b", "h200", 8, demand, slo=Slo(ttft * 1.01, 0.02))))
    assert slack.answer == "for you"
    assert tight.answer == "measure it"


def test_the_pools_fill_the_node_and_run_on_it(ask: Any) -> None:
    found = judge(plan(ask("llama-3.1-70b", "h200", 4, Demand(4000, 500, 64))))
    assert found.best is not None
    assert found.best.pools.gpus <= 4
    assert found.best.in_flight == pytest.approx(64, rel=0.01)
    assert found.considered > 1


def test_more_requests_than_the_pools_hold_wait_before_them(ask: Any) -> None:
    crowd = judge(plan(ask("llama-3.1-70b", "h200", 4, Demand(4000, 500, 4000))))
    some = judge(plan(ask("llama-3.1-70b", "h200", 4, Demand(4000, 500, 400))))
    assert crowd.best is not None
    assert some.best is not None
    more, less = (x.values["output_tok_s"].value for x in (crowd.best, some.best))
    assert more == pytest.approx(less, rel=0.05)
    assert crowd.best.in_flight == pytest.approx(4000)
    rate = more / 500
    assert crowd.best.values["e2e_latency_s"].value == pytest.approx(4000 / rate, rel=1e-6)


def test_where_no_layout_meets_the_slo_the_nearest_is_compared(ask: Any) -> None:
    asked = ask("llama-3.1-70b", "h200", 4, Demand(8000, 500, 64), slo=Slo(tpot_s=0.02))
    with pytest.raises(NothingMeetsError):
        plan(asked)
    found = judge(explore(asked))
    assert not found.aggregated.meets
    assert "TPOT" in found.reason or "meet the SLO" in found.reason


def test_the_document_is_json(ask: Any) -> None:
    found = judge(plan(ask("llama-3.1-70b", "h200", 4, Demand(4000, 500, 64))))
    import msgspec

    text = msgspec.json.encode(disaggregated_document(found, "NVLink 4"))
    assert json.loads(text)["answer"] == found.answer
    assert json.loads(text)["pools"]["transfer_s"] > HAND_OVER_S


def test_drafts_speed_the_decode_pool(ask: Any) -> None:
    from shardwise.layout.speculation import Speculation

    asked = Speculation.parse("llama-3.2-1b:4", 0.7)
    demand = Demand(1000, 1000, 16)
    plain, drafts = (
        judge(plan(ask("llama-3.1-70b", "h200", 4, demand, speculation=s, weight_dtype="fp8")))
        for s in (None, asked)
    )
    assert plain.best is not None
    assert drafts.best is not None
    fast, slow = (x.values["tpot_s"].value for x in (drafts.best, plain.best))
    assert fast < 0.8 * slow
    assert replace(drafts.best, pools=plain.best.pools).pools.gpus == 4
