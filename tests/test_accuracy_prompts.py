"""How long prompts hold decodes up, from pairs of rows with answers of different lengths."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest

from tests.reference import needs_reference

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import accuracy
import accuracy_prompts
from accuracy_prompts import Pair, Run, ran_as_graphs
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.batches import group
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.perfmodel.rows import Row


def row(osl: float) -> Row:
    return Row(
        1, "llama-3.1-8b", "h100", "vllm", "bf16", "bf16", Layout(), "closed_loop", 9.0, 921.0, osl,
        "made", "", "calibrate", None, 90.0, {},
    )  # fmt: skip


def test_the_difference_of_two_rows_is_shared_by_the_prompts_between_their_tokens() -> None:
    # 8 other streams, a prompt of each in 100 and in 400 tokens: 0.08 and 0.02 for each token. Of
    # 12 - 9.6 = 2.4 ms, the context of longer answers takes -0.6
    short = Run(row(100.0), 12e-3, 11e-3, 8.0e-3)
    long = Run(row(400.0), 9.6e-3, 9.8e-3, 8.6e-3)
    found = accuracy_prompts._pair(short, long)
    assert found.measured_s == pytest.approx((2.4e-3 + 0.6e-3) / 0.06)
    assert found.predicted_s == pytest.approx((1.2e-3 + 0.6e-3) / 0.06)


@pytest.fixture(scope="module")
def measured() -> list[Pair]:
    rows = accuracy.calibration_rows()
    return list(accuracy_prompts.pairs(group(rows)[0], bundled_profile()))


@needs_reference
def test_prompts_of_moe_models_on_tensorrt_llm_hold_decodes_up_for_many_launches(
    measured: list[Pair],
) -> None:
    for model, least in (("deepseek-r1", 80e-3), ("gpt-oss-120b", 45e-3)):
        some = [
            pair
            for pair in measured
            if (pair.row.model, pair.row.engine) == (model, "trtllm")
            and not ran_as_graphs(pair.row)
        ]
        assert len(some) >= 4
        for values in ([p.measured_s for p in some], [p.predicted_s for p in some]):
            assert sorted(values)[len(values) // 2] > least


@needs_reference
def test_prompts_that_ran_as_graphs_hold_decodes_up_less(measured: list[Pair]) -> None:
    some = [p for p in measured if (p.row.model, p.row.engine) == ("deepseek-r1", "trtllm")]
    graphs = [p for p in some if ran_as_graphs(p.row)]
    assert graphs
    assert all(p.measured_s < 20e-3 and p.predicted_s < 40e-3 for p in graphs)


@needs_reference
def test_pages_say_what_the_pairs_of_deepseek_on_tensorrt_llm_do(measured: list[Pair]) -> None:
    some = [p for p in measured if (p.row.model, p.row.engine) == ("deepseek-r1", "trtllm")]
    launched = [1e3 * p.measured_s for p in some if not ran_as_graphs(p.row)]
    (pair,) = [p for p in some if ran_as_graphs(p.row)]
    streams, held = pair.row.concurrency, 1e3 * pair.measured_s
    docs = Path(__file__).resolve().parents[1] / "docs"
    limits = " ".join((docs / "limitations.md").read_text("utf-8").split())
    assert f"say {statistics.median(launched):.0f} ms for a prompt of 921 tokens" in limits
    assert f"at {streams:.0f} streams, says {held:.0f} ms" in limits
    decision = " ".join((docs / "decisions" / "what-a-gpu-showed.md").read_text("utf-8").split())
    assert f"pair of DeepSeek-R1 with {streams:.0f} streams says {held:.0f} ms" in decision
