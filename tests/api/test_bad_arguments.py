"""An argument that cannot be used is refused by name before any work, by every function."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from shardwise import (
    Deployment,
    Dtypes,
    EngineLimits,
    InputError,
    Layout,
    Stage,
    Workload,
    compare_kinds,
    plan,
    plan_percentiles,
    predict,
    search,
    simulate,
    simulate_day,
    study,
    study_layouts,
)
from shardwise.api.seeds import require_seed
from shardwise.api.simulation import require_warmup
from shardwise.layout.deployment import FixedLimits
from shardwise.simulator.traffic import Lengths, Traffic, draw

MODEL: Final = "llama-3.1-8b"
H200: Final = Deployment(MODEL, "h200")
NAN: Final = math.nan
LOAD: Final[dict[str, Any]] = {"isl": 1000, "osl": 200}
SHORT: Final[dict[str, Any]] = {"isl": 200, "osl": 20}

CALLS: Final[dict[str, Callable[..., Any]]] = {
    "plan": lambda **given: plan(MODEL, **{"gpu": "h200", "concurrency": 16, **LOAD, **given}),
    "kinds": lambda **given: compare_kinds(
        MODEL, **{"kinds": ["h200"], "concurrency": 16, **LOAD, **given}
    ),
    "percentiles": lambda **given: plan_percentiles(
        MODEL, **{"gpu": "h200", "request_rate": 2.0, "ttft_p99_s": 2.0, **LOAD, **given}
    ),
    "study": lambda **given: study(
        MODEL, **{"gpu": "h200", "tp_sizes": (1,), "concurrencies": (1,), **given}
    ),
    "layouts": lambda **given: study_layouts(
        MODEL, **{"gpu": "h200", "layouts": ["TP1"], "concurrencies": (1,), **given}
    ),
    "simulate": lambda deployments=H200, **given: simulate(
        deployments, **{"request_rate": 4, "duration_s": 3, **SHORT, **given}
    ),
    "day": lambda **given: simulate_day(
        H200, **{"request_rates": [1.0], "ttft_p99_s": 2.0, **SHORT, **given}
    ),
    "search": lambda **given: search(
        [H200], **{"request_rates": [4.0], "store": Path("/nowhere/x.sqlite"), **SHORT, **given}
    ),
    "predict": lambda workload=None, **changed: predict(
        Deployment(MODEL, "h200", **changed), workload or Workload(1000, 200, 16)
    ),
    "workload": lambda **given: Workload(**{"isl": 1000, "osl": 200, "concurrency": 16, **given}),
    "limits": EngineLimits,
    "fixed limits": FixedLimits,
}

REFUSED: Final[list[tuple[str, dict[str, Any], str]]] = [
    ("plan", {"gpus": 0}, "0 x h200 in one node; allowed: 1 to 8 GPUs"),
    ("plan", {"concurrency": 0}, "concurrency is 0; allowed: 1 to"),
    ("plan", {"cached_tokens": 1000}, "allowed: 0 to 999, the last token is always computed"),
    ("plan", {"length_cv": NAN}, "length_cv is nan; allowed: 0 to 10"),
    ("plan", {"tpot_s": 0}, "tpot_s bound is 0 s; allowed: above 0 and finite"),
    ("plan", {"usd_per_gpu_hour": -1}, "price is -1 USD per GPU-hour; allowed: above 0"),
    ("plan", {"objective": "speed"}, "objective 'speed'; allowed: cost, latency, throughput"),
    ("plan", {"acceptance": 0.5}, "acceptance 0.5 without speculation"),
    ("plan", {"nodes": 0}, "0 nodes; allowed: 1 to 64"),
    ("kinds", {"kinds": []}, "0 kinds of GPU; needed: at least 1"),
    ("kinds", {"kinds": ["h200", "h200"]}, "--gpu h200 is given 2 times; allowed: once"),
    ("percentiles", {"ttft_p99_s": NAN}, "ttft_s bound is nan s; allowed: above 0 and finite"),
    ("percentiles", {"tpot_p99_s": 0}, "tpot_s bound is 0 s; allowed: above 0 and finite"),
    ("percentiles", {"gpu": ()}, "no GPU is given"),
    ("study", {"tp_sizes": ()}, "0 TP sizes; needed: at least 1"),
    ("study", {"tp_sizes": (16,)}, "TP=16 on 8 GPUs; allowed: 1 to 8"),
    ("study", {"mode": "open_loop"}, "mode is 'open_loop'; allowed: static_batch, closed_loop"),
    ("study", {"requests": -1}, "requests is -1; allowed: 0 to"),
    ("layouts", {"layouts": []}, "0 layouts; needed: at least 1"),
    ("layouts", {"concurrencies": ()}, "0 concurrencies; needed: at least 1"),
    ("layouts", {"layouts": ["TP1", "TP1"]}, "layout TP1 is given twice; allowed: once"),
    ("simulate", {"deployments": []}, "0 deployments; needed: at least 1"),
    ("simulate", {"request_rate": None, "concurrency": 0}, "concurrency is 0; allowed: 1 or more"),
    ("simulate", {"warmup_s": -1}, "warm-up is -1 s; allowed: 0 or more"),
    ("simulate", {"warmup_s": 3}, "warm-up is 3 s; allowed: 0 or more, below the 3 s of arrivals"),
    ("simulate", {"warmup_s": NAN}, "warm-up is nan s"),
    ("simulate", {"seed": -1}, "seed is -1; allowed: whole numbers from 0 up"),
    ("simulate", {"seed": 0.5}, "seed is 0.5; allowed: whole numbers from 0 up"),
    ("simulate", {"prefix_tokens": -100}, "1 system prompts of -100 tokens; allowed: 1 or more"),
    ("simulate", {"prefixes": 0, "prefix_tokens": 9}, "0 system prompts of 9 tokens; allowed: 1"),
    ("simulate", {"prefill_tp": 2}, "prefill_tp is 2 with 0 prefill replicas"),
    ("simulate", {"prefill_replicas": 1, "prefill_tp": 0}, "prefill_tp is 0 with 1 prefill"),
    ("simulate", {"turns": 2, "think_s": NAN}, "think time is nan s; allowed: above 0"),
    ("simulate", {"policy": "fastest"}, "balancer policy 'fastest'; allowed: round_robin, "),
    ("day", {"request_rates": []}, "0 stages; needed: at least 1"),
    ("day", {"request_rates": [0, 1.0]}, "request_rate is 0; allowed: above 0"),
    ("day", {"request_rates": [1.0] * 745}, "a day of 745 hours; allowed: up to 744"),
    ("day", {"osl": NAN}, "a mean length of nan tokens; allowed: 1 to"),
    ("day", {"seed": -1}, "seed is -1; allowed: whole numbers from 0 up"),
    ("day", {"start_up_s": math.inf}, "start-up is inf s; allowed: 0 to 86400 s"),
    ("search", {"policies": ("fastest",)}, "balancer policy 'fastest'; allowed: round_robin, "),
    ("search", {"warmup_s": 600}, "warm-up is 600 s; allowed: 0 or more, below the 600 s"),
    ("search", {"prefix_tokens": 9, "prefixes": 0}, "0 system prompts of 9 tokens"),
    ("search", {"seeds": 0}, "0 simulations; allowed: 1 to"),
    ("predict", {"layout": Layout(0)}, "TP=0 is not from 1 to 1024"),
    ("predict", {"layout": Layout(2, attention_dp=0)}, "attention DP=0 is not 1 or more"),
    ("predict", {"layout": Layout(2, ep_size=-2)}, "EP=-2 is not 1 or more"),
    ("predict", {"layout": Layout(2, dcp_size=0)}, "DCP=0 is not 1 or more"),
    ("predict", {"layout": Layout(2, replicas=0)}, "replicas=0 is not 1 or more"),
    ("predict", {"dtypes": Dtypes("fp9")}, "weight dtype is 'fp9'; allowed: auto, "),
    ("predict", {"dtypes": Dtypes("fp8", "fp9")}, "KV cache dtype is 'fp9'; allowed: auto, "),
    ("predict", {"engine": "llama.cpp"}, "unknown engine 'llama.cpp'"),
    ("workload", {"isl": 0}, "isl is 0; allowed: 1 to 10,000,000"),
    ("workload", {"osl": NAN}, "osl is nan; allowed: 1 to 10,000,000"),
    ("workload", {"mode": "burst"}, "mode is 'burst'; allowed: static_batch, closed_loop, "),
    ("workload", {"request_rate": 0}, "request_rate is 0; allowed: above 0"),
    ("limits", {"max_num_seqs": 0}, "max_num_seqs is 0; allowed: 1 to 10,000,000"),
    ("limits", {"max_num_batched_tokens": -1}, "max_num_batched_tokens is -1; allowed: 1 to"),
    ("limits", {"max_model_len": -1}, "max_model_len is -1; allowed: 1 to 10,000,000"),
    ("limits", {"gpu_memory_utilization": 1.5}, "gpu_memory_utilization is 1.5; allowed: above 0"),
    ("limits", {"gpu_memory_utilization": NAN}, "gpu_memory_utilization is nan; allowed: above 0"),
    ("fixed limits", {"max_model_len": 0}, "max_model_len is 0; allowed: 1 to 10,000,000"),
    ("fixed limits", {"gpu_memory_utilization": 0}, "gpu_memory_utilization is 0; allowed: above"),
]


@pytest.mark.parametrize(
    ("call", "given", "words"), REFUSED, ids=[f"{call} {given}"[:60] for call, given, _ in REFUSED]
)
def test_an_argument_that_cannot_be_used_is_refused_in_one_line(
    call: str, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        CALLS[call](**given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "given", "field"),
    [
        ("study", {"tp_sizes": ()}, "tp_sizes"),
        ("layouts", {"layouts": []}, "layouts"),
        ("kinds", {"kinds": []}, "gpu"),
        ("simulate", {"deployments": []}, "deployments"),
        ("simulate", {"seed": -1}, "seed"),
        ("simulate", {"policy": "fastest"}, "policy"),
        ("workload", {"mode": "burst"}, "mode"),
    ],
)
def test_the_error_carries_the_name_of_the_argument(
    call: str, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(InputError) as caught:
        CALLS[call](**given)
    assert caught.value.field == field


def test_a_warm_up_may_last_as_long_as_requests_still_arrive() -> None:
    require_warmup(0.0, 3.0)
    require_warmup(2.999, 3.0)
    require_warmup(1e6)  # of a trace, whose length is not known before it is read
    require_seed(2**62)
    stages = {"request_rate": None, "duration_s": None, "stages": [Stage(2, 1.0), Stage(4, 2.0)]}
    with pytest.raises(InputError, match=r"below the 3 s of arrivals"):
        CALLS["simulate"](**stages, warmup_s=3.0)


def test_a_run_in_which_every_request_is_warm_up_has_no_result() -> None:
    closed = {"request_rate": None, "duration_s": None, "concurrency": 2, "warmup_s": 1e6}
    with pytest.raises(InputError, match="no request finished after the warm-up"):
        CALLS["simulate"](**closed)


@pytest.mark.parametrize(("isl_cv", "osl_cv"), [(0.0, 2.0), (2.0, 0.0), (2.0, 2.0)])
def test_no_request_is_longer_than_the_context_whichever_length_varies(
    isl_cv: float, osl_cv: float
) -> None:
    drawn = Traffic(500.0, Lengths(1000, isl_cv), Lengths(500, osl_cv), 20.0)
    trace = draw(drawn.within(2048))
    assert int((trace.isl + trace.osl).max()) <= 2048
    assert float(trace.isl.mean()) == pytest.approx(1000, rel=0.06)
    assert float(trace.osl.mean()) == pytest.approx(500, rel=0.06)
