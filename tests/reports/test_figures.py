from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.reports.conftest import LATENCIES

from shardwise.analysis.cost import Node, node_costs
from shardwise.analysis.grid import Grid
from shardwise.analysis.layouts import cells_from
from shardwise.analysis.measured_comparison import beside
from shardwise.analysis.published import load_published
from shardwise.analysis.transitions import compare, transitions
from shardwise.errors import InputError
from shardwise.evidence.record import Source
from shardwise.reports.figure_pareto import (
    HEIGHT,
    VIEWS,
    WIDTH,
    Series,
    pareto_figure,
    pareto_rows,
)
from shardwise.reports.figure_style import DASHES, DRAWN, LINE, SHAPES, data, titled
from shardwise.reports.figures import (
    cell_errors,
    memory_per_gpu,
    render,
    save,
    time_breakdown,
    token_cost,
    tp_steps,
)
from shardwise.reports.memory import MemoryUse
from shardwise.workload.workload import Slo

WIDEST = 2 * 850  #: pixels at twice the scale: legible on a page of about 800


def svg(chart: Any) -> str:
    return render(chart, "svg").decode()


def slower(grid: Grid) -> Grid:
    """`grid` as if measured, a quarter slower: predictions are 1 / 1.25 - 1 = -20 % off."""
    return {
        at: replace(
            item,
            metrics={
                name: replace(m, value=m.value * 1.25, lo=m.lo * 1.25, hi=m.hi * 1.25, n=40)
                for name, m in item.metrics.items()
            },
            source=Source("measured", "hand-made"),
        )
        for at, item in grid.items()
    }


def build(name: str, grid: Grid) -> Any:
    uses = [
        MemoryUse("h100", 1, "fp8", {"weights": 72e9, "kv_cache": 10e9}, 80e9),
        MemoryUse("mi300x", 1, "fp8", {"weights": 72e9, "kv_cache": 10e9}, 192e9),
    ]
    charts: dict[str, Callable[[], Any]] = {
        "frontier": lambda: pareto_figure([series(grid)], "e2e_latency_s", "Every layout"),
        "tp_steps": lambda: tp_steps(compare(transitions(grid), load_published().steps)),
        "time_breakdown": lambda: time_breakdown(list(grid.values())),
        "memory": lambda: memory_per_gpu(uses, "Memory per GPU"),
        "errors": lambda: cell_errors(beside(grid.values(), slower(grid).values())),
        "cost": lambda: token_cost(node_costs(grid, Node(8))),
    }
    return charts[name]()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("frontier", ["E2E latency, s", "output tokens/s of the node", "80 % intervals", "TP8"]),
        ("tp_steps", ["change in %", "dashed outline: published: AMD ROCm blog", "batch 128"]),
        ("time_breakdown", ["time of a request, s", "communication", "queueing", "20 %"]),
        ("memory", ["memory of one GPU, GB", "KV cache", "2.00 GB short", "110 GB free"]),
        ("errors", ["TTFT, n = 6", "error, %", "batch per replica", "TP=8"]),
        (
            "cost",
            ["GPU-h per million output tokens", "one replica", "full node", "8 GPUs paid for"],
        ),
    ],
)
def test_a_figure_is_drawn_with_its_units_and_source(
    grid: Grid, tmp_path: Path, name: str, words: list[str]
) -> None:
    chart = build(name, grid)
    paths = save(chart, tmp_path, name)
    assert [p.name for p in paths] == [f"{name}.svg", f"{name}.png"]
    drawn = paths[0].read_text()
    assert drawn.startswith("<svg")
    for word in words:
        assert word in drawn
    png = paths[1].read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    assert 400 < width <= WIDEST
    assert height > 200


def test_no_two_kinds_of_evidence_look_alike() -> None:
    for look in (SHAPES, DRAWN, {kind: tuple(dash) for kind, dash in DASHES.items()}):
        assert len(set(look.values())) == 4


def series(grid: Grid, measured: Grid | None = None, gpus: int = 8) -> Series:
    cells = cells_from(grid.values(), gpus)
    return Series("mi300x", gpus, cells, None, measured=list((measured or {}).values()))


