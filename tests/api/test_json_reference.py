"""Every kind of document that `--json` prints, and each of its fields, is in the JSON reference."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.api.json_samples import samples

import shardwise
from shardwise.reports.documents import SCHEMA_VERSION

PACKAGE: Final = Path(shardwise.__file__).parent
PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reference" / "json.md"
TEXT: Final = PAGE.read_text("utf-8")
SECTIONS: Final = TEXT.split("\n## ")
SHARED: Final = next(s for s in SECTIONS if s.startswith("Shared records"))
#: Fields whose keys are values: metrics, causes of time, variables, dtypes, links, outcomes.
MAPS: Final = {
    *("metrics", "breakdown", "environment", "outcomes", "versions", "differing", "scores"),
    *("before_pct", "after_pct", "flops", "links", "peer_access", "numa_cpus", "seconds"),
    *("transports", "readings", "all_reduce", "conditions", "stored", "by", "cache_tokens"),
}  # fmt: skip


def fields(document: Any) -> Iterator[str]:
    if isinstance(document, list):
        for item in document:
            yield from fields(item)
    elif isinstance(document, dict):
        for name, value in document.items():
            yield name
            below = list(value.values()) if name in MAPS and isinstance(value, dict) else value
            if name != "rows":  # columns of the CSV file, which the page of files lists
                yield from fields(below)


def section_of(kind: str) -> str:
    """The sections that name the kind, in their heading or in a first column."""
    named = rf"^{kind}\b|^[\w, ]*\b{kind}\b[\w, ]*\n|^\| `{kind}`"
    return "\n".join(s for s in SECTIONS if re.search(named, s, re.MULTILINE))


def printed_kinds() -> set[str]:
    """Kinds in the source: `kind = "…"` of results, and what `print_json` is called with."""
    found = set()
    for path in [*(PACKAGE / "api").glob("*.py"), *(PACKAGE / "cli").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                lines = (line for line in node.body if isinstance(line, ast.Assign))
                named = [line.value for line in lines if ast.unparse(line.targets[0]) == "kind"]
                found |= {ast.literal_eval(value) for value in named}
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print_json":
                found.add(ast.literal_eval(node.args[0]))
    return found


KINDS: Final = sorted(printed_kinds())


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return samples(tmp_path_factory.mktemp("json"))


def test_every_kind_is_tried_here(documents: list[dict[str, Any]]) -> None:
    assert {document["kind"] for document in documents} == set(KINDS)


def test_every_field_is_documented_with_its_kind(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        kind = document["kind"]
        words = set(re.findall(r"`(\w+)`", SHARED + section_of(kind)))
        missing = set(fields(document)) - words - {"kind", "schema_version"}
        assert not missing, f"{kind}: not in {PAGE.name}: {sorted(missing)}"


def test_every_document_begins_with_its_kind_and_the_version(
    documents: list[dict[str, Any]],
) -> None:
    for document in documents:
        assert list(document)[:2] == ["kind", "schema_version"]
        assert document["schema_version"] == SCHEMA_VERSION
    assert re.search(rf"\b(?:now|currently) {SCHEMA_VERSION}\.", TEXT)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_place_in_the_reference(kind: str) -> None:
    assert section_of(kind), f"{kind} is not in {PAGE.name}"


def test_nothing_prints_json_past_the_versioned_document() -> None:
    for path in (PACKAGE / "cli").glob("*.py"):
        source = path.read_text("utf-8")
        assert "json.dumps(" not in source, path.name
        assert "msgspec.json.encode(" not in source, path.name
