"""How accurate are the predictions? Writes docs/accuracy.md and results/accuracy.json.

    python benchmarks/accuracy.py            print the document
    python benchmarks/accuracy.py --write    write both files

Needs the reference rows in ../shared/reference and SciPy. The last line is one JSON object.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

import accuracy_field_cases
import accuracy_layouts
import accuracy_prompts
import accuracy_speculation
from shardwise import metrics
from shardwise.analysis.published import load_published
from shardwise.analysis.run import Question, run
from shardwise.analysis.transitions import StepPair, compare, mean_absolute_error_points
from shardwise.hardware.catalogue import default_catalogue
from shardwise.kernels.experts import touched
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.batches import Batch, group
from shardwise.perfmodel.build import covered_pct, crossed_pct, mape, plain
from shardwise.perfmodel.calibrate import Problem, problem_of
from shardwise.perfmodel.crossval import Miss, folds_of, hold_out, in_sample, kernels_alone
from shardwise.perfmodel.intervals import (
    METRICS,
    QUEUED,
    Distance,
    by_group,
    kind_of,
    other_kind,
    width_of,
)
from shardwise.perfmodel.predicting import usable_rows
from shardwise.perfmodel.profiles import FoldError, Profile, bundled_profile
from shardwise.perfmodel.rows import Row, read_table
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.perfmodel.validation import GROUPINGS, Point, Score, choices, points_of, scores
from shardwise.perfmodel.work import rank_work
from shardwise.reports.accuracy_tables import choice_table, score_table
from shardwise.reports.table import Column, Table, markdown, text_cell
from shardwise.reports.tables import comparison_table

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT.parent / "shared" / "reference"
DOCUMENT = ROOT / "docs" / "accuracy.md"
FIGURE = ROOT / "docs" / "images" / "reliability.svg"
RESULT = ROOT / "results" / "accuracy.json"
PEER = ROOT / "results" / "aiconfigurator.json"
ROWS = ("measurements.csv", "serving_2026.csv")


def calibration_rows() -> list[Row]:
    """Rows that may be fitted and can be predicted."""
    found = []
    for name in ROWS:
        good, _ = usable_rows(read_table(REFERENCE / name)[1])
        found += plain(good)
    return found


def published_pairs() -> list[StepPair]:
    """The published E2E latency steps up beside predictions that never saw them."""
    subject, _ = subject_of(Asked("llama-3.1-70b", "mi300x", weight_dtype="fp8", kv_dtype="fp8"))
    # the study sends 2,048 tokens in and out, all alike
    question = Question(8, (1, 2, 4, 8), (16, 128), 2048, 2048, requests=256, length_cv=0.0)
    study = run(subject, question, None)
    pairs = compare(study.steps, load_published().steps)
    return [p for p in pairs if p.ours.metric == metrics.E2E.name and p.ours.is_up]


def left_out(problem: Problem, profile: Profile, kinds: Sequence[str]) -> list[Miss]:
    """Errors of the folds of some kinds, fitted anew."""
    hierarchy = profile.hierarchy
    folds = [f for f in folds_of(problem.batches) if f.kind in kinds]
    return [miss for fold in folds for miss in hold_out(problem, fold, hierarchy)]


def chosen(misses: Sequence[Miss], profile: Profile) -> list[Point]:
    """Predictions of rows left out, as points that a layout is chosen by."""
    found = []
    for m in misses:
        measured = observed_of(m)
        width = width_of(profile.widths, Distance(m.unseen, m.moe), m.width)
        value = measured * float(np.exp(m.error))
        lo, hi = value * float(np.exp(-width)), value * float(np.exp(width))
        found.append(Point(m.row, m.metric, value, lo, hi, measured))
    return found


def observed_of(miss: Miss) -> float:
    """The measured value behind an error; of a closed loop, E2E and throughput by definition."""
    row = miss.row
    if miss.metric in row.observed:
        return row.observed[miss.metric]
    e2e = row.observed["ttft_s"] + row.observed["tpot_s"] * (row.osl - 1.0)
    return e2e if miss.metric == "e2e_latency_s" else row.concurrency * row.osl / e2e


def _roofline(batch: Batch) -> dict[str, np.ndarray]:
    """What a datasheet alone says: bytes over bandwidth, FLOPs over the matrix rate."""
    load, gpu, arch = batch.load, batch.gpu, batch.arch
    work = rank_work(arch, load.layouts, batch.key.kv_dtype)
    share = np.ones(1)
    if arch.moe:
        number = np.array(float(arch.moe.num_experts))
        share = touched(number, load.concurrency * arch.moe.top_k) / number
    context = load.concurrency * (load.isl + load.osl / 2)
    read = work.bytes_of("dense") + work.bytes_of("experts") * share + work.bytes_of("head")
    read = read + sum(r.bytes_per_token for r in work.reads) * context
    flops = sum(s.flops_per_token for s in work.streams if s.kind != "head")
    rate = gpu.matrix_rate("fp8" if batch.key.weight_dtype == "fp8" else "bf16")
    return {"tpot_s": read / gpu.memory_bandwidth, "ttft_s": flops * load.isl / rate}


def against_roofline(rows: Sequence[Row], misses: Sequence[Miss]) -> Table:
    """Median errors of a bare roofline, of kernels alone and of the fit, on closed loops."""
    batches, _ = group([r for r in rows if r.mode == "closed_loop"])
    body = []
    for metric in ("tpot_s", "ttft_s"):
        for kind in ("dense", "moe"):
            bare: list[float] = []
            for batch in batches:
                if (batch.arch.moe is not None) == (kind == "moe"):
                    observed = batch.observed(metric)
                    use = np.isfinite(observed)
                    bare += np.log(_roofline(batch)[metric][use] / observed[use]).tolist()
            words = [metrics.ALL[metric].label, kind, str(len(bare)), _median_pct(bare)]
            for fold in ("kernels", "none"):
                words.append(
                    _median_pct(
                        [
                            m.error
                            for m in misses
                            if (m.fold, m.metric, kind_of(m.moe)) == (fold, metric, kind)
                            and m.row.mode == "closed_loop"
                        ]
                    )
                )
            body.append(words)
    titles = ("metric", "models", "n", "roofline, %", "kernels alone, %", "fitted, %")
    return _of_words("roofline", "Median error, compared with a bare roofline", titles, body)


def _median_pct(errors: Sequence[float]) -> str:
    return f"{100 * float(np.median(np.abs(np.expm1(errors)))):.1f}" if len(errors) else "–"


def peer_parts(misses: Sequence[Miss]) -> tuple[str, ...]:
    """What `benchmarks/peer_predictions.py` wrote down, beside ours of today."""
    found = json.loads(PEER.read_text("utf-8"))
    titles = (
        ("model", "left"),
        ("GPU and engine", "left"),
        ("metric", "left"),
        ("n", "right"),
        ("Shardwise, layout left out, %", "right"),
        ("aiconfigurator, n", "right"),
        ("aiconfigurator, %", "right"),
    )
    body = []
    for c in found["cells"]:
        ours = [
            m
            for m in misses
            if (m.row.model, m.gpu, m.engine, m.metric, m.row.weight_dtype or "bf16")
            == (c["model"], c["gpu"], c["engine"], c["metric"], _asked_dtype(c["weight_dtype"]))
            and m.fold == "layout"
        ]
        words = (
            f"{c['model']} {c['weight_dtype']}",
            f"{c['gpu']} {c['engine']}",
            metrics.ALL[c["metric"]].label,
            str(len(ours)),
            f"{mape(ours):.1f}" if ours else "–",
            str(c["aiconfigurator_rows"]),
            f"{c['aiconfigurator_pct']:.1f}" if c["aiconfigurator_pct"] is not None else "–",
        )
        body.append(tuple(text_cell(w) for w in words))
    columns = tuple(Column(t, t, align=a) for t, a in titles)  # type: ignore[arg-type]
    words_ = (
        f"aiconfigurator {found['version']} ran with its defaults and the same mean lengths, "
        "batch, TP and dtypes (`benchmarks/peer_predictions.py`), on the rows of "
        "`measurements.csv`. Its kernel tables were measured on the same GPUs, and many of them "
        "are the same as Shardwise's. Shardwise's errors are on rows of a layout left out of its "
        "fit. aiconfigurator refuses two rows of 70B at TP=1 as out of memory, and has no AMD data."
    )
    return words_, markdown(
        Table("peer", "Mean error, compared with aiconfigurator", columns, (tuple(body),))
    )


def _asked_dtype(dtype: str) -> str:
    return "fp4" if dtype in ("mxfp4", "nvfp4") else dtype


#: Folds in the order that they are read in, with words for them.
FOLDS = {
    "row": "only the row",
    "layout": "the layout (number of GPUs)",
    "model": "the model on a GPU and engine",
    "dtype": "the dtype on a GPU and engine",
    "version": "the engine's version",
    "family": "the model family",
    "gpu": "the GPU",
    "engine": "the engine",
    "kernels": "everything: kernels alone",
}


TITLES = {"output_tok_s": "Output throughput, closed loops", QUEUED: "Output throughput, queued"}


def _of_words(
    name: str, title: str, names: Sequence[str], rows: Iterable[Sequence[str]], left: int = 2
) -> Table:
    """A table of finished words, whose first `left` columns are names."""
    columns = tuple(
        Column(n, n, align="left" if i < left else "right") for i, n in enumerate(names)
    )
    return Table(name, title, columns, (tuple(tuple(map(text_cell, r)) for r in rows),))


def fold_table(folds: Iterable[FoldError], metric: str) -> Table:
    """What each way of leaving rows out costs, dense models and mixtures of experts apart."""
    found = {(f.fold, f.kind): f for f in folds if f.metric == metric}
    body = []
    for fold, words in FOLDS.items():
        for kind in ("dense", "moe"):
            f = found.get((fold, kind))
            if f is None:
                continue
            crossed = "–" if f.crossed_pct is None else f"{f.crossed_pct:.0f}"
            cells = (
                words,
                kind,
                str(f.rows),
                f"{f.median_error_pct:.1f}",
                f"{f.mean_error_pct:.1f}",
                f"{f.bias_pct:+.1f}",
                f"{f.covered_pct:.0f}",
                crossed,
            )
            body.append(cells)
    names = (
        "left out",
        "models",
        "n",
        "median, %",
        "mean, %",
        "bias, %",
        "in interval, %",
        "crossed, %",
    )
    title = f"{TITLES.get(metric) or metrics.ALL[metric].label}: errors on held-out rows"
    return _of_words(f"folds_{metric}", title, names, body)


def worst_table(misses: Sequence[Miss], fold: str, metric: str) -> Table:
    """Median error and bias of each model, GPU and engine in a fold."""
    parts: dict[tuple[str, str], list[Miss]] = {}
    for m in misses:
        if (m.fold, m.metric) == (fold, metric):
            parts.setdefault((m.row.model, f"{m.gpu} {m.engine}"), []).append(m)
    body = []
    for (model, where), some in sorted(parts.items()):
        errors = [m.error for m in some]
        bias = f"{100 * float(np.expm1(np.median(errors))):+.0f}"
        body.append((model, where, str(len(some)), _median_pct(errors), bias))
    names = ("model", "GPU and engine", "n", "median, %", "median bias, %")
    return _of_words("cells", f"{metrics.ALL[metric].label}, by model", names, body)


#: Folds that a reader asks about: the next layout, family, GPU, engine.
ASKED = ("row", "layout", "family", "gpu", "engine")


def tier_table(misses: Sequence[Miss], profile: Profile) -> Table:
    """Coverage of the shipped intervals by what of a row was not seen, over all folds."""
    parts: dict[tuple[str, str], list[Miss]] = {}
    for m in misses:
        if m.fold in ASKED and m.metric in ("ttft_s", "tpot_s", "output_tok_s"):
            tier = ", ".join(m.unseen) or "nothing"
            parts.setdefault((tier, m.metric), []).append(m)
    body = []
    for (tier, metric), some in sorted(parts.items()):
        if len(some) >= LEAST_IN_TIER:
            words = (
                tier,
                metrics.ALL[metric].label,
                str(len(some)),
                f"{covered_pct(some, profile.widths):.0f}",
            )
            body.append(words)
    names = ("new", "metric", "n", "in interval, %")
    return _of_words("tiers", "Coverage by what is new", names, body)


FACTOR = 3.0


def far_table(misses: Sequence[Miss]) -> Table:
    """Held-out rows whose TTFT is off by more than a factor of `FACTOR`, by what was left out."""
    body = []
    for fold in ASKED:
        some = [m for m in misses if m.fold == fold and m.metric == "ttft_s"]
        far = [m for m in some if abs(m.error) > math.log(FACTOR)]
        slow = sum(m.error > 0 for m in far)
        body.append((FOLDS[fold], *(str(n) for n in (len(some), len(far), slow, len(far) - slow))))
    names = ("left out", "n", "beyond", "predicted too long", "predicted too short")
    title = f"TTFT off by more than a factor of {FACTOR:g}"
    return _of_words("far", title, names, body, left=1)


def version_table(misses: Sequence[Miss]) -> Table:
    """TPOT of left-out layouts, by whether the engine's version was measured with another one."""
    some = [m for m in misses if m.fold == "layout" and m.metric == "tpot_s"]
    some = [m for m in some if m.row.mode == "closed_loop"]
    measured: dict[tuple[str, ...], set[Layout]] = {}
    for m in some:
        cell = (m.model, m.gpu, m.engine, m.row.version)
        measured.setdefault(cell, set()).add(m.row.layout)
    parts: dict[tuple[bool, bool], list[float]] = {}
    for m in some:
        others = len(measured[m.model, m.gpu, m.engine, m.row.version]) > 1
        parts.setdefault((m.moe, others), []).append(m.error)
    body = []
    for (moe, others), errors in sorted(parts.items()):
        which = "same version" if others else "other versions only"
        body.append((kind_of(moe), which, str(len(errors)), _median_pct(errors)))
    names = ("models", "other layouts measured with", "n", "median, %")
    return _of_words("versions", "TPOT of left-out layouts by version", names, body)


