"""Throughputs and TTFTs that people reported, beside their predictions. A section of
docs/accuracy.md.

    python benchmarks/accuracy_field_cases.py    print the section

Throughputs are of 500 or 1,000 requests queued at once, TTFTs of a few streams, with ShareGPT's
lengths or one length. They are not used in the fit. Needs the reference files.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Final

from shardwise.perfmodel.predicting import predict_table
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.reports.table import Column, Row, Table, markdown, text_cell

CASES: Final = Path(__file__).resolve().parents[2] / "shared" / "reference" / "field_cases.csv"
NAMES: Final = ("model", "GPU", "layout", "isl", "osl", "measured", "predicted", "in interval")
LEFT: Final = 3  #: columns of text
USUAL: Final = "1000"  #: requests of a report that does not say how many; ShareGPT's always are


def throughput_table() -> Table:
    """Return output tok/s of each report, measured and predicted with its 80 % interval."""
    title = "Reported output tok/s, everything queued at once"
    return _table("field_throughput", title, "throughput", "output_tok_s")


def ttft_table() -> Table:
    """Return TTFT of each report in ms, measured and predicted with its 80 % interval."""
    return _table("field_ttft", "Reported TTFT, ms", "latency", "ttft_ms")


def _table(name: str, title: str, kind: str, metric: str) -> Table:
    with CASES.open(newline="", encoding="utf-8") as handle:
        cases = [case for case in csv.DictReader(handle) if case["kind"] == kind]
    body = [_row(case, metric) for case in cases if case["what"].startswith(metric)]
    columns = [Column(n, n, align="left" if i < LEFT else "right") for i, n in enumerate(NAMES)]
    return Table(name, title, tuple(columns), (tuple(body),))


def _row(case: dict[str, str], metric: str) -> Row:
    (found,), _ = predict_table([_question(case)], bundled_profile())
    measured = float(case["right_value"])
    if found[f"pred_{metric}"]:
        value, low, high = (float(found[f"pred_{metric}{end}"]) for end in ("", "_lo", "_hi"))
        told = f"{value:,.0f} ({low:,.0f}–{high:,.0f})"
        inside = "yes" if low <= measured <= high else "no"
    else:
        told, inside = found["pred_note"], "–"
    layout = f"TP{case['tp']}" + (f" x PP{case['pp']}" if case["pp"] != "1" else "")
    words = (case["model"], case["gpu"], layout, case["isl"], case["osl"], f"{measured:,.0f}")
    return tuple(text_cell(word) for word in (*words, told, inside))


def _question(case: dict[str, str]) -> dict[str, str]:
    """Return a report as a row of `predict`, with the engine's default of sequences per step."""
    version = re.search(r"vLLM (\d\S*)", case["flags"])
    queued = re.search(r"(\d+) queued", case["source"])
    sent = re.search(r"(\d+) requests", case["source"])
    streams = case["concurrency"] != "max"
    return {
        "model_id": case["model"],
        "gpu_id": case["gpu"],
        "engine_id": "trtllm" if "TensorRT-LLM" in case["flags"] else "vllm",
        "engine_version": version[1] if version else "",
        "mode": "closed_loop" if streams else "max_throughput",
        "requests": sent[1] if sent and streams else "",
        "max_num_seqs": "1024",
        **{name: case[name] for name in ("weight_dtype", "kv_dtype", "tp", "pp", "isl", "osl")},
        "concurrency": case["concurrency"] if streams else queued[1] if queued else USUAL,
        "length_cv": "0" if "fixed" in case["source"] or "/" in case["source"] else "1",
    }


def section() -> str:
    """Return the section of the page."""
    tables = "\n\n".join(markdown(table) for table in (throughput_table(), ttft_table()))
    return f"## Field reports (not used in the fit)\n\n{tables}"


if __name__ == "__main__":
    print(section())
