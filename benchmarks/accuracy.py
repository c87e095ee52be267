"""How accurate are the predictions? Writes docs/accuracy.md and results/accuracy.json.

    python benchmarks/accuracy.py            print the document
    python benchmarks/accuracy.py --write    write both files

Needs the reference rows in ../shared/reference and SciPy. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from shardwise import metrics
from shardwise.hardware.catalogue import default_catalogue
from shardwise.perfmodel.batches import Batch, group
from shardwise.perfmodel.build import links_of, mape
from shardwise.perfmodel.crossval import Fold, hold_out, in_sample
from shardwise.perfmodel.hierarchy import versions_of
from shardwise.perfmodel.intervals import HeldOut
from shardwise.perfmodel.profiles import FoldError, Profile, bundled_profile
from shardwise.perfmodel.rows import Row, parse_rows, read_table
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.perfmodel.validation import GROUPINGS, Score, choices, points_of, scores
from shardwise.reports.accuracy_tables import choice_table, held_out_table, score_table
from shardwise.reports.table import Column, Table, markdown, text_cell
from shardwise.reports.tables import comparison_table
from shardwise.study.published import load_published
from shardwise.study.run import Question, run
from shardwise.study.transitions import StepPair, compare, mean_absolute_error_points

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT.parent / "shared" / "reference"
DOCUMENT = ROOT / "docs" / "accuracy.md"
RESULT = ROOT / "results" / "accuracy.json"
PEER = ROOT / "results" / "aiconfigurator.json"
VERSIONED = ("mi300x", "vllm")  #: measured in several versions of the engine


def calibration_rows() -> list[Row]:
    """Rows that may be fitted."""
    _, table = read_table(REFERENCE / "measurements.csv")
    rows, problems = parse_rows(table)
    assert not problems, problems
    return [row for row in rows if row.use == "calibrate"]


def published_pairs() -> list[StepPair]:
    """The published E2E latency steps up beside predictions that never saw them."""
    subject, _ = subject_of(Asked("llama-3.1-70b", "mi300x", weight_dtype="fp8", kv_dtype="fp8"))
    question = Question(8, (1, 2, 4, 8), (16, 128), 2048, 2048, requests=256)
    study = run(subject, question, None)
    pairs = compare(study.steps, load_published().steps)
    return [p for p in pairs if p.ours.metric == metrics.E2E.name and p.ours.is_up]


def from_one_gpu(rows: Sequence[Row], profile: Profile) -> dict[str, float]:
    """B200 vLLM predicted from a fit to the H200 vLLM rows alone: mean error by metric."""
    kept = [r for r in rows if (r.gpu, r.engine) in {("h200", "vllm"), ("b200", "vllm")}]
    fold = Fold("gpu", "b200, from h200 vllm alone", lambda r: r.gpu == "b200")
    found = hold_out(kept, fold, links_of(profile.lines))
    return {m: mape([h for h in found if h.metric == m]) for m in sorted({h.metric for h in found})}


def _roofline(batch: Batch) -> dict[str, np.ndarray]:
    """What a datasheet alone says: bytes over bandwidth, FLOPs over the matrix rate."""
    from shardwise.perfmodel.step import experts_touched
    from shardwise.perfmodel.work import rank_work

    load, gpu, arch = batch.load, batch.gpu, batch.arch
    work = rank_work(arch, load.layouts, batch.key.kv_dtype)
    touched = np.ones(1)
    if arch.moe:
        touched = experts_touched(arch.moe.num_experts, arch.moe.top_k, load.concurrency)
    context = load.concurrency * (load.isl + load.osl / 2)
    read = work.bytes_of("dense") + work.bytes_of("experts") * touched + work.bytes_of("head")
    read = read + sum(r.bytes_per_token for r in work.reads) * context
    flops = sum(s.flops_per_token for s in work.streams if s.kind != "head")
    rate = gpu.matrix_rate("fp8" if batch.key.weight_dtype == "fp8" else "bf16")
    return {"tpot_s": read / gpu.memory_bandwidth, "ttft_s": flops * load.isl / rate}


def against_roofline(rows: Sequence[Row], profile: Profile) -> Table:
    """Errors of the fitted model and of a bare roofline on the same rows."""
    batches, _ = group([r for r in rows if r.mode == "closed_loop"])
    fitted = points_of([r for r in rows if r.mode == "closed_loop"], profile)
    found = []
    for metric in ("tpot_s", "ttft_s"):
        bare: list[HeldOut] = []
        for batch in batches:
            observed = batch.observed(metric)
            use = np.isfinite(observed)
            if metric == "ttft_s":
                use &= ~np.array([bool(r.kv_limited) for r in batch.rows])
            errors = np.log(_roofline(batch)[metric][use] / observed[use])
            bare.append(HeldOut("none", batch.gpu.id, batch.key.engine, metric, errors))
        ours = 100 * float(np.mean([abs(p.error) for p in fitted if p.metric == metric]))
        count = sum(len(h.errors) for h in bare)
        found.append((metrics.ALL[metric].label, str(count), f"{ours:.1f}", f"{mape(bare):.1f}"))
    titles = (
        ("metric", "left"),
        ("n", "right"),
        ("Shardwise, %", "right"),
        ("roofline, %", "right"),
    )
    columns = tuple(Column(t, t, align=a) for t, a in titles)  # type: ignore[arg-type]
    body = tuple(tuple(text_cell(x) for x in row) for row in found)
    return Table("roofline", "Mean error beside a bare roofline", columns, (body,))


def peer_parts() -> tuple[str, ...]:
    """What `benchmarks/peer_predictions.py` wrote down, as words and a table."""
    found = json.loads(PEER.read_text("utf-8"))
    titles = (
        ("model", "left"),
        ("GPU and engine", "left"),
        ("metric", "left"),
        ("n", "right"),
        ("Shardwise, TP left out, %", "right"),
        ("aiconfigurator, n", "right"),
        ("aiconfigurator, %", "right"),
    )
    body = tuple(
        tuple(
            text_cell(text)
            for text in (
                f"{c['model']} {c['weight_dtype']}",
                f"{c['gpu']} {c['engine']}",
                metrics.ALL[c["metric"]].label,
                str(c["rows"]),
                f"{c['shardwise_tp_left_out_pct']:.1f}",
                str(c["aiconfigurator_rows"]),
                f"{c['aiconfigurator_pct']:.1f}",
            )
        )
        for c in found["cells"]
    )
    columns = tuple(Column(t, t, align=a) for t, a in titles)  # type: ignore[arg-type]
    words = (
        f"aiconfigurator {found['version']}, with its defaults, asked for the same mean lengths, "
        "batch, TP and dtypes (`benchmarks/peer_predictions.py`). It brings kernels measured on "
        "the same GPUs; Shardwise is judged on rows of a TP that its fit was without. It refuses "
        "two rows of 70B at TP=1 as out of memory, and has no AMD data."
    )
    return words, markdown(Table("peer", "Mean error beside aiconfigurator", columns, (body,)))


def fold_table(folds: Iterable[FoldError]) -> Table:
    """Every fold with what was left out."""
    rows = tuple(
        (
            text_cell(f.left_out),
            text_cell(f"{f.gpu} {f.engine}"),
            text_cell(metrics.ALL[f.metric].label),
            text_cell(f.rows),
            text_cell(f"{f.mean_error_pct:.1f}"),
            text_cell(f"{f.bias_pct:+.1f}"),
        )
        for f in folds
    )
    names = ("left out", "judged on", "metric", "n", "mean error, %", "bias, %")
    columns = tuple(Column(n, n, align="left" if i < 3 else "right") for i, n in enumerate(names))
    return Table("folds", "Errors on rows left out", columns, (rows,))


def _h200_70b(profile: Profile, metric: str) -> float:
    """Mean error over the TPs left out, H200 vLLM 70B, weighted by rows."""
    folds = [
        f
        for f in profile.folds
        if f.left_out.startswith("llama-3.1-70b h200 vllm closed_loop") and f.metric == metric
    ]
    return sum(f.mean_error_pct * f.rows for f in folds) / sum(f.rows for f in folds)


def summary(rows: Sequence[Row], profile: Profile) -> dict[str, object]:
    """The figures that the regression gate and the README quote."""
    found = scores(points_of(rows, profile), GROUPINGS["gpu and engine"])
    return {
        "profile": profile.created,
        "rows": len(rows),
        "scores": [_flat(score) for score in found],
        "h200_vllm_70b_tp_left_out_tpot_pct": round(_h200_70b(profile, "tpot_s"), 2),
        "h200_vllm_70b_tp_left_out_ttft_pct": round(_h200_70b(profile, "ttft_s"), 2),
        "published_steps_mae_points": round(mean_absolute_error_points(published_pairs()), 2),
    }


def _flat(score: Score) -> dict[str, object]:
    return {
        "group": score.group,
        "metric": score.metric,
        "rows": score.rows,
        "mean_error_pct": round(score.mean_error_pct, 2),
        "coverage_pct": round(score.coverage_pct, 1),
    }


def _quoted(rows: Sequence[Row], profile: Profile) -> dict[str, str]:
    """The figures that the page's closing words name."""

    def pooled(fold: str) -> str:
        found: dict[str, list[FoldError]] = {}
        for f in profile.folds:
            if f.fold == fold and f.metric == "tpot_s":
                found.setdefault(f"{f.gpu} {f.engine}", []).append(f)
        means = [
            sum(f.mean_error_pct * f.rows for f in some) / sum(f.rows for f in some)
            for some in found.values()
        ]
        return f"{min(means):.0f} to {max(means):.0f} %"

    def fitted(gpu: str, engine: str) -> str:
        errors = [
            e for e in profile.errors if (e.gpu, e.engine, e.metric) == (gpu, engine, "ttft_s")
        ]
        return f"{errors[0].fitted_pct:.0f} %"

    single = [
        p.error
        for p in points_of(rows, profile)
        if p.row.gpu == "mi300x" and p.row.concurrency == 1 and p.metric == "e2e_latency_s"
    ]
    steps = {(p.ours.concurrency, p.ours.to_tp): p.difference_points for p in published_pairs()}
    unnamed = in_sample(group(rows)[0], profile.hierarchy, links_of(profile.lines), versions=False)

    def without_version(metric: str) -> str:
        found = [h for h in unnamed if (h.gpu, h.engine, h.metric) == (*VERSIONED, metric)]
        return f"{mape(found):.1f} %"

    return {
        "versions": str(len(versions_of((r.gpu, r.engine, r.version) for r in rows)[VERSIONED])),
        "unnamed_e2e": without_version("e2e_latency_s"),
        "unnamed_throughput": without_version("output_tok_s"),
        "engine_tpot": pooled("engine"),
        "gpu_tpot": pooled("gpu"),
        "trtllm_ttft": fitted("h100", "trtllm"),
        "b200_ttft": fitted("b200", "vllm"),
        "single_bias": f"{100 * float(np.mean(single)):.0f} %",
        "tp8_points": f"{-steps[16, 8]:.0f} points",
    }


