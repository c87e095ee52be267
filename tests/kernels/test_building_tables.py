"""How raw timings become tables: what is merged, dropped, relabelled, and that nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from tests.reference import FOLDER, needs_reference

from shardwise.errors import UnknownNameError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.kernels import all_reduce, store
from shardwise.kernels.collectives import ALL_REDUCE, REDUCE_SCATTER
from shardwise.kernels.experts import EXPERTS
from shardwise.kernels.gemm import GEMM
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array
from shardwise.kernels.roofline import rates_of
from shardwise.kernels.store import index

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from kernel_tables import aiter, checks  # noqa: E402
from kernel_tables.compile import compile_all  # noqa: E402
from kernel_tables.outliers import without_outliers  # noqa: E402
from kernel_tables.rows import Rows  # noqa: E402
from kernel_tables.sources import collective_rows  # noqa: E402
from kernel_tables.tabulate import newest, tabulate, version_key  # noqa: E402


def rows(
    shape: Array, work: Array, seconds: Array, gpu: str = "h200", engine: str = "vllm"
) -> Rows:
    size = len(seconds)
    return Rows(
        gpu=np.array([gpu] * size),
        engine=np.array([engine] * size),
        version=np.array(["1.0"] * size),
        variant=np.array(["bf16"] * size),
        shape=np.asarray(shape, dtype=np.float64),
        work=np.asarray(work, dtype=np.float64),
        seconds=np.asarray(seconds, dtype=np.float64),
    )


def gemms(seconds: Array, gpu: str = "h200", engine: str = "vllm") -> Rows:
    """One row per m = 1, 2, 4, ... of a 4096 x 4096 product."""
    work = np.asarray(2.0 ** np.arange(len(seconds))[:, None], dtype=np.float64)
    return rows(np.full((len(seconds), 2), 4096.0), work, seconds, gpu, engine)


def least(part: Rows, operator: Operator = GEMM) -> Array:
    rates = rates_of(default_catalogue().gpu(str(part.gpu[0])))
    return operator.ideal(rates, "bf16", list(part.shape.T), list(part.work.T))


def test_versions_are_ordered_by_their_numbers() -> None:
    versions = ["1.3.0rc20", "1.3.0rc9", "0.27.0", "0.1.dev19262", "2026-08-22"]
    order = sorted(versions, key=version_key)
    assert order == ["0.1.dev19262", "0.27.0", "1.3.0rc9", "1.3.0rc20", "2026-08-22"]


def test_of_one_point_the_newest_version_stays_and_of_repeats_the_median() -> None:
    part = rows(np.ones((4, 2)), np.ones((4, 1)), np.array([9.0, 1.0, 4.0, 2.0]))
    part.version[:] = ["0.9", "1.1", "1.1", "1.1"]
    merged = newest(part)
    assert len(merged) == 1
    assert merged.seconds[0] == pytest.approx(2.0)


def test_a_table_has_a_hole_where_nothing_was_measured() -> None:
    shape = np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    table = tabulate(rows(shape, np.array([[1.0], [8.0], [8.0]]), np.array([1.0, 2.0, 4.0])))
    assert table.axes[0].tolist() == [1.0, 8.0]
    assert np.isnan(table.log2_seconds[1, 0])
    assert table.log2_seconds[:, 1].tolist() == [1.0, 2.0]


def test_many_values_of_work_are_resampled_on_powers_of_two() -> None:
    work = np.arange(3.0, 300.0)[:, None]
    table = tabulate(rows(np.ones((len(work), 2)), work, work[:, 0] * 1e-6))
    assert table.axes[0].tolist() == [2.0**n for n in range(1, 10)]
    inside = (table.axes[0] >= 3) & (table.axes[0] <= 299)
    assert np.exp2(table.log2_seconds[0, inside]) == pytest.approx(table.axes[0][inside] * 1e-6)
    assert np.isnan(table.log2_seconds[0, ~inside]).all()


def test_a_table_that_holds_the_hosts_launch_is_dropped() -> None:
    flat = gemms(np.full(12, 60e-6))
    honest = gemms(np.geomspace(4e-6, 60e-6, 12), engine="sglang")
    parts = {("h200", "vllm", "bf16"): flat, ("h200", "sglang", "bf16"): honest}
    (finding,) = checks.host_launches(GEMM, parts)
    assert finding.key == ("h200", "vllm", "bf16")
    assert finding.dropped
    assert "60 us, another engine 4" in finding.reason


def test_a_launch_twice_as_long_is_doubtful_and_stays() -> None:
    slow = gemms(np.full(12, 70e-6))
    honest = gemms(np.full(12, 30e-6), engine="sglang")
    parts = {("h200", "vllm", "bf16"): slow, ("h200", "sglang", "bf16"): honest}
    (finding,) = checks.host_launches(GEMM, parts)
    assert not finding.dropped


def test_a_first_point_slower_than_the_second_is_dropped() -> None:
    table = tabulate(gemms(np.array([20e-6, 6e-6, 6e-6, 7e-6])))
    kept, findings = checks.without_spike(GEMM, ("h200", "vllm", "bf16"), table)
    assert kept.axes[0].tolist() == [2.0, 4.0, 8.0]
    assert "m 1 is 3.3 times slower" in findings[0].reason


def test_times_below_the_roofline_are_impossible() -> None:
    part = rows(np.full((12, 2), 65536.0), np.arange(1.0, 13.0)[:, None], np.ones(12))
    fast = replace(part, seconds=least(part) * 0.5)
    rates = {"h200": rates_of(default_catalogue().gpu("h200"))}
    (finding,) = checks.impossible(GEMM, {("h200", "vllm", "bf16"): fast}, rates)
    assert "0.50 of their roofline" in finding.reason


def test_a_point_that_no_sibling_confirms_is_dropped() -> None:
    times = np.geomspace(5e-6, 50e-6, 12)
    disturbed = times.copy()
    disturbed[3] *= 4
    parts = {
        ("h200", "vllm", "bf16"): gemms(disturbed),
        ("h100", "vllm", "bf16"): gemms(times, gpu="h100"),
        ("l40s", "vllm", "bf16"): gemms(times, gpu="l40s"),
    }
    rates = {gpu: rates_of(default_catalogue().gpu(gpu)) for gpu, _, _ in parts}
    kept, findings = without_outliers(GEMM, parts, rates)
    assert 8.0 not in kept["h200", "vllm", "bf16"].work
    assert len(kept["h100", "vllm", "bf16"]) == 12
    assert [finding.points for finding in findings] == [1]


def test_bf16_experts_faster_than_memory_are_four_bits() -> None:
    shape = np.tile([7168.0, 512.0, 256.0, 8.0, 1.0, 3.0], (4, 1))
    part = rows(shape, np.array([[1.0], [16.0], [64.0], [256.0]]), np.ones(4), "mi355x", "aiter")
    floor = least(part, EXPERTS)
    for share, name in ((0.3, "mxfp4"), (0.6, "fp8"), (1.2, "bf16")):
        timed = replace(part, seconds=floor * share + 1e-9 * part.work[:, 0])
        named, _ = aiter.corrected(EXPERTS, timed)
        assert set(named.variant.tolist()) == {name}


def test_a_time_copied_to_more_tokens_is_dropped() -> None:
    shape = np.tile([7168.0, 512.0, 256.0, 8.0, 1.0, 3.0], (3, 1))
    times = np.array([1.0, 2.0, 2.0])
    part = rows(shape, np.array([[64.0], [256.0], [1024.0]]), times, "mi355x", "aiter")
    kept, findings = aiter.corrected(EXPERTS, part)
    assert sorted(kept.work[:, 0].tolist()) == [64.0, 256.0]
    assert findings[0].points == 1


def test_every_table_names_its_source_and_its_error() -> None:
    entries = index().entries
    assert sum(entry.points for entry in entries) > 1_000_000
    for entry in entries:
        assert entry.versions
        assert entry.launch_s > 0
        assert 0.6 <= entry.memory_share <= 1.0
        assert entry.gpu in index().rates


def test_the_tables_stay_small() -> None:
    assert sum(path.stat().st_size for path in store.DATA.iterdir()) < 5e6


@needs_reference
def test_all_reduces_of_a_gpu_are_those_of_the_reference() -> None:
    part = collective_rows(FOLDER)[ALL_REDUCE]
    mine = (part.gpu == "h200") & (part.engine == "trtllm") & (part.variant == "graph")
    part = part.take(mine)
    times = all_reduce(default_catalogue().gpu("h200"), "trtllm", part.shape[:, 0], part.work[:, 0])
    error = np.abs(times.seconds / part.seconds - 1.0)
    assert np.median(error) < 0.001
    assert np.mean(error > 0.02) < 0.1  # where the measured times fall as messages grow
    assert (times.provenance == 0).all()


@needs_reference
def test_the_shipped_tables_are_built_from_the_reference(tmp_path: Path) -> None:
    built = compile_all([{REDUCE_SCATTER: collective_rows(FOLDER)[REDUCE_SCATTER]}], tmp_path / "a")
    files = sorted((tmp_path / "a").glob("*.xz"))
    assert len(files) == len(built.rates) == 9
    for file in files:
        assert file.read_bytes() == (store.DATA / file.name).read_bytes(), file.name
    fresh = store.read_index(tmp_path / "a" / "index.json").entries
    shipped = [entry for entry in index().entries if entry.operator == REDUCE_SCATTER.name]
    # not compared: errors that depend on the catalogue of the day
    assert [(e.label, e.points, e.launch_s, e.offset) for e in fresh] == [
        (e.label, e.points, e.launch_s, e.offset) for e in shipped
    ]


def test_tables_stay_as_they_are_if_building_new_ones_fails(tmp_path: Path) -> None:
    (tmp_path / "gemm.h200.xz").write_bytes(b"kept")
    unknown = gemms(np.array([1e-5, 2e-5, 3e-5, 4e-5]), gpu="no-such-gpu")
    with pytest.raises(UnknownNameError, match="no-such-gpu"):
        compile_all([{GEMM: unknown}], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["gemm.h200.xz"]


def test_a_wrong_folder_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "kernels.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "has no kernels/gemm.csv.gz" in done.stderr
    assert "Traceback" not in done.stderr
