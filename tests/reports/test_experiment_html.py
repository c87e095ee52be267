"""The measured study's page, from a study that was run on two cores."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shardwise.experiment.outcome import Outcome
from shardwise.reports.figure_experiment import DRAWN
from shardwise.reports.figure_style import render
from shardwise.reports.html.experiment import experiment_figures, experiment_html, verdict

DATA = Path(__file__).parent / "data" / "measured_study.json.gz"


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return msgspec.json.decode(gzip.decompress(DATA.read_bytes()), type=Outcome)


@pytest.fixture(scope="module")
def page(outcome: Outcome) -> str:
    return experiment_html(outcome, "shardwise study llama-51m --measure")


def test_the_verdict_counts_every_claim_once(outcome: Outcome, page: str) -> None:
    numbers = list(map(int, re.findall(r"\d+", verdict(outcome))))
    holds, every, fails, rest = numbers
    assert every == len(outcome.claims) == holds + fails + rest
    assert holds == sum(c.verdict == "holds" for c in outcome.claims)
    assert page.index(verdict(outcome)) < page.index('id="claims"')


def test_what_was_not_settled_or_not_measured_is_behind_a_line(outcome: Outcome, page: str) -> None:
    claims = page[page.index('id="claims"') : page.index('id="comparison"')]
    shown, _, folded = claims.partition("<details>")
    assert "not resolved</td>" not in shown
    assert folded.count("not resolved</td>") == sum(
        c.verdict == "not resolved" for c in outcome.claims
    )
    bound = sum(not c.usable for c in outcome.corrected.compared)
    assert f"{bound} of {len(outcome.corrected.compared)} cells were bound by the client" in page
    assert "client-bound" not in page[page.index('id="comparison"') :]


def test_no_legend_entry_is_without_a_mark(outcome: Outcome) -> None:
    before = [msgspec.structs.replace(c, after=None) for c in outcome.corrected.compared]
    corrected = msgspec.structs.replace(outcome.corrected, compared=tuple(before))
    charts: dict[str, Any] = experiment_figures(
        msgspec.structs.replace(outcome, corrected=corrected)
    )
    drawn = render(charts["measured_predicted"], "svg").decode()
    assert "predicted before" in drawn
    assert "predicted, calibrated" not in drawn
    assert "predicted, calibrated" in DRAWN
