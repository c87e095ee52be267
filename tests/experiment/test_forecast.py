"""Predictions are kept as they were made before the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardwise.errors import InputError
from shardwise.evidence.record import Evidence
from shardwise.experiment.design import Cell
from shardwise.experiment.forecast import FILE, forecast, kept_forecasts
from shardwise.experiment.split import Split
from shardwise.layout.deployment import Deployment, Layout
from shardwise.perfmodel.profiles import load_profile
from shardwise.workload.workload import Workload


def cell(replicas: int, batch: int) -> Cell:
    return Cell(Split(1, replicas), Workload(1024, 128, batch))


def made(asked: Cell) -> Evidence:
    deployment = Deployment(
        model="llama-3.1-8b",
        gpu="h200",
        layout=Layout(tp_size=1, replicas=asked.split.replicas),
    )
    return forecast(asked, deployment, load_profile("reference"))


def test_replicas_that_share_a_load_have_each_others_latency_and_add_their_throughput() -> None:
    four, one = made(cell(4, 32)), made(cell(1, 8))
    assert four.metrics["tpot_s"].value == pytest.approx(one.metrics["tpot_s"].value)
    assert four.metrics["output_tok_s"].value == pytest.approx(
        4 * one.metrics["output_tok_s"].value
    )
    # a single request keeps one of four busy
    alone = made(cell(4, 1))
    assert alone.metrics["output_tok_s"].value < one.metrics["output_tok_s"].value


def test_a_prediction_that_is_there_is_never_made_again(tmp_path: Path) -> None:
    first = kept_forecasts(tmp_path, {"a": cell(1, 1)}, made)
    wanted = {"a": cell(1, 1), "b": cell(1, 8)}
    later = kept_forecasts(tmp_path, wanted, lambda _: made(cell(1, 8)))
    assert later["a"] == first["a"]
    assert later["b"].evidence != first["a"].evidence


def test_a_damaged_file_of_predictions_is_one_error(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        kept_forecasts(tmp_path, {}, made)