LEAST_IN_TIER = 40
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def reliability_points(misses: Sequence[Miss]) -> list[dict[str, object]]:
    """Share of rows within intervals of several levels, each group judged by the others."""
    groups = by_group(m for m in misses if m.fold in ASKED[1:])
    found: list[dict[str, object]] = []
    for (fold, kind, metric), own in sorted(groups.items()):
        other = groups.get(other_kind((fold, kind, metric)), {})
        for level in LEVELS:
            share = crossed_pct(metric, own, other, level)
            if metric not in ("e2e_latency_s", QUEUED) and share is not None:
                found.append(
                    {
                        "promised": 100 * level,
                        "covered": share,
                        "fold": FOLDS[fold],
                        "models": kind,
                        "metric": metrics.ALL[metric].label,
                    }
                )
    return found


def reliability_svg(points: Sequence[dict[str, object]]) -> str:
    """The reliability diagram: what intervals of each level promise, and what they hold."""
    import altair as alt
    import vl_convert

    x = alt.X("promised:Q", title="promised, %").scale(domain=[45, 100])
    y = alt.Y("covered:Q", title="held, each group judged by the others, %").scale(domain=[30, 100])
    lines = (
        alt.Chart()
        .mark_line(point=True)
        .encode(x, y, alt.Color("fold:N", title="left out"), alt.StrokeDash("models:N"))
    )
    ideal = (
        alt.Chart(alt.InlineData(values=[{"a": 45, "b": 45}, {"a": 100, "b": 100}]))
        .mark_line(color="grey", strokeDash=[2, 2])
        .encode(x="a:Q", y="b:Q")
    )
    data = alt.InlineData(values=list(points))
    chart = alt.layer(lines, ideal, data=data).properties(width=220, height=220)
    return vl_convert.vegalite_to_svg(
        chart.facet(column=alt.Column("metric:N", title=None)).to_dict()
    )


