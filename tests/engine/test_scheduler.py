"""Continuous batching, chunked prefill and paging; needs no torch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.engine.scheduler import SamplingParams, Scheduler, Sequence
from shardwise.errors import InputError


def sequence(name: str, prompt: int, max_tokens: int = 4) -> Sequence:
    return Sequence(name, list(range(prompt)), SamplingParams(max_tokens=max_tokens))


def lengths(scheduler: Scheduler) -> list[tuple[str, int]]:
    """The next step as (request, tokens), each finished sequence given token 9."""
    scheduled = scheduler.schedule()
    assert scheduled
    plan, sequences = scheduled
    for member, segment in zip(sequences, plan.segments, strict=True):
        if segment.logits:
            member.output.append(9)
    return [(s.request_id, seg.length) for s, seg in zip(sequences, plan.segments, strict=True)]


def test_decodes_go_first_and_prefill_fills_the_rest_of_the_budget() -> None:
    scheduler = Scheduler(num_blocks=64, block_size=4, max_num_seqs=4, max_num_batched_tokens=10)
    scheduler.add(sequence("a", 3))
    assert lengths(scheduler) == [("a", 3)]
    scheduler.add(sequence("b", 25))
    # one token of budget is a's decode, nine are a chunk of b: 9 + 9 + 7 = 25
    assert lengths(scheduler) == [("a", 1), ("b", 9)]
    assert lengths(scheduler) == [("a", 1), ("b", 9)]
    assert lengths(scheduler) == [("a", 1), ("b", 7)]
    assert lengths(scheduler) == [("a", 1), ("b", 1)]


def test_a_sequence_joins_while_others_run_and_never_more_than_max_num_seqs() -> None:
    scheduler = Scheduler(num_blocks=64, block_size=4, max_num_seqs=2, max_num_batched_tokens=64)
    first = sequence("a", 3)
    for member in (first, sequence("b", 3), sequence("c", 3)):
        scheduler.add(member)
    assert lengths(scheduler) == [("a", 3), ("b", 3)]
    scheduler.remove(first)
    assert lengths(scheduler) == [("b", 1), ("c", 3)]


def test_the_latest_admitted_is_preempted_and_computed_again_with_its_output() -> None:
    # 4 blocks of 4: a and b take 2 each (8 tokens), a's 9th token needs a block of b's
    scheduler = Scheduler(num_blocks=4, block_size=4, max_num_seqs=2, max_num_batched_tokens=64)
    a, b = sequence("a", 8, 8), sequence("b", 7, 8)
    scheduler.add(a)
    scheduler.add(b)
    assert lengths(scheduler) == [("a", 8), ("b", 7)]
    assert lengths(scheduler) == [("a", 1)]
    assert b.blocks == []
    assert list(scheduler.waiting) == [b]
    scheduler.remove(a)
    assert lengths(scheduler) == [("b", 8)]  # 7 of the prompt and its first output token


def test_a_request_the_whole_cache_cannot_hold_is_refused() -> None:
    scheduler = Scheduler(num_blocks=4, block_size=4, max_num_seqs=2, max_num_batched_tokens=64)
    with pytest.raises(InputError, match="come to 17 tokens; the KV cache holds 16"):
        scheduler.add(sequence("a", 13, 4))


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=12),
    st.integers(11, 30),
    st.integers(1, 5),
    st.integers(5, 40),
    st.randoms(use_true_random=False),
)
def test_every_request_ends_whatever_is_cancelled_and_no_block_is_lost(
    requests: list[tuple[int, int]],
    num_blocks: int,
    max_num_seqs: int,
    budget: int,
    random: object,
) -> None:
    scheduler = Scheduler(num_blocks, 4, max_num_seqs, budget)
    alive = [sequence(str(i), *sizes) for i, sizes in enumerate(requests)]
    for member in alive:
        scheduler.add(member)
    for _ in range(2000):
        scheduled = scheduler.schedule()
        if scheduled is None:
            break
        plan, members = scheduled
        assert len(plan.tokens) == sum(s.length for s in plan.segments) <= budget
        held = [block for member in alive for block in member.blocks]
        assert len(held) == len(set(held))  # no block belongs to two
        assert len(held) + scheduler.allocator.num_free == num_blocks
        for member, segment in zip(members, plan.segments, strict=True):
            assert len(segment.blocks) * 4 >= segment.context
            if segment.logits:
                member.output.append(1)
            done = len(member.output) == member.params.max_tokens
            if done or random.random() < 0.02:  # type: ignore[attr-defined]
                scheduler.remove(member)
                alive.remove(member)
    assert not alive
    assert scheduler.allocator.num_free == num_blocks
