"""What is exported is what `validate` and `calibrate` read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.evidence.export import (
    FORMATS,
    STEADY_WAVES,
    exported,
    row_of,
    why_not_a_row,
    write,
)
from shardwise.evidence.measured import Measured, count_reasons
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout
from shardwise.perfmodel.build import build_personal
from shardwise.perfmodel.estimate import predict
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.perfmodel.rows import parse_rows, read_table
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.perfmodel.validation import points_of
from shardwise.workload.workload import Workload

SLOWER = 1.25  #: than predicted, as this made-up node measures


def cells() -> list[Measured]:
    """Cells of a steady run, every time 25 % above the prediction."""
    subject, _ = subject_of(Asked("llama-3.1-8b", "h200", weight_dtype="bf16"))
    found = []
    for tp in (1, 2, 4):
        for c in (1, 8, 32):
            d = Deployment(
                model="llama-3.1-8b",
                gpu="h200",
                layout=Layout(tp_size=tp),
                limits=EngineLimits(max_num_seqs=c),
                dtypes=Dtypes(weight="bf16"),
            )
            load = Workload(512, 128, c, requests=1000 * c)
            (item,) = predict(subject, [d], [load])
            slower = {
                name: Interval(m.value * SLOWER, m.lo * SLOWER, m.hi * SLOWER, 30)
                for name, m in item.metrics.items()
                if name in {"ttft_s", "tpot_s", "e2e_latency_s"}
            }
            source = Source("measured", "test", "2026-01-01")
            found.append(Measured("s", f"{tp} {c}", Evidence(d, load, slower, source)))
    return found


def test_an_export_is_validated_and_calibrated(tmp_path: Path) -> None:
    assert write(cells(), tmp_path / "rows.csv") == 9
    rows, problems = parse_rows(read_table(tmp_path / "rows.csv")[1])
    assert not problems
    tpot = [p.error for p in points_of(rows, bundled_profile()) if p.metric == "tpot_s"]
    # 1 / 1.25 - 1 = -20 %
    assert tpot == pytest.approx([1 / SLOWER - 1] * 9, rel=1e-3)
    pytest.importorskip("scipy", reason="needs: pip install 'shardwise[calibrate]'")
    made = build_personal(rows, bundled_profile(), "node", "test", lambda *_: None)
    assert made.before_pct["tpot_s"] == pytest.approx(20, abs=0.5)
    # rows of one run share their errors, so nine of them move a fit two thirds of the way
    assert made.after_pct["tpot_s"] < 7


def test_a_client_bound_cell_is_no_figure_of_the_servers(tmp_path: Path) -> None:
    bound = cells()[0]
    bound = Measured("s", "bound", bound.evidence, {"client_bound": True})
    empty = Measured("s", "none", Evidence(bound.evidence.deployment, bound.evidence.workload, {},
                                           bound.evidence.source))  # fmt: skip
    assert write([bound, empty, *cells()[:1]], tmp_path / "rows.csv") == 1
    assert write([bound, empty], tmp_path / "all.json") == 2
    kept = json.loads((tmp_path / "all.json").read_text())
    assert kept[0]["conditions"] == {"client_bound": True}


def _under(cell: Measured, load: Workload, key: str = "k", **conditions: object) -> Measured:
    return Measured("s", key, replace(cell.evidence, workload=load), conditions)


def test_equal_lengths_and_a_steady_window_are_stated_in_the_row() -> None:
    equal = _under(cells()[0], Workload(512, 128, 8, length_spread=0.0))
    row = row_of(equal)
    assert (row["length_cv"], row["requests"]) == ("0", STEADY_WAVES * 8)


def test_each_cell_that_is_no_row_has_its_reason() -> None:
    item, closed = cells()[0], Workload(512, 128, 8)
    nothing = replace(item.evidence, metrics={})
    reasons = {
        "": item,
        "client-bound": _under(item, replace(closed, request_rate=2.0), client_bound=True),
        "without a completed request": Measured("s", "k", nothing, {"completed": 0}),
        "without a request in the steady window": Measured("s", "k", nothing, {"completed": 3}),
        "at a request rate, which rows cannot express": _under(
            item, replace(closed, request_rate=2.0)
        ),
        "with a trace's arrivals, which rows cannot express": _under(item, closed, trace="t.csv"),
        "with a shared prefix, of which rows need the cached part": _under(
            item, closed, shared_prefix=256
        ),
    }
    assert {reason: why_not_a_row(cell) for reason, cell in reasons.items()} == {
        reason: reason for reason in reasons
    }
    older = _under(item, closed, key="m tp=1 closed_loop trace=t.csv isl=512 osl=128 2026")
    assert why_not_a_row(older) == why_not_a_row(_under(item, closed, trace="t.csv"))
    every = [*reasons.values(), *reasons.values(), older]
    assert exported(every) == [item, item]
    assert count_reasons(map(why_not_a_row, [*every[:2], every[1]])) == "2 client-bound"


def test_parquet_holds_numbers(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs: shardwise[parquet]")
    assert write(cells(), tmp_path / "rows.parquet") == 9
    table = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert isinstance(table[0]["tpot_ms"], float)
    assert table[0]["tp"] == 1


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        write(cells(), tmp_path / "no" / "rows.csv")
    assert set(FORMATS) == {".csv", ".json", ".parquet"}
    assert list(tmp_path.iterdir()) == []


def test_exported_json_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    item = cells()[0]
    deployment = replace(item.evidence.deployment, model="/home/someone/Llama-3.1-8B")
    conditions = {"argv": ["/opt/venv/bin/python", "-m", "shardwise", "serve"], "seed": 3}
    local = replace(
        item, evidence=replace(item.evidence, deployment=deployment), conditions=conditions
    )
    write([local], tmp_path / "cells.json")
    text = (tmp_path / "cells.json").read_text("utf-8")
    (found,) = json.loads(text)
    assert found["evidence"]["deployment"]["model"] == "Llama-3.1-8B"
    assert found["conditions"] == {"argv": ["python", "-m", "shardwise", "serve"], "seed": 3}
    assert "/home" not in text
