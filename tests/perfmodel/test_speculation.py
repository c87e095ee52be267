"""Drafted tokens: what a step costs and gives, and the measured twins with and without MTP."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.reference import needs_reference

from shardwise.architecture.drafts import draft_pass, draft_weights
from shardwise.architecture.models import load
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.layout.speculation import Acceptance, Speculation
from shardwise.perfmodel.estimate import Subject, predict, sweep
from shardwise.perfmodel.intervals import SPECULATION_WIDTH, quantile
from shardwise.perfmodel.loads import Load, Offered, make_load
from shardwise.perfmodel.memory import plan
from shardwise.perfmodel.predicting import predict_table
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.perfmodel.serving import Served, closed_loop, static_batch
from shardwise.perfmodel.serving_steps import decode_step
from shardwise.perfmodel.step import Setting
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.workload.workload import Workload

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import accuracy_speculation

SUBJECTS = {
    "mtp": subject_of(Asked("qwen3.5-27b", "h200"))[0],
    "llama-3.2-1b": subject_of(Asked("llama-3.1-70b", "h200", weight_dtype="fp8"))[0],
}
ONE = np.ones(1)


def drafting(draft: str, tokens: int, acceptance: float) -> Speculation:
    return Speculation(draft, tokens, Acceptance(acceptance, acceptance, acceptance))


def swept(subject: Subject, concurrency: float, isl: float = 1000.0, osl: float = 500.0) -> Served:
    layouts = Layouts.of([Layout(2)])
    deployments = Deployments(layouts, 512.0 * ONE, 8192.0 * ONE, 0.9 * ONE)
    asked = Offered(concurrency * ONE, isl * ONE, osl * ONE, 10 * concurrency * ONE)
    return sweep(subject, "closed_loop", deployments, asked)


def loaded(subject: Subject, concurrency: float) -> tuple[Setting, Load]:
    deployments = Deployments(Layouts.of([Layout(2)]), 512.0 * ONE, 8192.0 * ONE, 0.9 * ONE)
    asked = Offered(concurrency * ONE, 1000.0 * ONE, 500.0 * ONE, 10 * concurrency * ONE)
    setting = subject.setting
    return setting, make_load(
        subject.arch, subject.platform, setting.kv_dtype, deployments, asked, subject.draft
    )


def test_a_step_verifies_every_drafted_token_and_runs_the_draft_for_each() -> None:
    subject = replace(SUBJECTS["mtp"], speculation=drafting("mtp", 3, 0.5))
    setting, load_ = loaded(subject, 16.0)
    assert setting.drafting is not None
    whole = decode_step(setting, load_, 16.0 * ONE).total
    verify = decode_step(replace(setting, drafting=None), load_, 16.0 * ONE).total
    first = decode_step(setting.drafting.first, load_, 16.0 * ONE).total
    further = decode_step(setting.drafting.further, load_, 16.0 * ONE).total
    assert whole == pytest.approx(verify + first + 2.0 * further)
    # the verifying step has 64 tokens where one without drafts has 16
    plain = decode_step(SUBJECTS["mtp"].setting, load_, 16.0 * ONE).total
    assert plain < verify < 4.0 * plain


def test_a_static_batch_takes_a_step_for_the_tokens_that_a_step_gives() -> None:
    subject = replace(SUBJECTS["mtp"], speculation=drafting("mtp", 3, 0.5))
    setting, load_ = loaded(subject, 16.0)
    load_ = replace(load_, length_cv=0.0)
    step = decode_step(setting, load_, 16.0 * ONE).total
    assert static_batch(setting, load_).tpot_s == pytest.approx(step / 2.5)


def test_a_draft_pass_is_one_module_and_memory_holds_them_all() -> None:
    step = load("step-3.5-flash")  # three modules of one layer, each drafts one token
    assert draft_pass(step).num_layers == 1
    assert draft_weights(step).num_layers == 3
    nemotron = load("nemotron-3-ultra")  # one module of an attention and an expert layer
    assert draft_pass(nemotron).num_layers == 2
    assert draft_pass(step).head is step.head
    assert draft_weights(step).head is None


def test_memory_holds_the_heads_and_their_cache() -> None:
    model, gpu = load("deepseek-r1"), default_catalogue().gpu("b200")
    plain = Deployment("deepseek-r1", "b200", Layout(8), dtypes=Dtypes(kv="bf16"))
    found = plan(model, gpu, plain, 4096)
    drafts = plan(model, gpu, replace(plain, speculation=drafting("mtp", 3, 0.5)), 4096)
    # 256 experts of 3 x 7168 x 2048 fp8 weights over 8 ranks are most of the layer: 1.4 GB
    more = drafts.weight_bytes - found.weight_bytes
    assert 1.4e9 < more < 1.7e9
    # 61 layers and one more, of 576 elements a token
    assert drafts.kv_bytes_per_sequence == pytest.approx(found.kv_bytes_per_sequence * 62 / 61)
    assert drafts.kv_capacity_tokens < found.kv_capacity_tokens


LOADS = st.integers(0, 10).map(lambda k: float(2**k))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SUBJECTS)), st.integers(1, 8), LOADS, st.integers(2, 6000))
def test_drafts_that_are_never_accepted_are_never_faster(
    draft: str, tokens: int, concurrency: float, osl: int
) -> None:
    plain = SUBJECTS[draft]
    vain = replace(plain, speculation=drafting(draft, tokens, 0.0))
    off, on = (swept(s, concurrency, osl=float(osl)) for s in (plain, vain))
    assert on.tpot_s >= off.tpot_s * (1 - 1e-9)
    assert on.output_tok_s <= off.output_tok_s * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(SUBJECTS)), st.integers(1, 8), LOADS, st.floats(0, 1), st.floats(0, 1)
)
def test_more_accepted_is_never_slower(
    draft: str, tokens: int, concurrency: float, one: float, other: float
) -> None:
    fewer, more = (
        swept(replace(SUBJECTS[draft], speculation=drafting(draft, tokens, share)), concurrency)
        for share in sorted((one, other))
    )
    assert more.output_tok_s >= fewer.output_tok_s * (1 - 1e-9)


def test_intervals_hold_the_acceptances_range() -> None:
    plain = SUBJECTS["mtp"]
    deployment = Deployment("qwen3.5-27b", "h200", Layout(2))

    def width(speculation: Speculation | None, metric: str) -> float:
        subject = replace(plain, speculation=speculation)
        found = predict(subject, [deployment], [Workload(1000, 500, 8)])[0].metrics[metric]
        return math.log(found.hi / found.value)

    near = width(None, "tpot_s")
    given_ = width(drafting("mtp", 3, 0.5), "tpot_s")
    assert given_ == pytest.approx(math.hypot(near, SPECULATION_WIDTH))
    # 0 to 1 accepted: 1 to 4 tokens a step
    unknown = Speculation("mtp", 3, Acceptance(0.5, 0.0, 1.0))
    assert width(unknown, "tpot_s") == pytest.approx(math.hypot(given_, math.log(4.0) / 2))
    assert width(unknown, "ttft_s") == pytest.approx(width(None, "ttft_s"))


ROW = {
    **{"model_id": "deepseek-r1", "gpu_id": "b200", "engine_id": "trtllm", "tp": "8"},
    **{"weight_dtype": "fp8", "mode": "serving_closed_loop", "concurrency": "16"},
    **{"isl": "1024", "osl": "1024"},
}


def test_a_row_says_what_is_drafted_in_a_column() -> None:
    rows = [ROW, {**ROW, "speculation": "mtp:3", "acceptance": "0.5"}]
    (off, on), problems = predict_table(rows, bundled_profile())
    assert not problems
    assert float(on["pred_tpot_ms"]) < 0.75 * float(off["pred_tpot_ms"])
    assert "speculation mtp:3, acceptance 0.5" in on["pred_note"]
    assert predict_table([{**ROW, "speculation": "unlikely"}], bundled_profile())[0][0] == {
        **off,
        "speculation": "unlikely",
    }


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"speculation": "maybe:x"}, "speculation 'maybe:x'"),
        ({"acceptance": "0.5"}, "without speculation"),
        ({"speculation": "mtp:3", "acceptance": "2"}, "acceptance is '2'"),
        ({"speculation": "mtp:3", "model_id": "llama-3.1-8b"}, "multi-token prediction heads"),
    ],
)
def test_a_row_that_cannot_draft_says_why(cells: dict[str, str], says: str) -> None:
    done, _ = predict_table([{**ROW, **cells}], bundled_profile())
    assert says in done[0]["pred_note"]


@needs_reference
def test_twins_with_and_without_mtp_come_out_within_15_percent() -> None:
    """Nothing of the model was fitted to them; the acceptance comes from the other twins."""
    found = accuracy_speculation.judged()
    assert len(found) == 33
    errors = [one.error for one in found if one.error is not None]
    assert len(errors) == 32  # the one with attention DP has no like
    sizes = [abs(e) for e in errors]
    assert median(sizes) < 0.08
    assert sum(size < 0.15 for size in sizes) >= 29  # 40 to 2,560 requests each, random prompts
    assert abs(median(errors)) < 0.03
    assert quantile([math.log1p(e) for e in errors]) <= SPECULATION_WIDTH
    inside = 0
    for one in found:
        usual = Speculation.parse(f"mtp:{one.twin.drafted}")
        assert usual is not None
        inside += usual.acceptance.lo <= one.implied <= usual.acceptance.hi
    assert inside >= 0.75 * len(found)  # 80 % of 33, as far as 33 can tell


def test_a_closed_loop_keeps_the_definition_of_tpot_with_drafts() -> None:
    subject = replace(SUBJECTS["mtp"], speculation=drafting("mtp", 3, 0.5))
    setting, load_ = loaded(subject, 16.0)
    found = closed_loop(setting, load_)
    assert found.e2e_latency_s == pytest.approx(found.ttft_s + found.tpot_s * 499.0)
    assert found.output_tok_s == pytest.approx(16.0 * 500.0 / found.e2e_latency_s)
