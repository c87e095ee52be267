from __future__ import annotations

import csv
from pathlib import Path

import pytest

from shardwise.analysis.published import load_published, other_lengths

REFERENCE = Path(__file__).parents[3] / "shared/reference/published_tp_study.csv"


def test_the_published_study_names_its_source_and_what_it_ran() -> None:
    study = load_published()
    assert (study.model, study.gpu, study.weight_dtype) == ("llama-3.1-70b", "mi300x", "fp8")
    assert study.source.kind == "published"
    assert study.source.date == "2025-03-14"
    assert {step.source for step in study.steps} == {study.source}


def test_a_printed_whole_number_is_known_to_one_point_and_others_to_a_tenth() -> None:
    steps = {(s.metric, s.concurrency, s.from_tp, s.to_tp): s for s in load_published().steps}
    tenth, whole = steps["e2e_latency_s", 128, 2, 4], steps["e2e_latency_s", 128, 8, 4]
    assert (tenth.change_pct.lo, tenth.change_pct.hi) == pytest.approx((-41.4, -41.2))
    assert (whole.change_pct.lo, whole.change_pct.hi) == pytest.approx((53, 55))


def test_lengths_other_than_the_published_ones_are_named() -> None:
    study = load_published()
    assert not other_lengths(study, 2048, 2048, 0.0)
    assert other_lengths(study, 2048, 2048, 1.0) == (
        "published: requests of 2,048 + 2,048 tokens, all equal; "
        "here: 2,048 + 2,048 tokens, lengths vary by 100 %"
    )
    assert other_lengths(study, 1024, 256, 0.0).endswith("1,024 + 256 tokens, lengths are equal")


@pytest.mark.skipif(not REFERENCE.exists(), reason="../shared/reference is not beside the checkout")
def test_every_percentage_is_the_referenced_one() -> None:
    names = {"e2e_latency": "e2e_latency_s", "total_throughput": "total_tok_s"}
    with REFERENCE.open() as file:
        expected = {
            (names[r["metric"]], int(r["batch_size"]), int(r["from_tp"]), int(r["to_tp"])): float(
                r["change_pct"]
            )
            for r in csv.DictReader(file)
        }
    steps = load_published().steps
    assert {
        (s.metric, s.concurrency, s.from_tp, s.to_tp): s.change_pct.value for s in steps
    } == expected
    assert len(steps) == len(expected)