def document(rows: Sequence[Row], profile: Profile) -> tuple[str, dict[str, object]]:
    """The page, and the summary it opens with."""
    points = points_of(rows, profile)
    figures = summary(rows, profile)
    transfer = from_one_gpu(rows, profile)
    figures["b200_vllm_from_h200_alone_tpot_pct"] = round(transfer["tpot_s"], 2)
    tp_folds = [f for f in profile.folds if f.fold.startswith("tp_")]
    other = [f for f in profile.folds if not f.fold.startswith("tp_")]
    parts = [
        (ROOT / "docs" / "accuracy.head.md").read_text("utf-8").strip(),
        "## On the rows of the fit",
        markdown(score_table(scores(points, GROUPINGS["gpu and engine"]), "gpu and engine")),
        markdown(score_table(scores(points, GROUPINGS["model and dtype"]), "model and dtype")),
        markdown(score_table(scores(points, GROUPINGS["TP"]), "TP")),
        "## Is the best TP found?",
        markdown(choice_table(choices(points))),
        "## On rows that the fit did not see",
        f"H200 vLLM 70B, each TP left out in turn: TPOT "
        f"{figures['h200_vllm_70b_tp_left_out_tpot_pct']} %, TTFT "
        f"{figures['h200_vllm_70b_tp_left_out_ttft_pct']} %. B200 vLLM FP8 from the H200 vLLM rows "
        f"alone: TPOT {transfer['tpot_s']:.1f} %, TTFT {transfer['ttft_s']:.1f} %.",
        markdown(held_out_table(profile.errors)),
        "### A TP left out",
        markdown(fold_table(tp_folds)),
        "### A GPU, an engine, a dtype or a model left out",
        markdown(fold_table(other)),
        "## The published study, never fitted",
        markdown(comparison_table(published_pairs())),
        "## Beside a bare roofline, on the same rows",
        markdown(against_roofline(rows, profile)),
        "## Beside aiconfigurator, on the same rows",
        *peer_parts(),
        (ROOT / "docs" / "accuracy.tail.md").read_text("utf-8").format(**_quoted(rows, profile)),
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
    print(json.dumps({k: v for k, v in figures.items() if k != "scores"}))


if __name__ == "__main__":
    main()
