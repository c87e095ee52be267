"""Keep the share of a correction that held-out rows support, if no metric gets worse."""

from __future__ import annotations

import math
import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.layout.deployment import Layout
from shardwise.perfmodel.crossval import Miss
from shardwise.perfmodel.hierarchy import NAMES, Hierarchy
from shardwise.perfmodel.rows import Row
from shardwise.perfmodel.shrinking import CANDIDATES, NONE, WHOLE, Shares, supported, toward

PAIR = ("pair", "h100", "vllm")
ROW = Row(
    1, "llama-3.1-8b", "h100", "vllm", "bf16", "bf16", Layout(1), "closed_loop", 8, 256, 128.0,
    "made", "", "calibrate", None, 80.0, {},
)  # fmt: skip


def misses(tpot: list[float], ttft: list[float]) -> list[Miss]:
    """Errors (log) of two metrics, a row each."""
    return [
        Miss("none", "", "h100", "vllm", "m", False, metric, (), error, replace(ROW, number=number))
        for metric, errors in (("tpot_s", tpot), ("ttft_s", ttft))
        for number, error in enumerate(errors)
    ]


def test_each_share_moves_its_own_coefficients() -> None:
    start = Hierarchy({("shared",): np.full(len(NAMES), 0.5), PAIR: np.full(len(NAMES), 1.0)})
    fitted = Hierarchy({("shared",): np.full(len(NAMES), 0.5), PAIR: np.full(len(NAMES), 3.0)})
    found = toward(start, fitted, Shares(steps=0.25, outside=1.0))
    moved = dict(zip(NAMES, found.offsets[PAIR], strict=True))
    assert (moved["gemm"], moved["step"]) == (1.5, 1.5)
    assert (moved["request"], moved["handle"]) == (3.0, 3.0)
    assert list(found.offsets["shared",]) == list(start.offsets["shared",])


def test_none_of_a_correction_is_the_start_and_all_of_it_the_fit() -> None:
    start = Hierarchy({("shared",): np.ones(len(NAMES))})
    fitted = Hierarchy({**start.offsets, PAIR: np.full(len(NAMES), -2.0)})
    assert np.all(toward(start, fitted, NONE).offsets[PAIR] == 0.0)
    assert np.all(toward(start, fitted, WHOLE).offsets[PAIR] == -2.0)


def test_a_correction_that_makes_a_metric_worse_is_not_taken_however_much_the_other_gains() -> None:
    before = misses([0.5] * 6, [0.1] * 6)
    worse, fine = Shares(1.0, 1.0), Shares(0.5, 0.0)
    after = {worse: misses([0.0] * 6, [0.11] * 6), fine: misses([0.3] * 6, [0.1] * 6)}
    assert supported(before, after) == fine
    assert supported(before, {worse: after[worse]}) == NONE


def test_a_gain_that_could_be_chance_is_none() -> None:
    # better by 0.6 once and worse by 0.1 five times: a mean gain of 0.02 +- 0.12
    before = misses([0.6] + [0.0] * 5, [0.2] * 6)
    after = {WHOLE: misses([0.0] + [0.1] * 5, [0.2] * 6)}
    assert supported(before, after) == NONE
    assert supported(misses([0.5], [0.5]), {WHOLE: misses([0.0], [0.0])}) == NONE


errors = st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=12)


@given(errors, st.integers(0, 2**32))
def test_no_metric_of_the_rows_left_out_is_ever_worse(before: list[float], seed: int) -> None:
    drawn = random.Random(seed)
    start = misses(before, [0.5 * e for e in before])
    after = {
        shares: [replace(m, error=m.error + drawn.gauss(0.0, 0.3)) for m in start]
        for shares in CANDIDATES
    }
    chosen = supported(start, after)
    for metric in ("tpot_s", "ttft_s"):
        old, new = (
            math.fsum(abs(math.expm1(m.error)) for m in some if m.metric == metric)
            for some in (start, start if chosen == NONE else after[chosen])
        )
        assert new <= old + 1e-6
