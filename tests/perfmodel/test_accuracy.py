"""The regression gate: errors may not rise unless the committed table changes with them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Final

import msgspec
import pytest
from msgspec.structs import replace
from tests.reference import FOLDER, needs_reference

from shardwise.architecture.model import in_dtype
from shardwise.architecture.models import load
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.build import plain
from shardwise.perfmodel.hierarchy import model_key
from shardwise.perfmodel.intervals import QUEUED, half_width
from shardwise.perfmodel.knowledge import Asked
from shardwise.perfmodel.predicting import usable_rows
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.perfmodel.rows import Row, parse_rows, read_table
from shardwise.perfmodel.validation import GROUPINGS, kv_limited_recall, points_of, scores

RESULTS: Final = Path(__file__).resolve().parents[2] / "results"
COVERED: Final = ("layout", "family", "gpu", "engine")
SLACK_POINTS = 0.5


def calibration_rows() -> list[Row]:
    found = []
    for name in ("measurements.csv", "serving_2026.csv"):
        good, _ = usable_rows(read_table(FOLDER / name)[1])
        found += plain(good)
    return found


@needs_reference
def test_errors_have_not_risen_against_the_committed_table() -> None:
    committed = json.loads((RESULTS / "accuracy.json").read_text("utf-8"))
    found = {
        (s.group, s.metric): s
        for s in scores(
            points_of(calibration_rows(), bundled_profile()), GROUPINGS["gpu and engine"]
        )
    }
    assert {(c["group"], c["metric"]) for c in committed["scores"]} == set(found)
    for entry in committed["scores"]:
        score = found[entry["group"], entry["metric"]]
        assert score.mean_error_pct <= entry["mean_error_pct"] + SLACK_POINTS, entry


def test_the_committed_table_is_of_the_bundled_profile() -> None:
    committed = json.loads((RESULTS / "accuracy.json").read_text("utf-8"))
    folds = [msgspec.to_builtins(fold) for fold in bundled_profile().folds]
    assert committed["folds"] == folds


def test_four_fifths_of_what_was_left_out_lie_in_their_intervals_in_every_fold() -> None:
    """Up to 94 % of queued runs: a few are twice as slow as predicted, most are within 6 %; of MoE
    models, 103 of 113 rows are of one engine. Up to 90 % elsewhere: rows that are new in several
    ways have the widest of several widths."""
    for fold in bundled_profile().folds:
        if fold.fold in COVERED and fold.rows >= 40:
            assert 75 <= fold.covered_pct <= (94 if fold.metric == QUEUED else 90), fold


def test_each_group_left_out_is_covered_by_what_the_others_would_have_promised() -> None:
    """The next family, GPU, engine or layout: no error of its own is in the width that judges
    it."""
    crossed = {
        (f.fold, f.kind, f.metric): f.crossed_pct
        for f in bundled_profile().folds
        if f.fold in COVERED and f.metric in ("tpot_s", "ttft_s", "output_tok_s")
    }
    assert len(crossed) == 24
    for key, percent in crossed.items():
        assert percent is not None
        assert 75 <= percent <= 88.5, (key, percent)


@needs_reference
def test_kv_limited_rows_are_recognised() -> None:
    _, table = read_table(FOLDER / "measurements.csv")
    found, marked = kv_limited_recall(parse_rows(table)[0], bundled_profile())
    assert marked
    assert found / marked >= 0.9


def test_the_bundled_profile_says_where_it_came_from() -> None:
    profile = bundled_profile()
    assert "calibrate" in profile.provenance
    assert profile.created
    assert {e.metric for e in profile.errors} >= {"ttft_s", "tpot_s"}
    assert all(0 < width < 2 for width in profile.widths.values())


def test_intervals_widen_with_what_is_not_known() -> None:
    profile = bundled_profile()
    llama = in_dtype(load("llama-3.1-70b"), "fp8")
    known = Asked("h200", "vllm", "", model_key(llama), llama.family, "fp8", False)
    other_model = replace(known, model=model_key(load("qwen3-32b")), family="qwen3")
    new_family = replace(known, model="1x1x1:fp8", family="a new one")
    new_gpu = replace(known, gpu="gb300")
    new = replace(new_gpu, model="1x1x1:fp8", family="a new one")
    asked = (known, other_model, new_family, new)
    widths = [half_width(profile, a, "tpot_s", Layout(4)) for a in asked]
    assert widths == sorted(widths)
    assert widths[0] < 0.1
    assert half_width(profile, new_gpu, "tpot_s", Layout(4)) > widths[0]
    carried = replace(new_gpu, kernel_error=0.3)
    assert half_width(profile, carried, "tpot_s", Layout(4)) > 0.3
    for unusual in (Layout(4, pp_size=2), Layout(3)):
        assert half_width(profile, known, "tpot_s", unusual) > widths[0]
    # no row has pipeline stages; one public report has PP=2 30 % below TP=2
    assert half_width(profile, known, "tpot_s", Layout(4, pp_size=2)) > -math.log(1 - 0.3)


def test_an_engine_version_that_nothing_is_known_of_widens() -> None:
    profile = bundled_profile()
    llama = in_dtype(load("llama-3.1-70b"), "fp8")
    known = Asked("h200", "vllm", "", model_key(llama), llama.family, "fp8", False)
    future = replace(known, version="9.0")
    assert half_width(profile, future, "tpot_s", Layout(4)) > half_width(
        profile, known, "tpot_s", Layout(4)
    )


def test_an_unknown_profile_is_refused_by_name() -> None:
    from shardwise.errors import UnknownNameError
    from shardwise.perfmodel.profiles import load_profile

    with pytest.raises(UnknownNameError, match="no-such-node"):
        load_profile("no-such-node")
