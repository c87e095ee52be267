"""Rows: every bad cell is named, and the others are predicted all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardwise.errors import InputError
from shardwise.perfmodel.predicting import predict_table
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.perfmodel.rows import parse_row, read_table

GOOD = {
    "source_id": "mine",
    "model_id": "llama-3.1-70b",
    "gpu_id": "h200",
    "engine_id": "vllm",
    "weight_dtype": "fp8",
    "tp": "4",
    "mode": "serving_closed_loop",
    "concurrency": "16",
    "isl": "1024",
    "osl": "1024",
}


@pytest.mark.parametrize("source", ["aic_silicon_inferencex", "rocm_atom_dashboard"])
def test_lengths_drawn_from_four_fifths_are_nine_tenths_of_the_nominal(source: str) -> None:
    row = parse_row(1, {**GOOD, "source_id": source})
    assert row.isl == 921.6
    # uniform over a fifth of the nominal: 0.2 / sqrt(12) / 0.9
    assert row.length_cv == pytest.approx(0.2 / 12**0.5 / 0.9, abs=1e-3)


@pytest.mark.parametrize(
    ("source", "given", "told"),
    [
        ("", "", True),  # a question: lengths of traffic
        ("aic_silicon_inferencex", "", True),
        ("somewhere", "", False),
        ("somewhere", "0", True),
    ],
)
def test_a_source_that_does_not_say_how_lengths_vary_is_not_taken_to_have_equal_ones(
    source: str, given: str, told: bool
) -> None:
    row = parse_row(1, {**GOOD, "source_id": source, "length_cv": given})
    assert row.lengths_told is told


@pytest.mark.parametrize(
    ("source", "given", "concurrency", "requests"),
    [
        ("aic_silicon_inferencex", "", "32", 320),  # ten waves, says its README
        # not said: the geometric mean of 1, 3, 10 and 30 a stream, 900^(1/4) = 5.477
        ("aic_silicon_other", "", "32", 32 * 900**0.25),
        ("", "", "4096", 40960),  # a question, asked as planning does
        ("aic_silicon_inferencex", "640", "32", 640),
    ],
)
def test_a_run_has_the_requests_that_its_client_sends_unless_it_says(
    source: str, given: str, concurrency: str, requests: float
) -> None:
    cells = {"source_id": source, "requests": given, "concurrency": concurrency}
    assert parse_row(1, {**GOOD, **cells}).requests == pytest.approx(requests)
    assert parse_row(1, GOOD).isl == 1024


@pytest.mark.parametrize(
    ("cell", "value", "said"),
    [
        ("tp", "three", "tp is 'three'"),
        ("tp", "1.5", "tp is 1.5"),
        ("concurrency", "max", "concurrency is 'max'"),
        ("isl", "-4", "isl is -4"),
        ("isl", "1e400", "isl is 1e400; allowed: a number above 0 and below 1,000,000,000"),
        ("osl", "nan", "osl is nan"),
        ("mode", "guess", "mode is 'guess'"),
        ("engine_id", "mystery", "engine_id is 'mystery'"),
    ],
)
def test_a_bad_cell_is_named(cell: str, value: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_row(1, {**GOOD, cell: value})


@pytest.mark.parametrize(
    ("engine", "version"),
    [
        ("vLLM 0.9.0.1 (AMD rocm/vllm-dev:main)", "0.9.0.1"),
        ("trtllm 1.0.0rc3", "1.0.0rc3"),
        ("SGLang v0.5.2", "0.5.2"),
        ("vLLM (version not captured; bench scripts v0.8.5)", ""),
        ("vllm ", ""),
    ],
)
def test_a_version_is_read_only_where_the_engine_has_one(engine: str, version: str) -> None:
    assert parse_row(1, {**GOOD, "engine": engine}).version == version


def test_bad_rows_are_noted_and_the_others_predicted() -> None:
    table = [
        GOOD,
        {**GOOD, "gpu_id": "h2000"},
        {**GOOD, "model_id": "llama-9"},
        {**GOOD, "tp": "3"},
        {**GOOD, "model_id": "llama-3.1-405b", "tp": "1"},
        {**GOOD, "isl": "x"},
    ]
    rows, problems = predict_table(table, bundled_profile())
    assert [p.number for p in problems] == [2, 3, 4, 5, 6]
    assert float(rows[0]["pred_tpot_ms_lo"]) < float(rows[0]["pred_tpot_ms"])
    assert float(rows[0]["pred_tpot_ms"]) < float(rows[0]["pred_tpot_ms_hi"])
    assert all(row["pred_tpot_ms"] == "" for row in rows[1:])
    assert "did you mean" in rows[1]["pred_note"]
    assert "64 attention heads" in rows[3]["pred_note"]
    assert "does not fit" in rows[4]["pred_note"]


def test_predictions_round_trip_e2e_and_throughput() -> None:
    (row,), _ = predict_table([GOOD], bundled_profile())
    ttft, tpot = float(row["pred_ttft_ms"]) / 1e3, float(row["pred_tpot_ms"]) / 1e3
    assert float(row["pred_e2e_s"]) == pytest.approx(ttft + 1023 * tpot, rel=1e-4)
    assert float(row["pred_output_tok_s"]) == pytest.approx(
        16 * 1024 / float(row["pred_e2e_s"]), rel=1e-4
    )


def test_a_version_that_was_calibrated_moves_the_prediction_and_is_named() -> None:
    amd = {**GOOD, "gpu_id": "mi300x", "tp": "8"}
    asked = [{**amd, "engine": f"vLLM {version}"} for version in ("0.9.1", "99.0", "")]
    (named, unknown, silent), _ = predict_table(asked, bundled_profile())
    assert "mi300x/vllm 0.9.1 calibrated" in named["pred_note"]
    assert "engine version not seen" in unknown["pred_note"]
    assert named["pred_tpot_ms"] != unknown["pred_tpot_ms"] == silent["pred_tpot_ms"]


def test_a_table_without_needed_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("model_id,tp\nllama-3.1-70b,1\n")
    with pytest.raises(InputError, match="lacks the columns gpu_id"):
        read_table(path)
    with pytest.raises(InputError, match="cannot read"):
        read_table(tmp_path / "absent.csv")
