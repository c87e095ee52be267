"""Throughputs that people reported, beside their predictions. A section of docs/accuracy.md.

    python benchmarks/accuracy_field_cases.py    print the section

The reports queue 500 or 1,000 requests at once, of ShareGPT's lengths or of one length. They are
not used in the fit. Needs the reference files.
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
    with CASES.open(newline="", encoding="utf-8") as handle:
        body = [_row(case) for case in csv.DictReader(handle) if case["kind"] == "throughput"]
    columns = [Column(n, n, align="left" if i < LEFT else "right") for i, n in enumerate(NAMES)]
    title = "Reported output tok/s, everything queued at once"
    return Table("field_cases", title, tuple(columns), (tuple(body),))


def _row(case: dict[str, str]) -> Row:
    (found,), _ = predict_table([_question(case)], bundled_profile())
    measured = float(case["right_value"])
    if found["pred_output_tok_s"]:
        value, low, high = (float(found[f"pred_output_tok_s{end}"]) for end in ("", "_lo", "_hi"))
        told = f"{value:,.0f} ({low:,.0f}–{high:,.0f})"
        inside = "yes" if low <= measured <= high else "no"
    else:
        told, inside = found["pred_note"], "–"
    layout = f"TP{case['tp']}" + (f" x PP{case['pp']}" if case["pp"] != "1" else "")
    words = (case["model"], case["gpu"], layout, case["isl"], case["osl"], f"{measured:,.0f}")
    return tuple(text_cell(word) for word in (*words, told, inside))


def _question(case: dict[str, str]) -> dict[str, str]:
    """Return a report as a row of `predict`, with the engine's default of sequences per step."""
    version = re.search(r"vLLM (\S+)", case["flags"])
    queued = re.search(r"(\d+) queued", case["source"])
    return {
        "model_id": case["model"],
        "gpu_id": case["gpu"],
        "engine_id": "vllm",
        "engine_version": version[1] if version else "",
        "mode": "max_throughput",
        "max_num_seqs": "1024",
        **{name: case[name] for name in ("weight_dtype", "kv_dtype", "tp", "pp", "isl", "osl")},
        "concurrency": queued[1] if queued else USUAL,
        "length_cv": "1" if "ShareGPT" in case["source"] else "0",
    }


def section() -> str:
    """Return the section of the page."""
    return f"## Field reports (not used in the fit)\n\n{markdown(throughput_table())}"


if __name__ == "__main__":
    print(section())
