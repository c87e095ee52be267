"""Calibration: recovers what made the rows, moves only what it may, and holds rows out honestly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip("scipy", reason="calibration needs SciPy")

from shardwise.errors import InputError
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.batches import group
from shardwise.perfmodel.build import build_personal
from shardwise.perfmodel.calibrate import fit, problem_of
from shardwise.perfmodel.crossval import Fold, folds_of, hold_out, in_sample
from shardwise.perfmodel.hierarchy import NAMES, Hierarchy, decode, encode
from shardwise.perfmodel.profiles import bundled_profile, load_profile, save_profile
from shardwise.perfmodel.rows import Row
from shardwise.perfmodel.shrinking import HOLDS, WHOLE
from shardwise.workload.workload import TRAFFIC_CV

GRID = [(tp, c, isl) for tp in (1, 2, 4, 8) for c in (1, 4, 16, 64) for isl in (256, 2048)]


def rows(gpu: str, engine: str, factor: float = 1.0, start: int = 1) -> list[Row]:
    """Rows that the bundled profile itself would measure, every time multiplied by `factor`."""
    blank = [
        Row(start + i, "llama-3.1-8b", gpu, engine, "bf16", "bf16", Layout(tp), "closed_loop", c,
            isl, 512.0, "made", "", "calibrate", None, 10.0 * c, {}, length_cv=TRAFFIC_CV)
        for i, (tp, c, isl) in enumerate(GRID)
    ]  # fmt: skip
    (batch,), _ = group(blank)
    profile = bundled_profile()
    served = batch.serve(profile.hierarchy.coefficients(*batch.identity))
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


def with_noise(some: list[Row], tpot: float, ttft_spread: float, seed: int) -> list[Row]:
    """Rows whose TPOT is `tpot` times as long, and whose TTFT is right but for its noise."""
    drawn = np.random.default_rng(seed)
    return [
        replace(
            row,
            observed={
                "ttft_s": row.observed["ttft_s"] * float(np.exp(drawn.normal(0.0, ttft_spread))),
                "tpot_s": row.observed["tpot_s"] * tpot,
            },
        )
        for row in some
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
    assert made.profile.own_widths["h100/vllm/tpot_s"] > 0
    assert all(made.profile.offsets[k] == base.offsets[k] for k in same)


def test_a_calibration_makes_no_metric_worse_on_rows_that_it_never_saw() -> None:
    base = bundled_profile()
    every = with_noise(rows("h100", "vllm"), 1.3, 0.3, seed=2)
    made = build_personal(every[::2], base, "half", "test", silent)
    assert all(made.after_pct[m] <= before + 1e-6 for m, before in made.before_pct.items())
    unseen = problem_of(group(every[1::2])[0])
    before, after = (in_sample(unseen, p.hierarchy) for p in (base, made.profile))
    for metric in ("tpot_s", "ttft_s", "e2e_latency_s", "output_tok_s"):
        old, new = (
            np.mean([abs(np.expm1(m.error)) for m in some if m.metric == metric])
            for some in (before, after)
        )
        assert new <= old * 1.1, metric  # noise of 16 rows: 0.3 / 4, of which a part is kept
        assert metric == "ttft_s" or new < 0.5 * old


def test_rows_that_are_only_noise_move_nothing() -> None:
    base = bundled_profile()
    made = build_personal(with_noise(rows("h100", "vllm"), 1.0, 0.3, 5), base, "n", "test", silent)
    assert not made.is_supported
    assert made.after_pct == made.before_pct
    unseen = problem_of(group(rows("h100", "vllm"))[0])
    found = [in_sample(unseen, p.hierarchy) for p in (base, made.profile)]
    assert [m.error for m in found[0]] == [m.error for m in found[1]]
    forced = build_personal(
        with_noise(rows("h100", "vllm"), 1.0, 0.3, 5), base, "n", "test", silent, force=True
    )
    assert forced.shares == WHOLE
    assert forced.after_pct["ttft_s"] != forced.before_pct["ttft_s"]


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
    problem = problem_of(group([*rows("h200", "vllm"), *rows("h100", "vllm", 5.0, start=1000)])[0])
    fold = Fold("gpu", "h100", lambda b, _r: b.gpu.id == "h100")
    informed = hold_out(problem, fold, fit(problem))
    fresh = hold_out(problem, fold, Hierarchy({}))
    assert [m.error for m in informed] == pytest.approx([m.error for m in fresh], abs=0.1)
    tpot = np.mean([m.error for m in informed if m.metric == "tpot_s"])
    assert tpot == pytest.approx(-np.log(5.0), abs=0.3)
    assert {m.unseen for m in informed} == {("gpu",)}


def test_versions_have_levels_of_their_own_where_several_were_measured() -> None:
    old = [replace(r, version="1.0") for r in rows("h200", "vllm", 1.2)]
    new = [replace(r, version="2.0") for r in rows("h200", "vllm", 1 / 1.2, start=1000)]
    single = [replace(r, version="7.0") for r in rows("h100", "vllm", start=2000)]
    problem = problem_of(group([*old, *new, *single])[0])
    found = fit(problem)
    named = {key[1:] for key in found.offsets if key[0] == "version"}
    assert named == {("h200", "vllm", "1.0"), ("h200", "vllm", "2.0")}
    errors = {
        version: np.mean(
            [
                m.error
                for m in in_sample(problem, found)
                if m.metric == "tpot_s" and m.row.version == version
            ]
        )
        for version in ("1.0", "2.0")
    }
    assert abs(errors["1.0"]) < 0.08 > abs(errors["2.0"])


def test_folds_leave_out_each_layout_gpu_engine_and_family() -> None:
    others = [replace(r, model="qwen3-32b") for r in rows("h200", "vllm", start=900)]
    made = [*rows("h200", "vllm"), *others, *rows("h100", "vllm", start=1800)]
    folds = list(folds_of(group(made)[0]))
    kinds = [f.kind for f in folds]
    # two models of one pair take turns, the other pair's fold goes along: 2 x 4 numbers of GPUs
    assert kinds.count("layout") == 8
    assert sorted(f.name for f in folds if f.kind == "family") == ["llama", "qwen3"]
    assert sorted(f.name for f in folds if f.kind == "gpu") == ["h100", "h200"]
    assert kinds.count("engine") == 1
    assert kinds.count("row") == 4
    assert kinds.count("model") == 2


def test_offsets_survive_being_written_down() -> None:
    made = Hierarchy({("pair", "h200", "vllm"): np.linspace(-1, 1, len(NAMES))})
    again = decode(encode(made)).offsets["pair", "h200", "vllm"]
    assert again == pytest.approx(made.offsets["pair", "h200", "vllm"], abs=1e-3)


def test_rows_that_agree_are_followed_to_within_two_percent() -> None:
    made = build_personal(rows("h100", "vllm", 1.3), bundled_profile(), "clean", "test", silent)
    assert made.shares.hold == min(HOLDS)
    assert made.after_pct["tpot_s"] < 2
