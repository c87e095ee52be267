from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shardwise.analysis.beside import beside
from shardwise.analysis.cost import Node, node_costs
from shardwise.analysis.frontier import points
from shardwise.analysis.grid import Grid
from shardwise.analysis.published import load_published
from shardwise.analysis.transitions import compare, transitions
from shardwise.errors import InputError
from shardwise.evidence.record import Source
from shardwise.reports.figure_style import DASHES, DRAWN, SHAPES
from shardwise.reports.figures import (
    cell_errors,
    memory_per_gpu,
    render,
    save,
    throughput_latency,
    time_breakdown,
    token_cost,
    tp_steps,
)
from shardwise.reports.memory import MemoryUse

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
        "throughput_latency": lambda: throughput_latency(points(grid.values(), gpus=8)),
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
        ("throughput_latency", ["E2E latency of a request, s", "tok/s", "80 % intervals", "TP=8"]),
        ("tp_steps", ["change in %", "dashed outline: published: AMD ROCm blog", "batch 128"]),
        ("time_breakdown", ["time of a request, s", "communication", "queueing", "20 %"]),
        ("memory", ["memory of one GPU, GB", "KV cache", "2.00 GB short", "110 GB free"]),
        ("errors", ["TTFT, n = 6", "error, %", "batch per copy", "TP=8"]),
        ("cost", ["GPU-h per million output tokens", "one copy", "full node", "8 GPUs paid for"]),
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


def test_measured_and_predicted_are_told_apart_in_words_and_lines(
    grid: Grid, measured: Grid
) -> None:
    drawn = svg(throughput_latency(points([*grid.values(), *measured.values()])))
    assert "predicted (solid, circles): hand-made" in drawn
    assert "measured (dashed, squares): hand-made" in drawn
    assert "measured n=40" in drawn
    assert 'stroke-dasharray="8,4"' in drawn
    assert "(solid" not in svg(throughput_latency(points(grid.values())))


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
