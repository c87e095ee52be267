"""Every layout beside the plan's ranking: the same numbers, and what no row has."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shardwise.analysis.layouts import layouts_of
from shardwise.hardware.node import Node
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.planner.plan import explore
from shardwise.planner.question import Demand, Question
from shardwise.workload.workload import Slo


def question(model: str, gpu: str, rate: float | None = None) -> Question:
    subject, catalogue = subject_of(Asked(model, gpu))
    return Question(
        arch=subject.arch,
        node=Node(subject.gpu, 8),
        demand=Demand(2048, 512, request_rate=rate),
        profile=subject.calibrated.profile,
        siblings=catalogue.by_id,
        slo=Slo(tpot_s=0.05),
        weight_dtype=subject.arch.checkpoint_dtype,
        usd_per_gpu_hour=2.0,
    )


@pytest.mark.parametrize(("model", "gpu"), [("llama-3.1-70b", "h200"), ("gpt-oss-120b", "b200")])
def test_a_cell_at_a_candidates_batch_is_the_candidate(model: str, gpu: str) -> None:
    made = explore(question(model, gpu))
    for candidate in made.ranked:
        batch = candidate.evidence.workload.concurrency
        (cell,) = [
            c for c in layouts_of(made, (batch,)).cells if c.layout == candidate.deployment.layout
        ]
        for name, value in cell.metrics.items():
            expected = candidate.evidence.metrics[name]
            assert (value.value, value.lo, value.hi) == pytest.approx(
                (expected.value, expected.lo, expected.hi)
            )


def test_every_layout_that_runs_is_there_whatever_its_kind() -> None:
    made = explore(question("gpt-oss-120b", "h200"))
    found = layouts_of(made)
    assert set(found.layouts) == {c.deployment.layout for c in (*made.ranked, *made.missing)}
    names = {layout.name for layout in found.layouts}
    assert {"TP8", "TP8 x EP8", "TP4 x PP2"} <= names
    assert "no row has pipeline stages" in found.unseen["TP4 x PP2"]


def test_what_a_layout_carries_does_not_depend_on_what_is_asked() -> None:
    few, many = (layouts_of(explore(question("llama-3.1-70b", "h200", r))) for r in (0.5, 500.0))
    assert not many.ranked
    assert many.rejected
    assert few.most_carried("TP8") == many.most_carried("TP8")
    free = layouts_of(explore(question("llama-3.1-70b", "h200")))
    first = free.ranked[0]
    most = few.most_carried(first.deployment.layout.name)
    assert most
    assert most.value * 512 == pytest.approx(first.node_output_tok_s.value)


def test_a_layout_that_misses_the_bounds_carries_nothing_within_them() -> None:
    asked = replace(question("llama-3.1-70b", "h200", 0.5), slo=Slo(tpot_s=1e-4))
    assert layouts_of(explore(asked)).most_carried("TP8") is None
