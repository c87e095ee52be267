"""The table of layouts on the accuracy page compares rows of one engine version where it can."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from shardwise.layout.deployment import Layout
from shardwise.perfmodel.crossval import Miss
from shardwise.perfmodel.rows import Row

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from accuracy_layouts import SEVERAL, cells, choices

CUT, WHOLE = Layout(tp_size=2), Layout(tp_size=2, ep_size=2)


def miss(layout: Layout, version: str, measured_s: float, predicted_s: float) -> Miss:
    row = Row(
        1,
        "m",
        "b200",
        "vllm",
        "fp8",
        "",
        layout,
        "closed_loop",
        8.0,
        1024.0,
        1024.0,
        "mine",
        version,
        "calibrate",
        None,
        80.0,
        observed={"tpot_s": measured_s},
    )
    error = math.log(predicted_s / measured_s)
    return Miss("family", "m", "b200", "vllm", "m", True, "tpot_s", (), error, row)


def test_layouts_of_one_version_are_compared_and_another_version_is_left_out() -> None:
    older = miss(WHOLE, "0.17.0", 0.020, 0.009)
    newer = [miss(CUT, "0.19.0", 0.010, 0.010), miss(WHOLE, "0.19.0", 0.0101, 0.009)]
    (found,) = choices([older, *newer], "tpot_s")
    assert found.version == "0.19.0"
    assert found.worse == pytest.approx(0.01)  # whole experts are predicted faster


def test_rows_of_several_versions_are_compared_where_no_version_has_both() -> None:
    rows = [miss(CUT, "0.19.0", 0.010, 0.010), miss(WHOLE, "0.17.0", 0.012, 0.009)]
    (found,) = choices(rows, "tpot_s")
    assert found.version == SEVERAL
    assert found.worse == pytest.approx(0.2)
    unknown = [replace(m, row=replace(m.row, version="")) for m in rows]
    (cell,) = cells(unknown, "tpot_s")
    assert cell[-1] == SEVERAL  # two unknown versions are not known to be equal