def _h200_70b(misses: Sequence[Miss], metric: str) -> float:
    """Mean error over the layouts left out, H200 vLLM 70B."""
    return mape(
        m
        for m in misses
        if (m.fold, m.row.model, m.gpu, m.engine, m.metric)
        == ("layout", "llama-3.1-70b", "h200", "vllm", metric)
    )


def summary(rows: Sequence[Row], profile: Profile, misses: Sequence[Miss]) -> dict[str, object]:
    """The figures that the regression gate and the README quote."""
    found = scores(points_of(rows, profile), GROUPINGS["gpu and engine"])
    return {
        "profile": profile.created,
        "rows": len(rows),
        "scores": [_flat(score) for score in found],
        "folds": [msgspec.to_builtins(fold) for fold in profile.folds],
        "h200_vllm_70b_tp_left_out_tpot_pct": round(_h200_70b(misses, "tpot_s"), 2),
        "h200_vllm_70b_tp_left_out_ttft_pct": round(_h200_70b(misses, "ttft_s"), 2),
        "published_steps_mae_points": round(mean_absolute_error_points(published_pairs()), 3),
    }


def _flat(score: Score) -> dict[str, object]:
    return {
        "group": score.group,
        "metric": score.metric,
        "rows": score.rows,
        "mean_error_pct": round(score.mean_error_pct, 2),
        "coverage_pct": round(score.coverage_pct, 1),
    }


