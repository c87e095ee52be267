"""Tables against the performance model's step times; the run against its closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from shardwise.architecture.bundled import stored_in
from shardwise.architecture.models import load
from shardwise.errors import InputError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.layout.speculation import Speculation
from shardwise.perfmodel.estimate import Subject, predict
from shardwise.perfmodel.loads import Load, Offered, make_load
from shardwise.perfmodel.profiles import bundled_profile, calibrated
from shardwise.perfmodel.serving import closed_loop, max_throughput
from shardwise.perfmodel.step import step_time
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.simulator import compiling
from shardwise.simulator.closed_loop import ClosedLoop, draw_evenly
from shardwise.simulator.compiling import HAS_NUMBA
from shardwise.simulator.fleet import Group, make_fleet, make_group
from shardwise.simulator.scheduling import Scheduling
from shardwise.simulator.simulate import simulate
from shardwise.simulator.state import Sim, new_loop, new_replicas, new_requests
from shardwise.simulator.stepping import attention_of, base_and_slope, mixed_step_s
from shardwise.simulator.steptable import measured_table
from shardwise.simulator.trace import make_trace
from shardwise.simulator.traffic import Lengths, Traffic, draw
from shardwise.workload.workload import Workload


def subject(deployment: Deployment) -> Subject:
    catalogue = default_catalogue()
    gpu = catalogue.gpu(deployment.gpu)
    siblings = catalogue.by_id
    seen = calibrated(bundled_profile(), gpu, deployment.engine, siblings)
    stored = stored_in(load(deployment.model), deployment.dtypes.weight)
    return Subject(stored, gpu, deployment.engine, deployment.dtypes.kv, seen)


def replica(group: Group, sequences: int, context: int) -> Sim:
    """One replica with `sequences` decoding, each at `context`."""
    fleet = make_fleet([group])
    replicas = new_replicas(fleet, 0)
    replicas.running[0], replicas.context[0] = sequences, sequences * context
    trace = make_trace(np.zeros(1), np.ones(1, dtype=np.int64), np.ones(1, dtype=np.int64))
    return Sim(fleet, new_requests(trace, trace.model), replicas, new_loop(0, trace, 0))


def test_the_engine_version_counts_as_it_does_in_a_prediction() -> None:
    named = Deployment("gpt-oss-120b", "h200", Layout(tp_size=2), engine_version="0.18.0")
    unnamed = replace(named, engine_version="")
    seen = replace(subject(named), engine_version="0.18.0")
    seen = replace(seen, calibrated=replace(seen.calibrated, version="0.18.0"))
    assert make_group(named).delay_s == seen.setting.coefficients["request"]
    assert make_group(named).delay_s != make_group(unnamed).delay_s


@pytest.mark.parametrize(
    ("model", "tp_size"),
    [("llama-3.1-70b", 1), ("llama-3.1-70b", 8), ("mixtral-8x7b", 2), ("gpt-oss-120b", 2)],
)
def test_a_step_from_the_table_is_near_the_models_own(model: str, tp_size: int) -> None:
    deployment = Deployment(
        model=model,
        gpu="h200",
        layout=Layout(tp_size=tp_size),
        dtypes=Dtypes(weight="fp8"),
    )
    group = replace(make_group(deployment), scheduling=Scheduling())  # no graphs: no padding
    setting = subject(deployment).setting
    layouts = Layouts.of([deployment.layout])
    for sequences, context, prompt, earlier in (
        (1, 50, 0, 0), (40, 100, 0, 0), (40, 3000, 0, 0), (200, 600, 0, 0),
        (0, 0, 512, 0), (0, 0, 4000, 3000), (1, 900, 17, 0), (63, 2000, 900, 100),
        (255, 90, 7000, 0),
    ):  # fmt: skip
        sim = replica(group, sequences, context)
        if prompt:
            attention = attention_of(sim, 0, prompt, earlier)
            found = mixed_step_s(sim, 0, sequences, prompt, prompt, attention)[0]
        else:
            found = base_and_slope(sim, 0)[0]
        expected = step_time(
            setting, setting.kernels(layouts),
            np.array(1.0 * sequences), np.array(1.0 * context),
            np.array(1.0 * prompt), np.array(earlier + prompt / 2),
            as_graphs=float(sequences + prompt <= group.table.graph_tokens),
        ).total  # fmt: skip
        assert found == pytest.approx(float(expected[0]), rel=0.02), (sequences, prompt)


def test_a_pipelines_step_has_the_further_stages_host_time_and_hand_over() -> None:
    deployment = Deployment(
        model="llama-3.1-70b",
        gpu="h200",
        layout=Layout(tp_size=2, pp_size=4),
        dtypes=Dtypes(weight="fp8"),
    )
    setting = subject(deployment).setting
    group = replace(make_group(deployment), scheduling=Scheduling())
    layouts, none = Layouts.of([deployment.layout]), np.array(0.0)
    micro = np.array(10.0)  # 40 sequences in 4 micro-batches
    alone = step_time(setting, setting.kernels(layouts), micro, none, none, none)
    # 3 further stages: host time each, and 10 x 8192 x 2 bytes over one link
    sent = 10 * 8192 * 2 / setting.gpu.interconnect.peer_bandwidth(2)
    expected = float(alone.total[0]) + 3 * (setting.coefficients["step"] + sent)
    assert base_and_slope(replica(group, 40, 0), 0)[0] == pytest.approx(expected)
    flat = make_group(
        Deployment(
            model="llama-3.1-70b",
            gpu="h200",
            layout=Layout(tp_size=2),
            dtypes=Dtypes(weight="fp8"),
        )
    )
    assert group.half_widths["tpot_s"] > flat.half_widths["tpot_s"]  # no PP row was ever fitted


def test_every_compiled_file_is_part_of_the_key_of_compiled_code() -> None:
    folder = Path(compiling.__file__).parent
    found = {p.stem for p in folder.glob("*.py") if "@compiled" in p.read_text("utf-8")}
    assert found | {"compiling", "state"} == set(compiling.SOURCES)


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
@pytest.mark.parametrize("tp_size", [1, 2, 8])
@pytest.mark.parametrize("concurrency", [4, 32])
def test_a_closed_loop_agrees_with_the_performance_models_closed_form(
    tp_size: int, concurrency: int
) -> None:
    deployment = Deployment(
        model="llama-3.1-70b",
        gpu="h200",
        layout=Layout(tp_size=tp_size),
        dtypes=Dtypes(weight="fp8"),
    )
    n = 20 * concurrency
    rng = np.random.default_rng(0)  # lengths spread, or all clients would stay in step
    isl = np.rint(1000 * rng.uniform(0.8, 1.2, n)).astype(np.int64)
    osl = np.rint(500 * rng.uniform(0.8, 1.2, n)).astype(np.int64)
    trace = make_trace(np.zeros(n), isl, osl)
    result = simulate([make_group(deployment)], trace, concurrency=concurrency)
    workload = Workload(1000, 500, concurrency, requests=n)
    expected = predict(subject(deployment), [deployment], [workload])[0].metrics
    for metric, tolerance in (("tpot_s", 0.05), ("e2e_latency_s", 0.05), ("ttft_s", 0.25)):
        found = result.percentiles(metric).mean
        assert found == pytest.approx(expected[metric].value, rel=tolerance), metric


LAYOUTS = [
    ("llama-3.1-70b", "h200", Layout(tp_size=2, pp_size=2), "none", 32),
    ("gpt-oss-120b", "h200", Layout(tp_size=4, ep_size=4), "none", 32),
    ("deepseek-r1", "b200", Layout(attention_dp=8, ep_size=8), "none", 64),
    ("deepseek-r1", "b200", Layout(tp_size=8), "mtp:2", 32),
    ("llama-3.1-70b", "h200", Layout(tp_size=4), "llama-3.2-1b:4", 16),
]


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
@pytest.mark.parametrize(("model", "gpu", "layout", "drafted", "concurrency"), LAYOUTS)
def test_layouts_and_drafts_agree_with_the_closed_form(
    model: str, gpu: str, layout: Layout, drafted: str, concurrency: int
) -> None:
    speculation = Speculation.parse(drafted, None)
    deployment = Deployment(model, gpu, layout, speculation=speculation)
    known, _ = subject_of(Asked(model, gpu, speculation=speculation))
    workload = Workload(1000, 500, concurrency, length_spread=0.5, requests=20 * concurrency)
    lengths = Lengths(1000, workload.length_cv), Lengths(500, workload.length_cv)
    trace = draw(Traffic(20.0 * concurrency, *lengths, 1.0))
    result = simulate([make_group(deployment)], trace, concurrency=concurrency)
    expected = predict(known, [deployment], [workload])[0].metrics
    for metric, tolerance in (("tpot_s", 0.07), ("e2e_latency_s", 0.08), ("ttft_s", 0.3)):
        found = result.percentiles(metric).mean
        assert found == pytest.approx(expected[metric].value, rel=tolerance), metric


def test_one_prompt_takes_longer_than_two_halves_in_two_copies_of_attention() -> None:
    deployment = Deployment("deepseek-r1", "b200", Layout(attention_dp=8, ep_size=8))
    sim = replica(make_group(deployment), 64, 500)
    one, _ = mixed_step_s(sim, 0, 64, 4000, 4000, 0.0)
    two, _ = mixed_step_s(sim, 0, 64, 4000, 2000, 0.0)
    even, _ = mixed_step_s(sim, 0, 64, 4000, 500, 0.0)
    assert one > two > even


def test_drafted_tokens_shorten_a_token_and_not_a_prompt() -> None:
    plain = Deployment("llama-3.1-70b", "h200", Layout(tp_size=4))
    drafts = replace(plain, speculation=Speculation.parse("llama-3.2-1b:4", 0.6))
    without, with_drafts = (replica(make_group(d), 8, 500) for d in (plain, drafts))
    assert base_and_slope(with_drafts, 0)[0] < base_and_slope(without, 0)[0]
    whole, token = mixed_step_s(with_drafts, 0, 8, 1000, 1000, 0.0)
    assert token < whole  # the others have their next token before the step ends
    assert whole > mixed_step_s(without, 0, 8, 1000, 1000, 0.0)[0]  # it verifies 5 tokens each


def test_a_layout_that_the_engine_cannot_run_is_refused() -> None:
    with pytest.raises(InputError, match="attention DP=2 needs experts"):
        make_group(Deployment("llama-3.1-8b", "h200", Layout(attention_dp=2)))


def test_a_measured_table_is_straight_between_its_points_and_beyond_them() -> None:
    # decode 10 ms at 1, 14 at 3; prompts: 10 ms at 1 token (a decode step), 30 at 101, 50 at 201
    table = measured_table({1: 0.010, 3: 0.014}, {101: 0.030, 201: 0.050}, 1e-6, 4, 300)
    assert table.decode[2] == pytest.approx(0.012)
    assert table.decode[5] == pytest.approx(0.018)
    assert table.prompt[51] == pytest.approx(0.020)
    assert table.prompt[301] == pytest.approx(0.070)
    with pytest.raises(InputError, match="1 measured step times; needed: two or more"):
        measured_table({1: 0.01}, {101: 0.03, 201: 0.05}, 0.0, 4, 300)


QUEUES = [
    ("llama-3.1-8b", "h100", Layout(), 1500, 2048, 128),
    ("llama-3.1-8b", "h100", Layout(), 1000, 1000, 1000),
    ("qwen3-30b-a3b", "rtx-pro-6000", Layout(attention_dp=4, ep_size=4), 600, 2048, 1024),
    ("qwen3-30b-a3b", "rtx-pro-6000", Layout(attention_dp=8, ep_size=8), 1000, 5000, 500),
]


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
@pytest.mark.parametrize(("model", "gpu", "layout", "n", "isl", "osl"), QUEUES)
def test_a_queue_of_equal_requests_agrees_with_the_closed_form(
    model: str, gpu: str, layout: Layout, n: int, isl: int, osl: int
) -> None:
    deployment = Deployment(model, gpu, layout, engine="trtllm")
    trace = make_trace(np.zeros(n), np.full(n, isl), np.full(n, osl))
    result = simulate([make_group(deployment)], trace, concurrency=n)
    workload = Workload(isl, osl, n, mode="max_throughput", length_spread=0.0, requests=n)
    expected = predict(subject(deployment), [deployment], [workload])[0].metrics["output_tok_s"]
    requests = result.requests
    run = float((requests.arrival + result.latency("e2e_latency_s")).max())
    assert n * osl / run == pytest.approx(expected.value, rel=0.02)


LARGE = Deployment("llama-3.1-70b", "h200", dtypes=Dtypes("fp8", "fp8"))


def with_cache(tokens: float) -> Group:
    return replace(make_group(LARGE), kv_capacity_tokens=int(tokens), max_context=10**6)


def offered_to(cache: float, n: int, isl: int, osl: int, requests: int, cv: float) -> Load:
    """The load of one replica with a KV cache of `cache` tokens."""
    asked = subject(LARGE)
    many = (np.array([float(v)]) for v in (n, isl, osl, requests, cv))
    offered = Offered(*many)
    load = make_load(asked.arch, asked.platform, "fp8", Deployments.of([LARGE]), offered)
    return replace(load, kv_capacity_tokens=np.array([cache]))


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
@pytest.mark.parametrize(("isl", "osl"), [(921, 7372), (1000, 1000), (7372, 921)])
@pytest.mark.parametrize("share", [0.3, 0.8, 1.0, 1.1])
def test_a_loop_near_the_caches_size_waits_as_long_as_in_the_closed_form(
    isl: int, osl: int, share: float
) -> None:
    """`share`: of the tokens that all requests hold on average."""
    n, cv = 64, 0.064
    cache = share * n * (isl + osl / 2)
    traffic = Traffic(1.0, Lengths(isl, cv), Lengths(osl, cv))
    loop = ClosedLoop(n, lambda count: draw_evenly(traffic, count, 10 * n))
    result = loop.run([with_cache(cache)])
    served = closed_loop(subject(LARGE).setting, offered_to(cache, n, isl, osl, 10 * n, cv))
    for metric, tolerance in (("e2e_latency_s", 0.05), ("ttft_s", 0.45)):
        expected = float(getattr(served, metric)[0])
        assert result.percentiles(metric).mean == pytest.approx(expected, rel=tolerance), metric


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
@pytest.mark.parametrize(("isl", "osl"), [(128, 2048), (1000, 1000), (2048, 128)])
def test_a_queue_beyond_the_caches_size_computes_preempted_prompts_again(
    isl: int, osl: int
) -> None:
    n, cache = 800, 100_000.0
    trace = make_trace(np.zeros(n), np.full(n, isl), np.full(n, osl))
    result = simulate([with_cache(cache)], trace, concurrency=n)
    run = float((result.requests.arrival + result.latency("e2e_latency_s")).max())
    served = max_throughput(subject(LARGE).setting, offered_to(cache, n, isl, osl, n, 0.0))
    # 25, 25 and 7 % too fast if no prompt were computed twice
    assert n * osl / run == pytest.approx(float(served.output_tok_s[0]), rel=0.04)
