"""A calibration on half of the cells, judged on the other half: no metric is made worse."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

pytest.importorskip("scipy", reason="needs: pip install 'shardwise[calibrate]'")

from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.experiment import correct as correcting
from shardwise.experiment.forecast import Forecast
from shardwise.experiment.run import Ran, Wanted, predicted
from shardwise.experiment.split import Machine
from shardwise.layout.deployment import Deployment
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.replica.command import Instance

WANTED = Wanted(
    model="llama-3.1-8b",
    machine=Machine("cuda", (0, 1), "h200"),
    instance=Instance(Deployment("llama-3.1-8b", "", engine="vllm")),
    weight_dtype="bf16",
    tp_sizes=(1, 2),
    concurrencies=(1, 8, 64),
    isl=512,
    osl=128,
    hardware_name="unused",
    profile=bundled_profile(),
)


def _as_if_measured(made: Evidence, drawn: random.Random) -> dict[str, Interval]:
    """Decoding 1.3 times as slow as predicted, and a TTFT that is right but for its noise."""
    tpot_s = made.metrics["tpot_s"].value * 1.3 * math.exp(drawn.gauss(0.0, 0.02))
    ttft_s = made.metrics["ttft_s"].value * math.exp(drawn.gauss(0.0, 0.25))
    e2e_s = ttft_s + 127 * tpot_s
    rate = made.workload.concurrency * 128 / e2e_s
    values = {"ttft_s": ttft_s, "tpot_s": tpot_s, "e2e_latency_s": e2e_s, "output_tok_s": rate}
    return {name: Interval(v, 0.95 * v, 1.05 * v, 10) for name, v in values.items()}


def _measured(before: dict[str, Forecast], seed: int) -> dict[str, Measured]:
    drawn = random.Random(seed)
    source = Source("measured", "test")
    return {
        key: Measured(
            "experiment",
            key,
            replace(f.evidence, metrics=_as_if_measured(f.evidence, drawn), source=source),
            {"completed": 10},
        )
        for key, f in before.items()
    }


def test_what_is_wrong_is_corrected_and_what_is_right_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gain of one standard error is kept, so noise alone passes in one draw of six."""
    # fits take seconds each: three folds do, no learning curve, and no profile from all cells
    monkeypatch.setattr(correcting, "FOLDS", 3)
    monkeypatch.setattr(correcting, "CURVE_ROWS", (0,))
    whole = SimpleNamespace(profile=WANTED.profile)
    monkeypatch.setattr(correcting, "build_personal", lambda *_: whole)
    cells = WANTED.cells()
    before = {k: Forecast("now", predicted(WANTED, c, WANTED.profile)) for k, c in cells.items()}
    left = 0
    for seed in range(5):
        found = correcting.correct(WANTED, Ran(_measured(before, seed), before, []), "mine")
        scores = {score.metric: score for score in found.scores}
        for metric in ("tpot_s", "e2e_latency_s", "output_tok_s"):
            assert scores[metric].share > 0.8, metric
            assert scores[metric].after_pct < 0.5 * scores[metric].before_pct, metric
        if scores["ttft_s"].share == 0.0:
            left += 1
            assert scores["ttft_s"].after_pct == pytest.approx(scores["ttft_s"].before_pct)
            assert all(score.after_inside >= 0.6 * score.n for score in found.scores)
    assert left >= 3
