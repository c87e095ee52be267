"""How well is the gain of speculative decoding predicted? A section of docs/accuracy.md.

    python benchmarks/accuracy_speculation.py    print the section

InferenceX ran DeepSeek-R1 on B200 with and without MTP. What was drafted is in its launch scripts
(github.com/SemiAnalysisAI/InferenceX): 3 tokens with TensorRT-LLM, 1 with attention DP
(benchmarks/dsr1_fp8_b200_trt_mtp.sh), 2 with SGLang (dsr1_fp8_b200_mtp.sh). The share that was
accepted is not published, so each pair is judged with what its engine's other pairs imply.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Final

import msgspec

from shardwise.layout.speculation import Acceptance, Speculation
from shardwise.perfmodel.batches import group
from shardwise.perfmodel.drafting import speculating
from shardwise.perfmodel.predicting import batch_calibration
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.perfmodel.rows import parse_row
from shardwise.perfmodel.serving import SERVE
from shardwise.reports.table import Column, Table, markdown, text_cell

REFERENCE: Final = Path(__file__).resolve().parents[2] / "shared" / "reference"
#: Difference within which a predicted ratio counts as right.
CLOSE: Final = 0.15
_WHERE: Final = ("engine_id", "tp", "ep", "dp", "concurrency", "isl", "osl")


class Twin(msgspec.Struct, frozen=True):
    """A load measured with and without drafts: the row without, tokens drafted, and TPOT without
    over TPOT with."""

    row: dict[str, str]
    drafted: int
    measured: float

    @property
    def kind(self) -> tuple[str, int]:
        """Engine and tokens drafted: pairs that accept about the same share."""
        return self.row["engine_id"], self.drafted

    @property
    def layout(self) -> str:
        """Layout of the pair."""
        return parse_row(1, self.row).layout.name


class Judged(msgspec.Struct, frozen=True):
    """A pair, the acceptance that it implies, and the error with what the others imply; None if
    its kind has no other."""

    twin: Twin
    implied: float
    error: float | None


def twins() -> Iterator[Twin]:
    """Every pair of rows with and without MTP."""
    with (REFERENCE / "serving_2026.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["use"] == "calibrate"]
    found: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in rows:
        if row["speculation"] in ("likely", "unlikely") and row["engine"].strip() != "trtllm":
            key = tuple(row[name] for name in _WHERE)
            found.setdefault(key, {})[row["speculation"]] = row
    for pair in found.values():
        if len(pair) == 2:
            without = pair["unlikely"]
            drafted = 2 if without["engine_id"] == "sglang" else 1 if without["dp"] == "8" else 3
            measured = float(without["tpot_ms"]) / float(pair["likely"]["tpot_ms"])
            yield Twin(without, drafted, measured)


def ratio(twin: Twin, acceptance: float) -> float:
    """Predicted TPOT without drafts over that with them."""
    batch = group([parse_row(1, {**twin.row, "speculation": ""})])[0][0]
    plain = batch.setting(
        batch_calibration(bundled_profile(), batch).coefficients_of(batch.model_key)
    )
    serve = SERVE[batch.key.mode]
    share = Acceptance(acceptance, acceptance, acceptance)
    on = speculating(plain, Speculation("mtp", twin.drafted, share))
    return float(serve(plain, batch.load).tpot_s[0] / serve(on, batch.load).tpot_s[0])


def implied(twin: Twin) -> float:
    """The acceptance with which `ratio` is as measured, by bisection."""
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2.0
        low, high = (middle, high) if ratio(twin, middle) < twin.measured else (low, middle)
    return (low + high) / 2.0


def judged() -> list[Judged]:
    """Every pair with its error. Nothing of the model was fitted to them."""
    every = list(twins())
    shares = [implied(twin) for twin in every]
    found = []
    for i, twin in enumerate(every):
        others = [s for j, s in enumerate(shares) if j != i and every[j].kind == twin.kind]
        error = ratio(twin, mean(others)) / twin.measured - 1.0 if others else None
        found.append(Judged(twin, shares[i], error))
    return found


def table(found: Sequence[Judged]) -> Table:
    """Measured gains and errors, by engine, layout and tokens drafted."""
    kinds: dict[tuple[str, str, int], list[Judged]] = {}
    for one in found:
        twin = one.twin
        kinds.setdefault((twin.row["engine_id"], twin.layout, twin.drafted), []).append(one)
    body = [
        tuple(text_cell(w) for w in (engine, layout, str(drafted), *_figures(some)))
        for (engine, layout, drafted), some in sorted(kinds.items())
    ]
    body.append(tuple(text_cell(w) for w in ("all", "", "", *_figures(found))))
    left, right = (
        ("engine", "layout"),
        (
            "drafted",
            "pairs",
            "measured ratio",
            "implied acceptance",
            "judged",
            "median error, %",
            "largest error, %",
            f"within {100 * CLOSE:.0f} %",
        ),
    )
    columns = [Column(t, t, align="left") for t in left] + [Column(t, t) for t in right]
    return Table(
        "speculation",
        "TPOT without MTP over TPOT with MTP, DeepSeek-R1 on B200, 4 to 256 in flight",
        tuple(columns),
        (tuple(body),),
        notes=(
            "measured ratio, implied acceptance: lowest to highest; with an acceptance of 1, the "
            "predicted ratio is still below the measured one",
            "error: of the predicted ratio, with the mean acceptance that the other pairs with the "
            "same engine and number of drafted tokens imply; a pair without another is not judged",
        ),
    )


def _figures(some: Sequence[Judged]) -> tuple[str, ...]:
    measured = [one.twin.measured for one in some]
    shares = [one.implied for one in some]
    errors = [one.error for one in some if one.error is not None]
    sizes = [abs(e) for e in errors]
    return (
        str(len(some)),
        _range(measured),
        _range(shares),
        str(len(errors)),
        f"{100 * median(sizes):.1f}" if sizes else "–",
        f"{100 * max(errors, key=abs):+.1f}" if errors else "–",
        f"{sum(s < CLOSE for s in sizes)} of {len(sizes)}" if sizes else "–",
    )


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low}–{high}"


def section() -> str:
    """The section of the page."""
    return f"## Speculative decoding, on and off\n\n{markdown(table(judged()))}"


if __name__ == "__main__":
    print(section())
