"""Prompts whose beginning is cached: time, memory, and one answer with a simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.perfmodel.estimate import predict, sweep
from shardwise.perfmodel.loads import Load, Offered, make_load
from shardwise.perfmodel.predicting import predict_table
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.perfmodel.serving import Served, closed_loop, max_throughput, static_batch
from shardwise.perfmodel.serving_steps import as_graphs, prefill_step
from shardwise.perfmodel.step import step_time
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.simulator.compiling import HAS_NUMBA
from shardwise.simulator.fleet import make_group
from shardwise.simulator.simulate import simulate
from shardwise.simulator.trace import make_trace, one_prefix
from shardwise.workload.workload import Workload

LLAMA, _ = subject_of(Asked("llama-3.1-70b", "h200", weight_dtype="fp8"))
ONE = np.ones(1)


def offered(cached: float, concurrency: float, isl: float = 4000.0, osl: float = 500.0) -> Offered:
    return Offered(
        concurrency * ONE, isl * ONE, osl * ONE, 10 * concurrency * ONE, cached_tokens=cached * ONE
    )


def deployments(tp: int) -> Deployments:
    return Deployments(Layouts.of([Layout(tp)]), 512.0 * ONE, 8192.0 * ONE, 0.9 * ONE)


def loaded(cached: float, tp: int = 2, concurrency: float = 8.0) -> Load:
    kv = LLAMA.setting.kv_dtype
    asked = offered(cached, concurrency)
    return make_load(LLAMA.arch, LLAMA.platform, kv, deployments(tp), asked)


def test_only_what_is_not_cached_is_computed_and_it_sees_what_is() -> None:
    load = loaded(3000.0)
    assert load.new_tokens == 1000.0
    assert load.prompt_context == 3500.0  # 3,000, and half of the 1,000 on average
    setting, none = LLAMA.setting, np.zeros(1)
    kernels = setting.kernels(load.layouts)
    graphs = as_graphs(load, kernels, none, 1000.0 * ONE)
    expected = step_time(setting, kernels, none, none, 1000.0 * ONE, 3500.0 * ONE, as_graphs=graphs)
    assert prefill_step(setting, load, 1000.0 * ONE).total == pytest.approx(expected.total)


def test_a_static_batch_prefills_its_own_tokens_alone() -> None:
    setting, load = LLAMA.setting, loaded(3000.0, concurrency=4.0)
    # 4 prompts of 1,000 new tokens fit one step of 8,192
    expected = prefill_step(setting, load, 4000.0 * ONE).total
    assert static_batch(setting, load).ttft_s == pytest.approx(expected)


def test_a_shared_beginning_is_kept_once() -> None:
    setting = LLAMA.setting
    load = loaded(3000.0, concurrency=512.0)
    load = replace(load, kv_capacity_tokens=103_000.0 * ONE, length_cv=0.0)
    # 100,000 tokens left for sequences of 1,000 new and on average 250 generated tokens
    assert max_throughput(setting, load).batch == 80.0
    copies = replace(load, layouts=Layouts.of([Layout(1, attention_dp=2, ep_size=2)]))
    moe, _ = subject_of(Asked("mixtral-8x7b", "h200"))
    # each copy of attention keeps its own: 97,000 tokens are left
    assert max_throughput(moe.setting, copies).batch == pytest.approx(97_000 / 1250)


def served(cached: float, tp: int, concurrency: float, isl: float, osl: float) -> Served:
    asked = offered(cached, concurrency, isl, osl)
    return sweep(LLAMA, "closed_loop", deployments(tp), asked)


CASES = {
    "tp": st.sampled_from([1, 2, 4, 8]),
    "concurrency": st.integers(1, 512),
    "isl": st.integers(2, 16_000),
    "osl": st.integers(2, 4_000),
}


@settings(max_examples=60, deadline=None)
@given(**CASES)
def test_nothing_cached_changes_nothing(tp: int, concurrency: int, isl: int, osl: int) -> None:
    plain = Offered(concurrency * ONE, isl * ONE, osl * ONE, 10 * concurrency * ONE)
    found = sweep(LLAMA, "closed_loop", deployments(tp), plain)
    same = served(0.0, tp, concurrency, isl, osl)
    for metric in ("ttft_s", "tpot_s", "e2e_latency_s", "output_tok_s", "total_tok_s"):
        assert np.array_equal(getattr(found, metric), getattr(same, metric)), metric


@settings(max_examples=150, deadline=None)
@given(**CASES, one=st.floats(0, 1), other=st.floats(0, 1))
def test_more_cached_never_raises_latency_or_lowers_throughput(
    tp: int, concurrency: int, isl: int, osl: int, one: float, other: float
) -> None:
    fewer, more = (
        served(share * (isl - 1), tp, concurrency, isl, osl) for share in sorted((one, other))
    )
    assert more.e2e_latency_s <= fewer.e2e_latency_s * (1 + 1e-9)
    assert more.output_tok_s >= fewer.output_tok_s * (1 - 1e-9)


@settings(max_examples=150, deadline=None)
@given(**CASES, one=st.floats(0, 1), other=st.floats(0, 1))
def test_more_cached_never_raises_ttft(
    tp: int, concurrency: int, isl: int, osl: int, one: float, other: float
) -> None:
    """Where the engine is what limits: tokens that come sooner wait in a server that is slower."""
    plain = LLAMA.setting
    setting = replace(plain, coefficients={**plain.coefficients, "handle": 0.0, "stream": 0.0})
    fewer, more = (
        closed_loop(
            setting,
            make_load(
                LLAMA.arch,
                LLAMA.platform,
                setting.kv_dtype,
                deployments(tp),
                offered(share * (isl - 1), concurrency, isl, osl),
            ),
        )
        for share in sorted((one, other))
    )
    assert more.ttft_s <= fewer.ttft_s * (1 + 1e-9)


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
@pytest.mark.parametrize(("tp_size", "concurrency"), [(1, 4), (1, 128), (2, 32), (8, 32)])
def test_a_simulated_trace_with_the_same_share_gives_the_same(
    tp_size: int, concurrency: int
) -> None:
    """A system prompt of 3,072 tokens; at TP=1 and 128 in flight the cache limits the batch."""
    deployment = Deployment("llama-3.1-70b", "h200", Layout(tp_size), dtypes=Dtypes("fp8"))
    n, cached = 20 * concurrency, 3072
    rng = np.random.default_rng(0)  # lengths spread, or all clients would stay in step
    own = np.rint(500 * rng.uniform(0.8, 1.2, n)).astype(np.int64)
    osl = np.rint(500 * rng.uniform(0.8, 1.2, n)).astype(np.int64)
    shared = one_prefix(np.zeros(n, np.int64), np.array([cached]))
    trace = make_trace(np.zeros(n), cached + own, osl, shared)
    found = simulate([make_group(deployment)], trace, concurrency=concurrency)
    load = Workload(cached + 500, 500, concurrency, requests=n, cached_tokens=cached)
    expected = predict(LLAMA, [deployment], [load])[0].metrics
    for metric, tolerance in (("tpot_s", 0.05), ("e2e_latency_s", 0.05), ("ttft_s", 0.25)):
        mean = found.percentiles(metric).mean
        assert mean == pytest.approx(expected[metric].value, rel=tolerance), metric


ROW = {
    **{"model_id": "llama-3.1-70b", "gpu_id": "h200", "engine_id": "vllm", "tp": "2"},
    **{"weight_dtype": "fp8", "mode": "closed_loop", "concurrency": "16"},
    **{"isl": "4000", "osl": "500"},
}


def test_a_row_says_what_is_cached_in_a_column() -> None:
    rows = [ROW, {**ROW, "cached_tokens": "3000"}, {**ROW, "cached_tokens": "0"}]
    (none, most, zero), problems = predict_table(rows, bundled_profile())
    assert not problems
    assert float(most["pred_ttft_ms"]) < 0.5 * float(none["pred_ttft_ms"])
    assert {**none, "cached_tokens": "0"} == zero


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"cached_tokens": "4000"}, "allowed: 0 to 3999"),
        ({"cached_tokens": "-1"}, "cached_tokens is '-1'"),
        (
            {"cached_tokens": "9", "engine_id": "atom", "gpu_id": "mi300x"},
            "does not cache prefixes",
        ),
    ],
)
def test_a_row_that_cannot_be_cached_says_why(cells: dict[str, str], says: str) -> None:
    done, _ = predict_table([{**ROW, **cells}], bundled_profile())
    assert says in done[0]["pred_note"]


def test_more_is_never_cached_than_a_prompt_has() -> None:
    with pytest.raises(InputError, match="allowed: 0 to 99"):
        Workload(100, 10, 1, cached_tokens=100)


def test_a_closed_loop_counts_cached_tokens_as_input() -> None:
    load = loaded(3000.0)
    found = closed_loop(LLAMA.setting, load)
    assert found.total_tok_s == pytest.approx(found.output_tok_s * 9.0)  # 4,000 + 500 to 500
