"""Requests of equal length start and end together, and their prompts wait for each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.architecture.models import load as load_model
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.arrays import Layouts
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.hierarchy import Hierarchy
from shardwise.perfmodel.in_step import InStep, in_step, share_in_step
from shardwise.perfmodel.loads import Load
from shardwise.perfmodel.loop import decode_steps
from shardwise.perfmodel.serving_steps import decode_step, prefill_step
from shardwise.perfmodel.step import Setting

GPU = default_catalogue().gpu("h200")
ARCH = load_model("llama-3.1-8b")
SETTING = Setting(ARCH, GPU, "sglang", "bf16", Hierarchy({}).coefficients(GPU, "sglang"))
PROMPT, OUTSIDE_S = 2048.0, 0.1


def offered(
    slots: float, isl: float = PROMPT, osl: float = 512.0, budget: float = 8192.0, **more: object
) -> Load:
    """A run so long that its first burst does not count."""
    one = [np.array([float(v)]) for v in (slots, isl, osl, 1e9 * slots, 1024, budget, 1e9)]
    return replace(Load(Layouts.of([Layout()]), *one), length_cv=0.0, **more)


def found(load: Load, outside_s: float = OUTSIDE_S) -> InStep:
    return in_step(SETTING, load, load.concurrency, np.array([outside_s]))


def prompts_s(load: Load, prompts: float) -> float:
    return float(prefill_step(SETTING, load, prompts * load.new_tokens).total[0])


def test_prompts_before_decodes_keep_a_whole_wave_together() -> None:
    # four prompts, one a step: first tokens after 1, 2, 3 and 4 steps, 2.5 on average
    load = offered(4, budget=PROMPT, mixed_batches=False)
    wave = found(load)
    step_s = prompts_s(load, 1)
    assert wave.ttft_s[0] == pytest.approx(OUTSIDE_S + 2.5 * step_s)
    tokens_s = decode_steps(SETTING, load) * decode_step(SETTING, load, np.array([4.0])).total
    whole = OUTSIDE_S + 4 * step_s + tokens_s
    assert wave.ttft_s + wave.decoding_s == pytest.approx(whole)


def test_a_wave_that_fits_one_step_takes_two_since_the_first_prompt_finds_an_idle_engine() -> None:
    # the first after its own prompt, three others after all four: (1 + 3 x 4) / 4 prompts
    load = offered(4, mixed_batches=False)
    expected = OUTSIDE_S + 3.25 * prompts_s(load, 4) / 4
    assert found(load).ttft_s[0] == pytest.approx(expected)


def test_groups_that_end_apart_wait_only_for_those_that_arrived_meanwhile() -> None:
    # Nothing outside steps: a group's next prompts start as it ends, one decode step before the
    # next group ends. Nobody waits for another group.
    load = offered(64, budget=PROMPT)
    alone = found(load, outside_s=0.0)
    together = found(load, outside_s=60.0)
    engine = SETTING.coefficients["wait_steps"] - 1.0
    assert alone.ttft_s[0] < (2.0 + engine) * 1.5 * prompts_s(load, 1)
    # a minute: the whole wave arrives, and prompts take 32.5 steps on average
    assert together.ttft_s[0] - 60.0 > 25 * prompts_s(load, 1)


def test_the_first_burst_counts_by_its_share_of_the_requests() -> None:
    load = offered(16, budget=PROMPT)
    rare, often = found(load), found(replace(load, requests=2.0 * load.concurrency))
    only = found(replace(load, requests=load.concurrency))
    assert often.ttft_s == pytest.approx((rare.ttft_s + only.ttft_s) / 2.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 256), st.integers(1, 16_000), st.integers(2, 2048), st.booleans())
def test_no_prompt_is_lost(slots: int, isl: int, osl: int, mixed: bool) -> None:
    load = offered(slots, isl, osl, mixed_batches=mixed)
    wave = found(load)
    assert wave.ttft_s >= OUTSIDE_S
    assert wave.decoding_s >= 0.0
    assert wave.ttft_s + wave.decoding_s >= wave.causes.total * (1 - 1e-9)
    all_prompts = prompts_s(load, min(slots, 8192 / isl)) * max(1.0, slots * isl / 8192)
    assert wave.causes.total >= all_prompts * (1 - 1e-6)


def test_who_stays_in_step() -> None:
    load = offered(8)
    assert share_in_step(load) == 1.0
    # lengths that differ by sqrt(2) tokens keep half of them in step: 1 / (1 + 2 / 2)
    assert share_in_step(replace(load, length_cv=2.0**0.5 / 512)) == pytest.approx(0.5)
    assert share_in_step(replace(load, length_cv=0.25)) < 1e-3
    # random arrivals, and a source that does not say how its lengths vary
    assert share_in_step(replace(load, requests=np.array([np.inf]))) == 0.0
    assert share_in_step(replace(load, lengths_told=False)) == 0.0
