"""Throughput of a run with everything queued includes its end, when fewer and fewer run."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import Deployment, EngineLimits, Layout
from shardwise.perfmodel.emptying import emptying_s
from shardwise.perfmodel.loads import Load, Offered, make_load
from shardwise.perfmodel.serving import max_throughput
from shardwise.perfmodel.serving_steps import decode_step
from shardwise.perfmodel.step import Setting
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.simulator.fleet import make_group
from shardwise.simulator.simulate import simulate
from shardwise.simulator.trace import make_trace

MODEL = "llama-3.1-8b"
SUBJECT, _ = subject_of(Asked(MODEL, "h100", "vllm"))


def queued(requests: float, cv: float, seqs: float = 256.0) -> tuple[Setting, Load]:
    """`requests` of 215 and 196 tokens, all queued at once."""
    one = np.ones(1)
    limits = Deployments(Layouts.of([Layout()]), seqs * one, 8192.0 * one, 0.9 * one)
    offered = Offered(requests * one, 215.0 * one, 196.0 * one, requests * one, cv)
    s = SUBJECT.setting
    return s, make_load(SUBJECT.arch, SUBJECT.platform, s.kv_dtype, limits, offered)


def throughput(requests: float, cv: float, seqs: float = 256.0) -> float:
    return float(max_throughput(*queued(requests, cv, seqs)).output_tok_s[0])


def test_equal_requests_that_begin_together_end_together() -> None:
    setting, load = queued(256.0, 0.0)
    whole = 256.0 * 196.0 / throughput(256.0, 0.0)
    assert abs(float(emptying_s(setting, load, np.array([256.0]))[0])) < 0.03 * whole


def test_a_lone_request_has_no_end_of_its_own() -> None:
    setting, load = queued(1.0, 0.0)
    assert float(emptying_s(setting, load, np.ones(1))[0]) == pytest.approx(0.0, abs=1e-6)


def test_the_end_of_a_long_run_does_not_count() -> None:
    assert throughput(1e6, 1.0) == pytest.approx(throughput(1e9, 1.0), rel=2e-3)


def test_more_spread_and_fewer_requests_make_a_run_less_efficient() -> None:
    found = [[throughput(n, cv) for n in (256, 1000, 4000, 64000)] for cv in (0.25, 0.5, 1.0)]
    assert np.all(np.diff(found, axis=1) > 0)
    assert np.all(np.diff(found, axis=0) < 0)


def test_equal_requests_run_in_whole_waves() -> None:
    def run_s(requests: float) -> float:
        return requests * 196.0 / throughput(requests, 0.0)

    assert run_s(1024.0) == pytest.approx(4 * run_s(256.0))
    # a request more has a wave of its own: at least its 195 steps alone
    s, load = queued(1.0, 0.0)
    alone = 195 * float(decode_step(s, load, np.ones(1)).total[0])
    assert run_s(1025.0) - run_s(1024.0) == pytest.approx(alone, rel=0.05)
    assert run_s(1279.0) < run_s(1280.0) < 1.01 * run_s(1279.0)


@pytest.mark.parametrize(("cv", "seqs"), [(0.0, 256), (0.25, 256), (1.0, 256), (1.0, 1024)])
def test_the_simulator_takes_as_long(cv: float, seqs: int) -> None:
    """1,000 requests at once; the simulator knows nothing of Weibull lengths."""
    rng, n = np.random.default_rng(0), 1000

    def lengths(mean: float) -> np.ndarray:
        if not cv:
            return np.full(n, int(mean))
        drawn = rng.gamma(cv**-2, mean * cv**2, n)
        return np.maximum(np.rint(drawn), 1).astype(np.int64)

    isl, osl = lengths(215.0), lengths(196.0)
    group = make_group(Deployment(MODEL, "h100", Layout(), EngineLimits(max_num_seqs=seqs)))
    found = simulate([group], make_trace(np.zeros(n), isl, osl))
    simulated = osl.sum() / float(found.latency("e2e_latency_s").max())
    setting, load = queued(n, cv, seqs)
    load = replace(load, isl=np.array([isl.mean()]), osl=np.array([osl.mean()]))
    predicted = float(max_throughput(setting, load).output_tok_s[0])
    assert predicted == pytest.approx(simulated, rel=0.08 if cv else 0.02)
