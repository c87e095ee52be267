"""The regression gate: errors may not rise unless the committed table changes with them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.reference import FOLDER, needs_reference

from shardwise.architecture.models import load
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.perfmodel.rows import parse_rows, read_table
from shardwise.perfmodel.validation import GROUPINGS, kv_limited_recall, points_of, scores

SLACK_POINTS = 0.5


@needs_reference
def test_errors_have_not_risen_against_the_committed_table() -> None:
    from pathlib import Path

    committed = json.loads(
        (Path(__file__).resolve().parents[2] / "results" / "accuracy.json").read_text("utf-8")
    )
    _, table = read_table(FOLDER / "measurements.csv")
    rows = [row for row in parse_rows(table)[0] if row.use == "calibrate"]
    found = {
        (s.group, s.metric): s
        for s in scores(points_of(rows, bundled_profile()), GROUPINGS["gpu and engine"])
    }
    assert {(c["group"], c["metric"]) for c in committed["scores"]} == set(found)
    for entry in committed["scores"]:
        score = found[entry["group"], entry["metric"]]
        assert score.mean_error_pct <= entry["mean_error_pct"] + SLACK_POINTS, entry


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
    from shardwise.layout.deployment import Layout
    from shardwise.perfmodel.intervals import Seen, half_width

    profile = bundled_profile()
    llama = load("llama-3.1-70b").shape
    known = Seen("h200", "vllm", "fp8", llama, ("shared", "gpu", "engine", "pair"))
    other_model = replace(known, shape=load("qwen3-32b").shape)
    other_dtype = replace(known, weight_dtype="int4")
    new_gpu = Seen("mi355x", "vllm", "fp8", llama, ("shared", "engine"))
    new = Seen("mi355x", "sglang", "fp8", llama, ("shared",))
    asked = (known, other_model, other_dtype, new_gpu, new)
    widths = [half_width(profile, s, "tpot_s", Layout(4)) for s in asked]
    assert widths == sorted(widths)
    assert widths[0] < widths[1]
    assert widths[0] < 0.1 < widths[3]
    mi300x = replace(known, gpu="mi300x")
    assert half_width(profile, mi300x, "tpot_s", Layout(1)) > half_width(
        profile, mi300x, "tpot_s", Layout(8)
    )


def test_an_unknown_profile_is_refused_by_name() -> None:
    from shardwise.errors import UnknownNameError
    from shardwise.perfmodel.profiles import load_profile

    with pytest.raises(UnknownNameError, match="no-such-node"):
        load_profile("no-such-node")
