"""What the prefix cache finds and keeps, against a replay written independently of it."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.layout.deployment import Deployment, Layout
from shardwise.simulator.compiling import HAS_NUMBA
from shardwise.simulator.fleet import Group
from shardwise.simulator.routing import POLICIES
from shardwise.simulator.scheduling import Scheduling
from shardwise.simulator.sessions import SessionTraffic, draw_sessions
from shardwise.simulator.simulate import simulate
from shardwise.simulator.state import JUMPS
from shardwise.simulator.steptable import StepTable
from shardwise.simulator.surface import plane
from shardwise.simulator.trace import Shared, Trace, make_trace, one_prefix
from shardwise.simulator.trace_file import read_trace
from shardwise.simulator.traffic import Lengths

needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
HASH_BLOCK, BLOCK = 512, 128


def toy(rules: Scheduling, replicas: int = 1, capacity: int = 100_000, seqs: int = 8) -> Group:
    """Replicas whose every step takes 0.01 s."""
    flat = StepTable(np.full(seqs + 2, 0.01), np.full(2050, 0.01), plane(0.0), plane(0.0))
    return Group(
        Deployment("toy", "h200", Layout(replicas=replicas)), flat, seqs, 2048, capacity, 10**9,
        0.0, 0.0, 0.0, {}, scheduling=rules,
    )  # fmt: skip


def written(path: Path, requests: int, gap_ms: float, spaced: bool) -> list[dict[str, object]]:
    """A trace in Mooncake's format: prompts go on where an earlier one ended, or branch off."""
    rng = np.random.default_rng(3)
    chains: list[list[int]] = [[k] for k in range(8)]
    fresh, rows, now = 8, [], 0.0
    for _ in range(requests):
        old = chains[int(len(chains) * (1 - rng.power(3)))]
        kept = old[: rng.integers(1, len(old) + 1)]
        added = int(rng.integers(1, 4))
        ids = [*kept, *range(fresh, fresh + added)]
        fresh += added
        if len(ids) < 12:
            chains.append(ids)
        now += gap_ms if spaced else rng.exponential(gap_ms)
        isl = (len(ids) - 1) * HASH_BLOCK + int(rng.integers(1, HASH_BLOCK + 1))
        osl = int(rng.integers(1, 200))
        rows.append({"timestamp": now, "input_length": isl, "output_length": osl, "hash_ids": ids})
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return rows


