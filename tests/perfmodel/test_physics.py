"""Rows beyond their GPU's datasheet are told from rows that are merely fast."""

from __future__ import annotations

import numpy as np
import pytest
from tests.reference import FOLDER, needs_reference

from shardwise.perfmodel.batches import Batch, group
from shardwise.perfmodel.physics import arithmetic_share, bandwidth_share, impossible
from shardwise.perfmodel.predicting import usable_rows
from shardwise.perfmodel.rows import parse_rows, read_table

USUAL = {
    "model_id": "llama-3.1-70b",
    "gpu_id": "h200",
    "engine_id": "vllm",
    "weight_dtype": "fp8",
    "tp": "1",
    "mode": "closed_loop",
    "concurrency": "1",
    "isl": "100",
    "osl": "100",
}


def batches(**given: str) -> list[Batch]:
    rows, problems = parse_rows([{**USUAL, **given}])
    assert not problems
    return group(rows)[0]


def test_a_token_takes_as_long_as_its_weights_are_read() -> None:
    # about 71.4 GB of weights beside the embedding at 4.8 TB/s: 14.9 ms
    (batch,) = batches(tpot_ms="15")
    assert bandwidth_share(batch)[0] == pytest.approx(0.99, abs=0.03)
    assert not impossible([batch])
    (found,) = impossible(batches(tpot_ms="5"))
    assert found.resource == "bytes/s"
    assert found.share == pytest.approx(2.97, abs=0.1)
    # two GPUs read half each
    assert bandwidth_share(*batches(tpot_ms="15", tp="2"))[0] == pytest.approx(0.5, abs=0.03)


def test_tokens_are_multiplied_with_the_weights() -> None:
    # 8B in bf16: 7.0e9 weights outside embedding and head x 2 FLOP = 14 GFLOP a token; an H100 has
    # 989 TFLOP/s: 71,000 tokens/s, prompts included
    row = {"model_id": "llama-3.1-8b", "gpu_id": "h100", "weight_dtype": "bf16"}
    queued = {**row, "mode": "max_throughput", "concurrency": "max"}
    (batch,) = batches(**queued, output_tok_s="17500")
    assert arithmetic_share(batch)[0] == pytest.approx(0.5, abs=0.03)
    (found,) = impossible(batches(**queued, output_tok_s="100000"))
    assert found.resource == "FLOP/s"


def test_drafted_tokens_are_not_judged() -> None:
    assert not impossible(batches(tpot_ms="5", speculation="unknown"))


def test_an_impossible_row_is_left_out_with_its_reason() -> None:
    row = {**USUAL, "tpot_ms": "1.5"}
    good, problems = usable_rows([row, {**row, "tpot_ms": "17"}])
    assert [r.number for r in good] == [2]
    assert "times the bytes/s of h200; check its units" in problems[0].reason


@needs_reference
def test_no_public_row_is_beyond_its_gpu() -> None:
    for name in ("measurements.csv", "serving_2026.csv"):
        some, _ = group(parse_rows(read_table(FOLDER / name)[1])[0])
        shares = np.concatenate([f(b) for b in some for f in (bandwidth_share, arithmetic_share)])
        assert np.nanmax(shares) < 0.9
        assert not impossible(some)
