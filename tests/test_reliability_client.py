"""docs/reliability_client.md says what the last run of the client's matrix found, and all of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvloop", reason="needs: pip install 'shardwise[bench]'")

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import client_faults  # noqa: E402
from shardwise.bench.known_modes import EXPECTED  # noqa: E402

FOUND = [
    client_faults.Tried(**case)
    for case in json.loads(client_faults.RESULT.read_text("utf-8"))["cases"]
]


def test_the_page_is_what_the_results_say() -> None:
    assert client_faults.PAGE.read_text("utf-8") == client_faults.page(FOUND)


def test_every_mode_was_tried_and_everything_held() -> None:
    tried = [case.what.split("`")[1] for case in FOUND if case.kind != "command"]
    assert tried == list(EXPECTED)
    assert [case.what for case in FOUND if not case.held] == []
