"""Every field of the documents that the Python API and `--json` give is in the JSON reference."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from shardwise import Deployment, Result, Workload, compare, plan, predict, simulate, study
from shardwise.reports.documents import SCHEMA_VERSION

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reference" / "json.md"
WORDS: Final = set(re.findall(r"`(\w+)`", PAGE.read_text("utf-8")))
#: Fields whose keys are values: metrics, causes of time, variables, outcomes, versions.
MAPS: Final = {"metrics", "breakdown", "environment", "outcomes", "versions", "differing"}
H200: Final = Deployment("llama-3.1-8b", "h200")


def fields(document: Any) -> Iterator[str]:
    if isinstance(document, list):
        for item in document:
            yield from fields(item)
    elif isinstance(document, dict):
        for name, value in document.items():
            yield name
            below = list(value.values()) if name in MAPS and isinstance(value, dict) else value
            yield from fields(below)


def compared(folder: Path) -> Result:
    for name in ("a", "b"):
        cells = study("llama-3.1-8b", gpu="h200", gpus=1, tp_sizes=(1,), concurrencies=(1, 8))
        cells.write(folder / name)
    return compare(folder / "a", folder / "b")


def answers(folder: Path) -> dict[str, Result]:
    asked: dict[str, Any] = {"gpu": "h200", "gpus": 2}
    return {
        "plan": plan("llama-3.1-8b", isl=1000, osl=200, concurrency=16, tpot_s=0.03, **asked),
        "plan that misses": plan(
            "llama-3.1-70b", isl=1000, osl=200, concurrency=16, tpot_s=0.03, **asked
        ),
        "study": study("llama-3.1-8b", tp_sizes=(1, 2), concurrencies=(1, 16), **asked),
        "study that does not fit": study(
            "llama-3.1-70b", tp_sizes=(1, 2), concurrencies=(1,), **asked
        ),
        "predictions": predict(H200, Workload(1000, 200, 16)),
        "simulate": simulate(H200, request_rate=4, isl=200, osl=20, duration_s=5),
        "compare": compared(folder),
    }


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    found = answers(tmp_path_factory.mktemp("json"))
    return {name: result.to_dict() for name, result in found.items()}


def test_every_field_is_documented(documents: dict[str, dict[str, Any]]) -> None:
    for name, document in documents.items():
        missing = set(fields(document)) - WORDS
        assert not missing, f"{name}: not in {PAGE.name}: {sorted(missing)}"


def test_every_document_begins_with_its_kind_and_the_version(
    documents: dict[str, dict[str, Any]],
) -> None:
    for name, document in documents.items():
        assert list(document)[:2] == ["kind", "schema_version"], name
        assert document["schema_version"] == SCHEMA_VERSION
        assert document["kind"] == name.split()[0]
    assert f"now {SCHEMA_VERSION}." in PAGE.read_text("utf-8")
