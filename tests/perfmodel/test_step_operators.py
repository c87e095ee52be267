"""A decode step by operator: it adds up, and says what was measured."""

from __future__ import annotations

import pytest

from shardwise.evidence.record import Evidence
from shardwise.kernels.provenance import Provenance
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.perfmodel.estimate import Subject, predict
from shardwise.perfmodel.step_operators import StepOperators, step_operators
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.workload.workload import Workload

ASKED = [
    ("llama-3.1-70b", "h200", Layout(1)),
    ("llama-3.1-70b", "mi300x", Layout(4)),
    ("llama-3.1-70b", "h200", Layout(4, 2)),
    ("gpt-oss-120b", "h200", Layout(2, ep_size=2)),
    ("deepseek-r1", "b200", Layout(8)),
    ("qwen3-next-80b-a3b", "mi355x", Layout(2)),
]


def apart(model: str, gpu: str, layout: Layout, batch: int) -> tuple[StepOperators, Evidence]:
    subject: Subject = subject_of(Asked(model, gpu))[0]
    dtypes = Dtypes(subject.weight_dtype, subject.setting.kv_dtype)
    deployment = Deployment(model, gpu, layout, dtypes=dtypes)
    (cell,) = predict(subject, [deployment], [Workload(2048, 512, batch)])
    return step_operators(subject, cell), cell


@pytest.mark.parametrize(("model", "gpu", "layout"), ASKED)
@pytest.mark.parametrize("batch", [1, 32])
def test_operators_add_up_to_the_step_and_the_step_is_within_tpot(
    model: str, gpu: str, layout: Layout, batch: int
) -> None:
    found, cell = apart(model, gpu, layout, batch)
    assert sum(o.seconds for o in found.operators) == pytest.approx(found.step_s)
    assert all(o.seconds >= 0 for o in found.operators)
    assert found.step_s <= cell.metrics["tpot_s"].value * 1.02


def test_one_request_alone_waits_for_no_other_prompt() -> None:
    found, cell = apart("llama-3.1-70b", "h200", Layout(4), 1)
    assert found.sequences == 1
    assert found.step_s == pytest.approx(cell.metrics["tpot_s"].value, rel=0.02)


def test_sequences_that_decode_follow_littles_law() -> None:
    found, cell = apart("llama-3.1-70b", "h200", Layout(4), 64)
    e2e, ttft = (cell.metrics[name].value for name in ("e2e_latency_s", "ttft_s"))
    assert found.sequences == pytest.approx(64 * (e2e - ttft) / e2e)


def test_more_ranks_bring_an_all_reduce_and_one_has_none() -> None:
    alone, four = (apart("llama-3.1-70b", "h200", Layout(tp), 16)[0] for tp in (1, 4))
    assert "all-reduce" not in {o.name for o in alone.operators}
    assert "all-reduce" in {o.name for o in four.operators}


def test_products_of_a_gpu_with_its_own_table_are_measured_or_between_measured() -> None:
    found, _ = apart("llama-3.1-70b", "h200", Layout(1), 32)
    known = {o.name: o.provenance for o in found.operators}
    assert known["gate_up_proj"] in (Provenance.MEASURED, Provenance.INTERPOLATED)
    assert known["engine, between steps"] is None