def test_measured_points_are_squares_over_the_predictions(grid: Grid, measured: Grid) -> None:
    rows = pareto_rows([series(grid, measured)], VIEWS["tok_s_per_user"])
    squares = {(r["layout"], r["batch"]): r for r in rows if r["role"] == "measured"}
    assert set(squares) == {(f"TP{tp}", batch) for tp, batch in LATENCIES}
    # TPOT = 0.8 x 4 x 1.05 s / 100 tokens; 16 x 101 tokens every 4 x 1.05 s on 8 GPUs
    at = squares["TP8", 16]
    assert at["x"] == pytest.approx(100 / (0.8 * 4 * 1.05))
    assert at["y"] == pytest.approx(16 * 101 / (4 * 1.05) / 8)


def test_the_frontier_is_one_line_that_nothing_beats(grid: Grid) -> None:
    for name, view in VIEWS.items():
        rows = pareto_rows([series(grid)], view)
        line = sorted((r for r in rows if r["role"] == "frontier"), key=lambda r: r["order"])
        sign = 1 if view.rate else -1
        for point in line:
            beaten = [
                c
                for c in rows
                if c["role"] == "cell"
                and sign * c["x"] >= sign * point["x"]
                and c["y"] >= point["y"]
                and (c["x"], c["y"]) != (point["x"], point["y"])
            ]
            assert not beaten, name


def test_a_bound_and_a_rate_are_lines_where_they_are_asked(grid: Grid) -> None:
    asked = replace(series(grid), slo=Slo(tpot_s=0.05), rate_tok_s=800.0)
    rows = pareto_rows([asked], VIEWS["tok_s_per_user"])
    assert [r["x"] for r in rows if r["role"] == "bound-x"] == [20.0]  # 1 / 50 ms
    assert [r["y"] for r in rows if r["role"] == "bound-y"] == [100.0]  # 800 tok/s on 8 GPUs


def test_names_along_a_frontier_do_not_cover_each_other(grid: Grid) -> None:
    rows = pareto_rows([series(grid)], VIEWS["tok_s_per_user"])
    wide, high = (max(r[k] for r in rows if r["role"] == "frontier") for k in "xy")
    names = [r for r in rows if r["role"] in ("name", "answer-name")]
    assert len(names) > 1
    boxes = []
    for row in names:
        left = row["x"] / wide * WIDTH + row["dx"]
        size = 0.5 * 11 * len(row["text"])
        bottom = HEIGHT * (1 - row["y"] / high) + row["dy"]
        boxes.append((left - size * (row["align"] == "right"), size, bottom))
    for (x, size, y), (other_x, other_size, other_y) in combinations(boxes, 2):
        beside = x + size <= other_x or other_x + other_size <= x
        assert beside or abs(y - other_y) > 11


def test_panels_of_time_share_their_scale(grid: Grid) -> None:
    spec = time_breakdown(list(grid.values())).to_dict()
    assert "independent" not in str(spec.get("resolve", ""))


def test_published_steps_are_outlines_and_ours_are_filled(grid: Grid) -> None:
    drawn = svg(tp_steps(compare(transitions(grid), load_published().steps)))
    assert 'stroke-dasharray="4,3"' in drawn
    # batch 16 and 128, TP1→2 only (the grid has no TP=4), both metrics: 4 outlines
    assert drawn.count('fill="white" stroke="#000000"') == 4


def test_batches_are_in_the_order_of_their_size(grid: Grid) -> None:
    drawn = svg(time_breakdown(list(grid.values())))
    assert drawn.index("batch 16") < drawn.index("batch 128")


def test_nothing_to_draw_is_one_clear_line(grid: Grid) -> None:
    bare = [replace(item, breakdown={}) for item in grid.values()]
    with pytest.raises(InputError, match="no results with a breakdown to show"):
        time_breakdown(bare)
    with pytest.raises(InputError, match="no steps up"):
        tp_steps([])


def test_importing_the_figures_does_not_load_altair() -> None:
    code = (
        "import sys, shardwise.reports.figures, shardwise.reports.tables, shardwise.reports.files;"
        "sys.exit(bool({'altair', 'vl_convert', 'rich', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_long_subtitle_goes_on_in_the_next_line() -> None:
    import altair as alt

    words = " ".join(["interval from errors on held-out rows"] * 6)
    made = titled(alt.Chart(data([{"x": 1}])).mark_bar(), "Title", [words, "second"]).to_dict()
    *first, second = made["title"]["subtitle"]
    assert " ".join(first) == words
    assert max(map(len, first)) <= LINE
    assert second == "second"