def document(rows: Sequence[Row], profile: Profile) -> tuple[str, dict[str, object]]:
    """The page, and the figures that others quote."""
    problem = problem_of(group(rows)[0])
    misses = left_out(problem, profile, ASKED)
    FIGURE.write_text(reliability_svg(reliability_points(misses)), "utf-8")
    misses += kernels_alone(problem) + in_sample(problem, profile.hierarchy)
    points = points_of(rows, profile)
    figures = summary(rows, profile, misses)
    family = chosen([m for m in misses if m.fold == "family"], profile)
    parts = [
        (ROOT / "docs" / "accuracy.head.md").read_text("utf-8").strip(),
        "## Held-out rows",
        *(markdown(fold_table(profile.folds, metric)) for metric in (*METRICS, QUEUED)),
        markdown(version_table(misses)),
        markdown(far_table(misses)),
        markdown(tier_table(misses, profile)),
        "![Nominal and actual coverage of intervals](images/reliability.svg)",
        "### By model, with its family left out",
        markdown(worst_table(misses, "family", "tpot_s")),
        "### By model, kernels alone",
        markdown(worst_table(misses, "kernels", "tpot_s")),
        "## Choosing the best TP, with the model's family left out",
        markdown(choice_table(choices(family))),
        accuracy_layouts.section(misses),
        accuracy_speculation.section(),
        accuracy_prompts.section(rows, profile),
        accuracy_field_cases.section(),
        "## The published study (never fitted)",
        markdown(comparison_table(published_pairs())),
        "## Comparison with a bare roofline",
        markdown(against_roofline(rows, misses)),
        "## Comparison with aiconfigurator, on the same rows",
        *peer_parts(misses),
        "## Rows used in the fit",
        markdown(score_table(scores(points, GROUPINGS["gpu and engine"]), "gpu and engine")),
        markdown(score_table(scores(points, GROUPINGS["model and dtype"]), "model and dtype")),
        (ROOT / "docs" / "accuracy.tail.md").read_text("utf-8"),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n", figures


def main() -> None:
    if not REFERENCE.is_dir():
        sys.exit("accuracy: needs the reference rows in ../shared/reference")
    default_catalogue()
    text, figures = document(calibration_rows(), bundled_profile())
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(text, "utf-8")
        RESULT.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    else:
        print(text)
    print(json.dumps({k: v for k, v in figures.items() if k not in ("scores", "folds")}))


if __name__ == "__main__":
    main()