def replayed(rows: list[dict[str, object]], capacity_blocks: int) -> float:
    """Share of prompt tokens found, one request after the other: blocks by all ids up to them, the
    last block first to go, the request served longest ago first."""
    cached: OrderedDict[object, None] = OrderedDict()
    found = asked = 0
    for number, row in enumerate(rows):
        isl, osl, ids = row["input_length"], row["output_length"], row["hash_ids"]
        assert isinstance(isl, int)
        assert isinstance(osl, int)
        assert isinstance(ids, list)
        per_id, held = HASH_BLOCK // BLOCK, isl + osl - 1
        keys: list[object] = []
        for block in range(-(-held // BLOCK)):
            whole = (block + 1) * BLOCK <= isl
            keys.append((ids[block // per_id], block) if whole else (number, block, "own"))
        hits = 0
        while hits < (isl - 1) // BLOCK and keys[hits] in cached:
            hits += 1
        found, asked = found + hits * BLOCK, asked + isl
        for key in keys:
            cached.pop(key, None)
        while len(cached) + len(keys) > capacity_blocks:
            cached.popitem(last=False)
        cached.update(dict.fromkeys(reversed(keys)))
    return found / asked


@needs_numba
@pytest.mark.parametrize(
    ("gap_ms", "spaced", "tolerance"), [(5_000.0, True, 1e-3), (120.0, False, 1e-2)]
)
def test_a_mooncake_trace_hits_as_often_as_in_an_independent_lru_replay(
    tmp_path: Path, gap_ms: float, spaced: bool, tolerance: float
) -> None:
    path = tmp_path / "mooncake.jsonl"
    rows = written(path, 20_000, gap_ms, spaced)
    trace = read_trace(path, HASH_BLOCK)
    for blocks in (500, 5_000):
        group = toy(Scheduling(BLOCK), capacity=blocks * BLOCK)
        result = simulate([group], trace)
        assert result.outcomes()["done"] == 20_000
        expected = replayed(rows, blocks)
        assert 0.05 < expected < 0.95
        assert result.hit_rate() == pytest.approx(expected, rel=tolerance), blocks


@st.composite
def jobs(draw_from: st.DrawFn) -> tuple[Group, Trace, str]:
    n = draw_from(st.integers(1, 40))
    rng = np.random.default_rng(draw_from(st.integers(0, 2**16)))
    # a tree of prompts: two roots of 20 tokens, and three branches of 30 more below each
    root, branch = rng.integers(0, 2, n), rng.integers(-1, 3, n)
    depth = 1 + (branch >= 0)
    chains = [[a] if b < 0 else [a, 2 + 3 * a + b] for a, b in zip(root, branch, strict=True)]
    at = np.concatenate([[0], np.cumsum(depth)])
    ends = np.array([20, 20, *[50] * 6])
    trace = replace(
        make_trace(
            np.cumsum(rng.exponential(draw_from(st.sampled_from([0.001, 0.02, 0.3])), n)),
            rng.integers(1, 90, n),
            rng.integers(1, 30, n),
        ),
        shared=Shared(at, np.array([x for chain in chains for x in chain]), ends),
    )
    rules = Scheduling(
        draw_from(st.sampled_from([1, 7, 16])),
        mixed=draw_from(st.booleans()),
        reserve=draw_from(st.sampled_from([0.0, 0.1])),
        request_s=draw_from(st.sampled_from([0.0, 0.003])),
        token_s=draw_from(st.sampled_from([0.0, 0.001])),
    )
    capacity = draw_from(st.integers(60, 400))
    group = toy(rules, draw_from(st.integers(1, 3)), capacity, draw_from(st.integers(1, 6)))
    return group, trace, draw_from(st.sampled_from(POLICIES))


@settings(max_examples=150, deadline=None)
@given(jobs())
def test_hits_never_exceed_what_memory_holds_and_every_block_is_accounted_for(
    job: tuple[Group, Trace, str],
) -> None:
    group, trace, policy = job
    result = simulate([group], trace, policy=policy)
    q, replicas, block = result.requests, result.replicas, group.scheduling.block_tokens
    blocks = group.kv_capacity_tokens // block
    done = q.status == 1
    assert (done | (q.status == 2)).all()
    assert (done == (-(-(q.isl + q.osl - 1) // block) <= blocks)).all()
    assert (replicas.kv_peak <= blocks).all()
    assert (q.cached[done] >= 0).all()
    assert (q.cached[done] <= np.minimum(q.isl[done] - 1, blocks * block)).all()
    assert (q.cached[done] % block == 0).all()
    assert (replicas.refs == 0).all()
    own = np.bincount(q.replica[done], q.kept[done], minlength=len(replicas.kv_used))
    assert (replicas.kept.sum(axis=1) + own == replicas.kv_used).all()
    assert (replicas.kv_used == replicas.evictable).all()
    assert (replicas.phase == 0).all()
    assert (replicas.heap_sum == 0).all()


@settings(max_examples=60, deadline=None)
@given(jobs())
def test_without_sharing_prefix_caching_changes_nothing(job: tuple[Group, Trace, str]) -> None:
    group, trace, policy = job
    alone = replace(trace, shared=None)
    plain = replace(group, scheduling=replace(group.scheduling, prefix_caching=False))
    with_cache, without = (simulate([g], alone, policy=policy) for g in (group, plain))
    assert np.array_equal(with_cache.requests.finish, without.requests.finish, equal_nan=True)
    assert with_cache.hit_rate() == without.hit_rate() == 0.0


def test_a_block_is_found_when_it_is_full_and_the_last_token_is_always_computed() -> None:
    # 100 shared tokens are 6 full blocks of 16: 96; of 96 the last is computed, so 5 blocks: 80
    for tokens, expected in ((100, 96), (96, 96)):
        shared = one_prefix(np.zeros(2, dtype=np.int64), np.array([tokens]))
        trace = make_trace(np.array([0.0, 1.0]), np.array([120, 120]), np.array([2, 2]), shared)
        assert simulate([toy(Scheduling(16))], trace).requests.cached.tolist() == [0, expected]
    whole = one_prefix(np.zeros(2, dtype=np.int64), np.array([96]))
    trace = make_trace(np.array([0.0, 1.0]), np.array([96, 96]), np.array([2, 2]), whole)
    assert simulate([toy(Scheduling(16))], trace).requests.cached.tolist() == [0, 80]


def test_a_prompt_that_is_cached_whole_is_admitted_where_it_fills_the_cache() -> None:
    # its last block is computed again into the one that holds it: counted twice, it never fitted
    whole = one_prefix(np.zeros(2, dtype=np.int64), np.array([96]))
    trace = make_trace(np.array([0.0, 1.0]), np.array([96, 96]), np.array([1, 1]), whole)
    result = simulate([toy(Scheduling(16), capacity=96)], trace)
    assert result.requests.cached.tolist() == [0, 80]
    assert (result.requests.status == 1).all()


def test_the_next_turn_finds_the_answer_too() -> None:
    trace = draw_sessions(
        SessionTraffic(1.0, 8, Lengths(64), Lengths(64), 5.0, 3.0, prefix_tokens=64), seed=2
    )
    result = simulate([toy(Scheduling(1))], trace)
    q, previous = result.requests, trace.sessions.previous  # type: ignore[union-attr]
    later = np.flatnonzero(previous >= 0)
    assert len(later) > 5
    # all but the last token of the answer before, whose KV nobody has computed
    before = q.isl[previous[later]] + q.osl[previous[later]] - 1
    assert (q.cached[later] == before).all()


@needs_numba
def test_the_loops_turns_grow_in_step_with_the_requests() -> None:
    turns = []
    for duration_s in (400.0, 800.0, 1600.0):
        traffic = SessionTraffic(2.0, 4, Lengths(64, 0.5), Lengths(16, 0.5), 5.0, duration_s)
        trace = draw_sessions(traffic)
        result = simulate([toy(Scheduling(16), 4)], trace, policy="session_sticky")
        turns.append(float(result.loop.counts[JUMPS]) / len(trace))
    assert max(turns) < 1.1 * min(turns)
