"""Serving: the closed loop, static batches and the throughput limit obey their own laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.reference import FOLDER, needs_reference

from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import Deployment, Layout
from shardwise.perfmodel.estimate import Subject, predict
from shardwise.perfmodel.loads import Load, Offered, make_load
from shardwise.perfmodel.rows import parse_rows, read_table
from shardwise.perfmodel.serving import closed_loop, max_throughput, static_batch
from shardwise.perfmodel.serving_steps import mean_context
from shardwise.perfmodel.step import Setting
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.workload.workload import Workload

LLAMA, _ = subject_of(Asked("llama-3.1-70b", "h200", weight_dtype="fp8", kv_dtype="fp8"))


def offered(
    tp: float,
    concurrency: float,
    isl: float,
    osl: float,
    seqs: float = 4096.0,
    subject: Subject = LLAMA,
) -> tuple[Setting, Load]:
    one = np.ones(1)
    deployments = Deployments(Layouts.of([Layout(int(tp))]), seqs * one, 8192.0 * one, 0.9 * one)
    asked = Offered(concurrency * one, isl * one, osl * one, 10 * concurrency * one)
    s = subject.setting
    return s, make_load(subject.arch, subject.platform, s.kv_dtype, deployments, asked)


def subject_on(model: str, gpu: str, engine: str) -> Subject:
    return subject_of(Asked(model, gpu, engine))[0]


GPT_OSS = subject_on("gpt-oss-120b", "h200", "trtllm")
SUBJECTS = [
    subject_on(model, gpu, engine)
    for model in ("llama-3.1-70b", "qwen3-0.6b", "gpt-oss-120b")
    for gpu, engine in (
        ("h200", "vllm"),
        ("mi300x", "vllm"),
        ("b200", "sglang"),
        ("h100", "trtllm"),
    )
]


LOADS = {
    "tp": st.sampled_from([1.0, 2.0, 4.0, 8.0]),
    "concurrency": st.integers(1, 512),
    "isl": st.integers(1, 16_000),
    "osl": st.integers(2, 8_000),
}


def test_a_server_slower_than_its_engine_shows_in_ttft_and_not_in_tpot() -> None:
    sglang = subject_on("llama-3.1-70b", "h200", "sglang")
    quick, load = offered(8.0, 64.0, 1024.0, 512.0, subject=sglang)
    quick = replace(quick, coefficients={**quick.coefficients, "handle": 0.0})
    slow = replace(quick, coefficients={**quick.coefficients, "stream": 1e-3})
    at_once, queued = closed_loop(quick, load), closed_loop(slow, load)
    assert queued.tpot_s == pytest.approx(at_once.tpot_s)
    # 64 x 512 tokens of 1 ms each: 32.8 s until all have passed, where the engine needs 6
    assert queued.e2e_latency_s == pytest.approx(32.768, rel=1e-3)


@settings(max_examples=80, deadline=None)
@given(**LOADS)
def test_closed_loop_keeps_littles_law_and_the_definition_of_tpot(
    tp: float, concurrency: int, isl: int, osl: int
) -> None:
    found = closed_loop(*offered(tp, concurrency, isl, osl))
    e2e = found.ttft_s + found.tpot_s * (osl - 1)
    assert found.e2e_latency_s == pytest.approx(e2e)
    # requests in flight = requests per second x time in the system
    assert found.output_tok_s / osl * found.e2e_latency_s == pytest.approx(concurrency)
    assert found.ttft_s > 0
    assert found.batch <= concurrency
    assert found.total_tok_s == pytest.approx(found.output_tok_s * (1 + isl / osl))


@settings(max_examples=60, deadline=None)
@given(**LOADS)
def test_what_the_cache_cannot_hold_waits(tp: float, concurrency: int, isl: int, osl: int) -> None:
    s, load = offered(tp, concurrency, isl, osl)
    found = closed_loop(s, load)
    # lengths spread by as much as their mean: the answers in a step are twice the mean one
    in_flight = isl + osl
    needed = concurrency * in_flight
    assert bool(found.kv_limited[0]) == bool(
        load.kv_capacity_tokens[0] < needed and concurrency > 1
    )
    assert found.batch * in_flight <= max(load.kv_capacity_tokens[0] * 1.001, in_flight)


@settings(max_examples=150, deadline=None)
@given(subject=st.sampled_from(SUBJECTS), length_cv=st.sampled_from([0.0, 1.0]), **LOADS)
def test_ttft_never_rises_when_load_falls(
    subject: Subject, length_cv: float, tp: float, concurrency: int, isl: int, osl: int
) -> None:
    def ttft(streams: float) -> float:
        s, load = offered(tp, streams, isl, osl, subject=subject)
        return float(closed_loop(s, replace(load, length_cv=length_cv)).ttft_s[0])

    assert ttft(concurrency) <= ttft(2.0 * concurrency) * (1 + 1e-3)


@settings(max_examples=150, deadline=None)
# layers with a window, an engine that counts the whole output, and memory for fewer than ask
@example(
    subject=subject_on("gpt-oss-120b", "h100", "trtllm"),
    length_cv=1.0, tp=1.0, concurrency=310, isl=1, osl=298,
)  # fmt: skip
@example(
    subject=subject_on("qwen3-0.6b", "h100", "trtllm"),
    length_cv=1.0, tp=2.0, concurrency=18, isl=15, osl=2,
)  # fmt: skip
@given(subject=st.sampled_from(SUBJECTS), length_cv=st.sampled_from([0.0, 1.0]), **LOADS)
def test_ttft_never_falls_when_prompts_grow(
    subject: Subject, length_cv: float, tp: float, concurrency: int, isl: int, osl: int
) -> None:
    # where the server is slower than its engine, what is left to wait for shrinks instead
    def ttft(tokens: float) -> float:
        s, load = offered(tp, concurrency, tokens, osl, subject=subject)
        engine = {**s.coefficients, "handle": 1e-9, "stream": 1e-9}
        load = replace(load, length_cv=length_cv)
        return float(closed_loop(replace(s, coefficients=engine), load).ttft_s[0])

    # short answers: with longer prompts, fewer sequences decode at a time, which is worth 0.002 %
    assert ttft(1.5 * isl) >= ttft(isl) * (1 - 1e-3)


@needs_reference
def test_ttft_was_measured_to_fall_with_longer_prompts_where_the_server_binds() -> None:
    """Llama 8B on two H100, TensorRT-LLM 1.0.0rc3, 128 streams, 512 tokens out: 1,106, 732 and
    652 ms for prompts of 1,024, 2,048 and 4,096 tokens."""
    _, table = read_table(FOLDER / "measurements.csv")
    rows = parse_rows(table)[0]
    found = {
        row.isl: row.observed["ttft_s"]
        for row in rows
        if (row.model, row.engine, row.tp_size, row.concurrency, row.osl)
        == ("llama-3.1-8b", "trtllm", 2, 128, 512)
    }
    assert found[1024] > found[2048] > found[4096]


def test_vllm_joins_tokens_of_a_stream_that_its_server_falls_behind_with() -> None:
    s, load = offered(8.0, 64.0, 1024.0, 512.0)
    slow = replace(s, coefficients={**s.coefficients, "stream": 1e-3})
    assert closed_loop(slow, load).ttft_s == pytest.approx(closed_loop(s, load).ttft_s)


def test_trtllm_admits_a_request_with_room_for_its_whole_output() -> None:
    """`GUARANTEED_NO_EVICT`: 70B fp8 on one H200, 922 tokens in and 7,373 out, ran 47 of 64."""
    fp8 = Asked("llama-3.1-70b", "h200", "trtllm", weight_dtype="fp8", kv_dtype="fp8")
    trtllm = subject_of(fp8)[0]
    s, load = offered(1.0, 64.0, 922.0, 7373.0, subject=trtllm)
    found = closed_loop(s, replace(load, length_cv=0.0))
    assert 44 <= found.batch[0] <= 52
    s, load = offered(1.0, 64.0, 922.0, 7373.0)  # vLLM
    assert not closed_loop(s, replace(load, length_cv=0.0)).kv_limited[0]


def test_requests_that_are_gathered_wait_for_each_other() -> None:
    s, load = offered(4.0, 32.0, 1024.0, 512.0)
    at_once = closed_loop(s, load)
    gathered = closed_loop(s, replace(load, gather_steps=30.0, gather_wait=14.5))
    step = float(at_once.tpot_s[0])
    assert float(gathered.ttft_s[0] - at_once.ttft_s[0]) > 12 * step
    assert gathered.tpot_s == pytest.approx(at_once.tpot_s, rel=0.1)


def test_a_request_waits_for_the_step_that_is_already_scheduled() -> None:
    s, load = offered(4.0, 32.0, 1024.0, 512.0)
    now = closed_loop(s, replace(load, steps_ahead=0.0))
    ahead = closed_loop(s, replace(load, steps_ahead=1.0))
    # 31 of 32 requests find a step that runs; each waits for one more of about a TPOT
    waited = float(ahead.ttft_s[0] - now.ttft_s[0])
    assert waited == pytest.approx(31 / 32 * float(now.tpot_s[0]), rel=0.1)


def test_h200_holds_about_46_of_64_long_requests() -> None:
    # 143,771 MiB x 0.9 = 135.7 GB - 72.7 GB of weights - about 3 GB = 60 GB; fp8 KV of 70B:
    # 80 layers x 2 x 8 x 128 = 163,840 bytes a token; 7,373 + 922 / 2 tokens each: 1.28 GB
    s, load = offered(1.0, 64.0, 7372.8, 921.6)
    found = closed_loop(s, replace(load, length_cv=0.0))
    assert 44 <= found.batch[0] <= 48
    assert found.kv_limited[0]


def test_static_batch_ends_with_its_last_token() -> None:
    found = static_batch(*offered(8.0, 16.0, 2048.0, 2048.0))
    assert found.e2e_latency_s == pytest.approx(found.ttft_s + 2047 * found.tpot_s)
    assert found.output_tok_s == pytest.approx(16 * 2048 / found.e2e_latency_s)


def test_a_queue_of_everything_gives_more_throughput_than_a_small_closed_loop() -> None:
    all_queued = max_throughput(*offered(1.0, 1e6, 1000.0, 1000.0, seqs=2048.0))
    few = closed_loop(*offered(1.0, 8.0, 1000.0, 1000.0))
    assert all_queued.output_tok_s[0] > 2 * few.output_tok_s[0]


def test_copies_of_attention_prefill_at_once_where_queued_requests_are_equal() -> None:
    def gain(copies: int) -> float:
        layout, one = Layout(1, 1, copies, copies), np.ones(1)
        limits = Deployments(Layouts.of([layout]), 4096.0 * one, 8192.0 * one, 0.9 * one)
        asked = Offered(500.0 * one, 8000.0 * one, 1000.0 * one, 2500.0 * one)
        s = GPT_OSS.setting
        load = make_load(GPT_OSS.arch, GPT_OSS.platform, s.kv_dtype, limits, asked)
        equal, spread = (max_throughput(s, replace(load, length_cv=x)) for x in (0.0, 0.3))
        return float((equal.output_tok_s / spread.output_tok_s)[0])

    # else seven of eight replicas wait while one prefills
    assert gain(8) > gain(1) + 0.1


def test_a_prediction_carries_causes_that_add_up_to_its_latency() -> None:
    deployment = Deployment(
        model="llama-3.1-70b",
        gpu="h200",
        layout=Layout(tp_size=4),
    )
    (found,) = predict(LLAMA, [deployment], [Workload(1024, 1024, 16)])
    e2e = found.metrics["e2e_latency_s"]
    assert sum(found.breakdown.values()) == pytest.approx(e2e.value, rel=1e-6)
    assert e2e.lo < e2e.value < e2e.hi
    assert found.source.kind == "predicted"


def test_an_uncalibrated_gpu_says_so_and_is_less_sure() -> None:
    gb200, _ = subject_of(Asked("llama-3.1-70b", "gb200", weight_dtype="fp8"))

    def spread(subject: object) -> float:
        deployment = Deployment(
            model="llama-3.1-70b",
            gpu="x",
            layout=Layout(tp_size=4),
        )
        (found,) = predict(subject, [deployment], [Workload(512, 512, 4)])  # type: ignore[arg-type]
        tpot = found.metrics["tpot_s"]
        assert ("not calibrated" in found.source.note or "not calibrated" in found.source.name) == (
            subject is gb200
        )
        return math.log(tpot.hi / tpot.lo)

    assert spread(gb200) > 1.5 * spread(LLAMA)


def test_a_model_that_was_not_measured_says_so_and_is_less_sure() -> None:
    qwen, _ = subject_of(Asked("qwen3-32b", "h200", weight_dtype="fp8", kv_dtype="fp8"))
    deployment, load = (
        Deployment(
            model="x",
            gpu="h200",
            layout=Layout(tp_size=4),
        ),
        [Workload(512, 512, 4)],
    )
    (known,), (new,) = predict(LLAMA, [deployment], load), predict(qwen, [deployment], load)
    assert "not seen" in new.source.name
    assert "not seen" not in known.source.name
    for metric in ("ttft_s", "tpot_s", "e2e_latency_s", "output_tok_s"):
        one, other = known.metrics[metric], new.metrics[metric]
        assert math.log(other.hi / other.lo) > math.log(one.hi / one.lo)


def test_nobody_waits_for_a_first_burst_at_a_rate() -> None:
    deployment = Deployment("llama-3.1-70b", "h200", Layout(tp_size=4))
    loop, rate = (
        predict(LLAMA, [deployment], [Workload(1024, 512, 32, request_rate=r)])[0].metrics
        for r in (None, 4.0)
    )
    assert rate["ttft_s"].value < loop["ttft_s"].value
    assert rate["tpot_s"].value == pytest.approx(loop["tpot_s"].value, rel=0.02)


def test_a_step_holds_long_answers_more_often_than_short_ones() -> None:
    # two answers of 100 and 300 tokens: cv 0.5; of 400 steps 300 are the long one's, at 150 on
    # average, 100 the short one's, at 50: 125 = 200 x (1 + 0.25) / 2
    _, load = offered(1.0, 2.0, 1.0, 200.0)
    found = mean_context(replace(load, isl=np.zeros(1), length_cv=0.5))
    assert found == pytest.approx(125.0)


def test_lengths_that_differ_do_not_stay_in_step() -> None:
    s, load = offered(4.0, 32.0, 1024.0, 512.0)
    equal, spread = (closed_loop(s, replace(load, length_cv=cv)) for cv in (0.0, 0.3))
    assert spread.ttft_s < equal.ttft_s
    # what they wait for before the first token, they no longer wait for between tokens
    assert spread.tpot_s > equal.tpot_s
    assert spread.e2e_latency_s == pytest.approx(equal.e2e_latency_s, rel=0.02)
