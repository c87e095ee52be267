"""A grid over layouts and the steps between them."""

from __future__ import annotations

import pytest

from shardwise.analysis.intervals import ratio
from shardwise.analysis.layout_steps import LayoutGrid, layout_grid, value
from shardwise.analysis.run import Question
from shardwise.errors import DoesNotFitError, InputError
from shardwise.layout.deployment import Layout, layout_of
from shardwise.perfmodel.estimate import Subject
from shardwise.perfmodel.intervals import LAYOUT_RHO
from shardwise.perfmodel.subject import Asked, subject_of


def subject(model: str = "deepseek-r1", gpu: str = "h200", engine: str = "vllm") -> Subject:
    return subject_of(Asked(model, gpu, engine))[0]


def asked(*batches: int, gpus: int = 8) -> Question:
    return Question(gpus, (), batches, 4000, 1000)


@pytest.fixture(scope="module")
def grid() -> LayoutGrid:
    layouts = [layout_of(name) for name in ("TP8", "TP8xEP8", "DP8xEP8")]
    return layout_grid(subject(), asked(8, 512), layouts)


def test_every_layout_is_there_at_every_batch_and_steps_follow_the_order_asked(
    grid: LayoutGrid,
) -> None:
    assert len(grid.evidence) == 6
    pairs = list(dict.fromkeys((s.from_layout, s.to_layout) for s in grid.steps))
    assert pairs == [("TP8", "TP8 x EP8"), ("TP8 x EP8", "DP8 x EP8")]
    assert {s.concurrency for s in grid.steps} == {8, 512}


def test_a_step_is_the_ratio_of_its_cells(grid: LayoutGrid) -> None:
    cells = {(e.deployment.layout.name, e.workload.concurrency): e for e in grid.evidence}
    for step in grid.steps:
        after = value(cells[step.to_layout, step.concurrency], step.metric)
        before = value(cells[step.from_layout, step.concurrency], step.metric)
        expected = ratio(after, before, LAYOUT_RHO)
        assert step.change_pct.value == pytest.approx(100 * (expected.value - 1))
        assert step.change_pct.lo == pytest.approx(100 * (expected.lo - 1))


def test_copies_of_attention_pay_where_the_cache_binds_and_not_below(grid: LayoutGrid) -> None:
    tokens = grid.cache_tokens
    assert tokens["DP8 x EP8"] > 3 * tokens["TP8"]
    to_copies = {
        s.concurrency: s.change_pct.value
        for s in grid.steps
        if s.to_layout == "DP8 x EP8" and s.metric == "output_tok_s"
    }
    assert to_copies[8] < 0 < to_copies[512]


def test_limits_hold_for_each_copy_of_attention(grid: LayoutGrid) -> None:
    limits = {
        (e.deployment.layout.name, e.workload.concurrency): e.deployment.limits.max_num_seqs
        for e in grid.evidence
    }
    assert limits["TP8", 512] == 512
    assert limits["DP8 x EP8", 512] == 64


def test_throughput_is_per_gpu_of_the_replica() -> None:
    found = layout_grid(subject("llama-3.1-8b"), asked(16), [Layout(1), Layout(4)])
    one, four = found.evidence
    assert value(four, "output_tok_s").value * 4 == pytest.approx(
        four.metrics["output_tok_s"].value
    )
    assert value(one, "tpot_s") == one.metrics["tpot_s"]


def test_a_layout_that_does_not_fit_is_left_out_with_the_reason() -> None:
    found = layout_grid(subject("llama-3.1-70b"), asked(8), [Layout(1), Layout(4)])
    assert [x.layout for x in found.left_out] == ["TP1"]
    assert "GB per GPU short" in found.left_out[0].reason
    assert not found.steps
    with pytest.raises(DoesNotFitError, match="GB per GPU short"):
        layout_grid(subject(), asked(8), [Layout(1)])


@pytest.mark.parametrize(
    ("model", "layouts", "words"),
    [
        ("llama-3.1-70b", "TP4xEP4", "expert parallelism over 4 ranks needs experts"),
        ("llama-3.1-70b", "DP4", "needs experts; llama-3.1-70b has none: use 4 replicas"),
        ("llama-3.1-70b", "TP3", "does not divide the 64 attention heads; .*nearest: TP=2"),
        ("llama-3.1-70b", "TP1xPP81", "from 1 to the 80 layers; nearest: PP=80"),
        ("deepseek-r1", "TP8xEP4", "EP=4 with vLLM; allowed: 1 or 8"),
        ("deepseek-r1", "TP8xEP3", "3 ranks do not divide the 256 experts"),
        ("deepseek-r1", "TP16", "TP16 on 8 GPUs; allowed: layouts of up to 8"),
        ("deepseek-r1", "TP8,TP8", "layout TP8 is given twice"),
        ("deepseek-r1", "DP8xEP8", "batch 12 over the 8 copies .*allowed: multiples of 8"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(model: str, layouts: str, words: str) -> None:
    asked_for = [layout_of(name) for name in layouts.split(",")]
    with pytest.raises(InputError, match=words) as caught:
        layout_grid(subject(model), asked(12), asked_for)
    assert "\n" not in str(caught.value)


def test_an_engine_without_tp_inside_copies_says_what_it_has() -> None:
    with pytest.raises(InputError, match="TP=2 in TensorRT-LLM; allowed: TP=1"):
        layout_grid(subject(engine="trtllm"), asked(8), [layout_of("TP2xDP4xEP8")])
