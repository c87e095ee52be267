"""Calibration: recovers what made the rows, moves only what it may, and holds rows out honestly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="calibration needs SciPy")

from shardwise.errors import InputError
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.batches import group
from shardwise.perfmodel.build import build_personal, links_of
from shardwise.perfmodel.calibrate import fit
from shardwise.perfmodel.crossval import Fold, errors_of, folds_of, hold_out, row_folds
from shardwise.perfmodel.hierarchy import NAMES, Hierarchy, decode, encode
from shardwise.perfmodel.profiles import bundled_profile, load_profile, save_profile
from shardwise.perfmodel.rows import Row

GRID = [(tp, c, isl) for tp in (1, 2, 4, 8) for c in (1, 4, 16, 64) for isl in (256, 2048)]


def rows(gpu: str, engine: str, factor: float = 1.0, start: int = 1) -> list[Row]:
    """Rows that the bundled profile itself would measure, every time multiplied by `factor`."""
    blank = [
        Row(start + i, "llama-3.1-8b", gpu, engine, "bf16", "bf16", Layout(tp), "closed_loop", c,
            isl, 512.0, "made", "", "calibrate", None, 10.0 * c, {})
        for i, (tp, c, isl) in enumerate(GRID)
    ]  # fmt: skip
    (batch,), _ = group(blank)
    profile = bundled_profile()
    coefficients = profile.hierarchy.coefficients(batch.gpu, engine)
    served = batch.serve(coefficients, links_of(profile.lines)(batch))
    return [
        replace(
            row,
            observed={
                "ttft_s": float(served.ttft_s[i]) * factor,
                "tpot_s": float(served.tpot_s[i]) * factor,
            },
        )
        for i, row in enumerate(batch.rows)
    ]


def silent(_what: str, _done: int, _total: int) -> None:
    return


def test_a_slow_node_is_learnt_from_its_own_rows_and_others_stay() -> None:
    base = bundled_profile()
    made = build_personal(rows("h100", "vllm", 1.3), base, "slow", "test", silent)
    # every time was 30 % longer, so the base is 1 - 1 / 1.3 = 23 % too fast
    assert made.before_pct["tpot_s"] == pytest.approx(100 * (1 - 1 / 1.3), abs=0.1)
    assert made.after_pct["tpot_s"] < 4
    same = [k for k in base.offsets if k != "pair/h100/vllm"]
    assert all(made.profile.offsets[k] == base.offsets[k] for k in same)


def test_a_saved_profile_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDWISE_HOME", str(tmp_path))
    profile = replace_name("mine")
    save_profile(profile)
    assert load_profile("mine").offsets == profile.offsets
    (tmp_path / "profiles" / "broken.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        load_profile("broken")
    with pytest.raises(InputError, match="profile name"):
        load_profile("../escape")


def replace_name(name: str):  # type: ignore[no-untyped-def]
    import msgspec

    return msgspec.structs.replace(bundled_profile(), name=name)


def test_fewer_than_three_rows_are_refused() -> None:
    with pytest.raises(InputError, match="2 usable rows"):
        build_personal(rows("h200", "vllm")[:2], bundled_profile(), "few", "test", silent)


def test_what_a_fold_leaves_out_leaves_no_trace_in_its_fit() -> None:
    # H100's rows say that everything takes five times as long; a fit without them must not know
    kept, odd = rows("h200", "vllm"), rows("h100", "vllm", 5.0, start=1000)
    links = links_of(bundled_profile().lines)
    everything = fit(group([*kept, *odd])[0], links)
    fold = Fold("gpu", "h100", lambda r: r.gpu == "h100")
    informed = hold_out([*kept, *odd], fold, links, everything)
    fresh = hold_out([*kept, *odd], fold, links, None)
    for a, b in zip(informed, fresh, strict=True):
        assert np.mean(a.errors) == pytest.approx(np.mean(b.errors), abs=0.05)
        assert abs(np.mean(a.errors)) > 1  # five times too fast or too much: log 5 = 1.6


def test_versions_have_levels_of_their_own_where_several_were_measured() -> None:
    old = [replace(r, version="1.0") for r in rows("h200", "vllm", 1.2)]
    new = [replace(r, version="2.0") for r in rows("h200", "vllm", 1 / 1.2, start=1000)]
    single = [replace(r, version="7.0") for r in rows("h100", "vllm", start=2000)]
    links = links_of(bundled_profile().lines)
    found = fit(group([*old, *new, *single])[0], links)
    named = {key[1:] for key in found.offsets if key[0] == "version"}
    assert named == {("h200", "vllm", "1.0"), ("h200", "vllm", "2.0")}
    assert [f.kind for f in row_folds([*old, *new, *single])] == ["row"] * 4

    def mean_error(made: list[Row], versions: bool) -> float:
        held = errors_of(group(made)[0], found, links, "none", versions=versions)
        return float(np.mean([h.errors.mean() for h in held if h.metric == "tpot_s"]))

    # log 1.2 = 0.18 too fast for the old and too slow for the new where none is named
    assert abs(mean_error(old, True)) < 0.05 > abs(mean_error(new, True))
    assert -0.25 < mean_error(old, False) < -0.12 < 0.12 < mean_error(new, False) < 0.25


def test_folds_name_inner_and_outer_tps_and_each_gpu() -> None:
    kinds = [f.kind for f in folds_of([*rows("h200", "vllm"), *rows("h100", "vllm", start=900)])]
    assert kinds.count("tp_edge") == 4  # TP 1 and 8 of two GPUs
    assert kinds.count("tp_inside") == 4
    assert kinds.count("gpu") == 2
    assert kinds.count("engine") == 1


def test_a_model_is_left_out_where_a_gpu_and_engine_have_others() -> None:
    others = [replace(r, model="qwen3-32b") for r in rows("h200", "vllm", start=900)]
    made = [*rows("h200", "vllm"), *others, *rows("h100", "vllm", start=1800)]
    folds = [f for f in folds_of(made) if f.kind == "model"]
    assert [f.name for f in folds] == ["h200 vllm llama-3.1-8b", "h200 vllm qwen3-32b"]
    assert {(r.gpu, r.model) for r in made if folds[1].leaves_out(r)} == {("h200", "qwen3-32b")}


def test_offsets_survive_being_written_down() -> None:
    made = Hierarchy({("pair", "h200", "vllm"): np.linspace(-1, 1, len(NAMES))})
    again = decode(encode(made)).offsets["pair", "h200", "vllm"]
    assert again == pytest.approx(made.offsets["pair", "h200", "vllm"], abs=1e-4)
