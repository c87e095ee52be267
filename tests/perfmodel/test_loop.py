"""A loop of requests: how prompts and decodes share the steps."""

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
from shardwise.perfmodel.loads import Load
from shardwise.perfmodel.loop import _bubbles, _decoding_s, settled
from shardwise.perfmodel.step import Setting

ARCH = load_model("llama-3.1-8b")
GPU = default_catalogue().gpu("h200")
COEFFICIENTS = Hierarchy({}).coefficients(GPU, "vllm")
SETTING = Setting(ARCH, GPU, "vllm", "bf16", COEFFICIENTS)


def offered(slots: float, isl: float, osl: float, budget: float = 8192.0) -> Load:
    one = [np.array([float(v)]) for v in (slots, isl, osl, 10 * slots, 1024, budget, 1e9)]
    return Load(Layouts.of([Layout()]), *one)


def test_prompts_come_once_a_cycle_so_a_longer_cycle_brings_fewer_of_them() -> None:
    # 2 s of own steps, 3 s of the others' prompts a cycle, 1 s before the first token:
    # D = 2 + 3 D / (1 + D)  =>  D^2 - 4 D - 2 = 0  =>  D = 2 + sqrt(6)
    found = _decoding_s(np.array(2.0), np.array(3.0), np.array(1.0), 1.0)
    assert found == pytest.approx(2.0 + 6.0**0.5)
    # nothing before the first token: the others' prompts all come while it decodes
    assert _decoding_s(np.array(2.0), np.array(3.0), np.array(0.0), 1.0) == pytest.approx(5.0)
    # a cycle of which hardly anything is decoding: its own steps are all that is left
    assert _decoding_s(np.array(2.0), np.array(3.0), np.array(1e9), 1.0) == pytest.approx(2.0)


def test_a_request_alone_waits_for_nobody() -> None:
    alone = settled(SETTING, offered(1, 2048, 128), np.array([1.0]))
    assert alone.token.total == pytest.approx(alone.turn.decode.total)
    assert alone.backlog_s == pytest.approx(0.0)


def test_what_a_step_has_no_room_for_waits_before_the_first_token() -> None:
    # two tokens each: 63 other prompts of 4,096 tokens do not fit between them, 2 a step do
    load = offered(64, 4096, 2)
    crowd = settled(SETTING, load, np.array([64.0]))
    assert crowd.backlog_s > 10 * crowd.decoding_s
    assert crowd.decoding_s == pytest.approx(crowd.token.total)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 256), st.integers(1, 8192), st.integers(1, 2048))
def test_no_prompt_is_lost_however_they_share_the_steps(slots: int, isl: int, osl: int) -> None:
    found = settled(SETTING, offered(slots, isl, osl), np.array([float(slots)]))
    cycle = found.turn.prefill.total + found.decoding_s + found.backlog_s
    # each slot's prompt is computed once a cycle, which is at least that long
    assert cycle >= (slots - 1) * found.turn.extra.total * (1 - 1e-9)
    assert np.all(found.decoding_s >= 0)
    assert np.all(found.backlog_s >= 0)


def test_prompts_that_come_in_groups_fill_their_steps() -> None:
    load = offered(64, 1000, 1000)
    alone, some, grouped = (
        settled(SETTING, load, np.array([64.0]), grouped=share).turn for share in (0.0, 0.5, 1.0)
    )
    prompts = (grouped.mixed.total - grouped.decode.total) / grouped.extra.total
    assert prompts == pytest.approx((8192 - 64) / 1000)  # 64 tokens are those of the decodes
    assert grouped.mixed.total > some.mixed.total > alone.mixed.total


def test_a_lone_chunk_holds_up_every_micro_batch_and_chunks_in_all_hold_up_none() -> None:
    stages = np.array([1.0, 4.0, 4.0, 4.0])
    found = _bubbles(np.array([0.1, 1e-6, 1.0, 0.5]), stages)
    # one stage has no bubble; of four, a lone chunk costs all; (1 - 0.5^4) / 0.5
    assert found == pytest.approx([1.0, 4.0, 1.0, 1.875], rel=1e-4)


def test_prompts_among_decodes_cost_a_pipeline_more_than_their_own_stage_time() -> None:
    def lost(osl: float) -> float:
        load = offered(64, 4000, osl)
        staged = replace(load, layouts=Layouts.of([Layout(1, 4)]))
        found = settled(SETTING, staged, np.array([64.0]))
        # seconds that a prompt takes from the decodes, over its stages' own
        return float(found.turn.extra.total[0] / found.turn.mixed.total[0])

    # long answers: prompts come seldom, and every one stops the pipeline
    assert lost(4000.0) > 2.0 * lost(16.0)


def test_tokens_that_are_computed_again_lengthen_the_tokens_of_all_others() -> None:
    load, slots = offered(64, 1024, 512), np.array([64.0])
    once, again = (settled(SETTING, load, slots, recomputed=n) for n in (0.0, 512.0))
    # half as many again as the prompt has, many at a time: about half of what its prompts cost
    more = again.decoding_s - once.decoding_s
    prompts = once.decoding_s - 511 * once.turn.decode.total
    assert 0.3 * prompts < more < 0.6 * prompts
