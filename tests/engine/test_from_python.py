"""The built-in engine from Python: a served model is measured, a layer explained, steps timed."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

torch = pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")
pytest.importorskip("psutil", reason="needs: pip install 'shardwise[host]'")

from shardwise import bench_run, explain, profile_steps, serve  # noqa: E402
from shardwise.replica.processes import Process  # noqa: E402
from shardwise.replica.running import EngineError  # noqa: E402


def test_a_served_model_is_measured_and_gone_after_the_block(llama: Path) -> None:
    with serve(str(llama), dtype="fp32") as served:
        assert Process.of(served.pid).alive
        found = bench_run(
            served.url, concurrencies=[2], isl=16, osl=4, requests=4, min_repeats=1, max_repeats=1
        )
        leader = Process.of(served.pid)
    assert not leader.alive
    (cell,) = found.cells
    assert cell.conditions["completed"] == 4
    assert cell.evidence.deployment.engine == "builtin"
    assert cell.evidence.deployment.model == served.model == llama.name
    assert served.ready_s > 0


def test_an_engine_that_cannot_start_says_why(llama: Path, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such module\nexit 3\n")
    broken.chmod(0o755)
    with (
        pytest.raises(EngineError, match="did not start: exit code 3: no such module;") as caught,
        serve(str(llama), python=str(broken), log_file=tmp_path / "engine.log"),
    ):
        pytest.fail("the block must not be entered")
    assert caught.value.last_lines == ("no such module",)
    assert (tmp_path / "engine.log").read_text() == "no such module\n"


def test_a_layer_has_its_shards_and_sums_as_tables(llama: Path) -> None:
    found = explain(str(llama), tp_size=2, prompt="1 2 3")
    assert found.summary() == "Layer 0 on 2 ranks, 3 tokens"
    weights = {row[0].text: [cell.text for cell in row[1:]] for row in found.table().rows}
    assert weights["mlp.down_proj"] == ["64x96", "columns", "0-47", "48-95"]
    rows = [[cell.value for cell in row] for row in found.table("sums").rows]
    for part in ("attention", "mlp"):
        values = {row[1]: row[2:] for row in rows if row[0] == part}
        added = [a + b for a, b in zip(values["rank 0"], values["rank 1"], strict=True)]  # type: ignore[operator]
        assert added == pytest.approx(values["unsharded"], abs=1e-4)
    assert found.to_dict()["kind"] == "explain"


def test_steps_are_a_table_of_latencies_and_one_of_parts_for_each(llama: Path) -> None:
    seen: list[object] = []
    found = profile_steps(
        str(llama), batches=(1, 2), isl=16, osl=4, repeats=2, device="cpu", done=seen.append
    )
    assert seen == list(found.found)
    assert [row[4].value for row in found.table().rows] == [1, 2]
    names = [table.name for table in found.tables()]
    assert names[:2] == ["evidence", "parts_tp1_batch1"]
    assert len(names) == len(set(names))
    for one in found.found:
        (rank,) = one.profile.decode
        assert one.evidence.metrics["tpot_s"].value == pytest.approx(median(rank.totals_s))
