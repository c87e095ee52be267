"""What no row of a fit has."""

from __future__ import annotations

from shardwise.layout.deployment import Layout
from shardwise.perfmodel.estimate import note_on
from shardwise.perfmodel.intervals import half_widths
from shardwise.perfmodel.profiles import Seen, bundled_profile
from shardwise.perfmodel.rows import parse_row
from shardwise.perfmodel.subject import Asked, subject_of

MI355X_ROW = {
    "model_id": "gpt-oss-120b", "gpu_id": "mi355x", "engine_id": "vllm", "tp": "1",
    "mode": "serving_closed_loop", "concurrency": "4", "isl": "1024", "osl": "1024",
}  # fmt: skip


def test_a_row_names_the_plugin_it_ran_with() -> None:
    named = MI355X_ROW | {"engine": "vLLM + ATOM plugin 2026-05 (median of 2 runs)"}
    assert parse_row(1, named).plugin == "ATOM"
    assert not parse_row(1, MI355X_ROW).plugin


def test_an_engine_that_was_measured_only_with_a_plugin_is_not_calibrated_without_it() -> None:
    """All rows of vLLM on MI355X ran AMD's kernels and model code."""
    vllm, _ = subject_of(Asked("gpt-oss-120b", "mi355x", engine="vllm"))
    atom, _ = subject_of(Asked("gpt-oss-120b", "mi355x", engine="atom"))
    known = vllm.calibrated.profile.knowledge
    assert known.unseen(vllm.asked, Layout()) == ("plugin",)
    assert known.unseen(atom.asked, Layout()) == ()
    assert "not calibrated" in note_on(vllm)
    assert "ran with a plugin that replaces its kernels" in note_on(vllm)
    assert known.far(vllm.asked, Layout()) == (
        "all rows of mi355x with vLLM ran with the plugin ATOM"
    )
    assert "not calibrated" not in note_on(atom)


def test_its_interval_is_at_least_that_of_a_pair_that_was_never_seen() -> None:
    vllm, _ = subject_of(Asked("gpt-oss-120b", "mi355x", engine="vllm"))
    atom, _ = subject_of(Asked("gpt-oss-120b", "mi355x", engine="atom"))
    mode, metrics = "closed_loop", ("tpot_s",)
    plain, own = (
        half_widths(s.calibrated.profile, s.asked, metrics, Layout(), mode)["tpot_s"]
        for s in (vllm, atom)
    )
    assert plain > own


def test_a_users_row_without_the_plugin_calibrates_the_engine_itself() -> None:
    measured = Seen(versions={"mi355x/vllm": [""]}, plugins={"mi355x/vllm": [""]})
    known = bundled_profile().seen.with_more(measured).knowledge
    vllm, _ = subject_of(Asked("gpt-oss-120b", "mi355x", engine="vllm"))
    assert known.plugins["mi355x/vllm"] == {"", "ATOM"}
    assert "plugin" not in known.unseen(vllm.asked, Layout())
