"""What CONTRIBUTING.md names is there: files, tests, functions and make targets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PACKAGE = ROOT / "src" / "shardwise"
NAMED = sorted(set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*(?:::\w+)?)`", PAGE)))
TARGETS = sorted(set(re.findall(r"`make ([a-z-]+)", PAGE)))


def places(path: str) -> list[Path]:
    """Where a path of the page may start: the repository, the package, or its reading."""
    starts = (ROOT, PACKAGE, PACKAGE / "architecture", PACKAGE / "hosting")
    return [found for start in starts if (found := start / path).exists()]


@pytest.mark.parametrize("name", [n for n in NAMED if "NAME" not in n])
def test_each_file_and_test_that_is_named_exists(name: str) -> None:
    path, _, test = name.partition("::")
    if path in {".venv/", "build/"}:
        return
    found = places(path)
    assert found, path
    if test:
        assert f"def {test}(" in found[0].read_text("utf-8")


@pytest.mark.parametrize("target", TARGETS)
def test_each_make_target_that_is_named_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def test_every_recipe_is_there() -> None:
    recipes = re.findall(r"^### Add (?:a|an) (.+)$", PAGE, re.MULTILINE)
    assert recipes == ["GPU", "engine", "model family", "balancer", "metric", "figure"]


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("engines/registry.py", ["_RECORDS"]),
        ("architecture/reading/registry.py", ["READERS"]),
        ("hosting/balancers/choosing.py", ["def known("]),
        ("metrics.py", ["ALL: Final"]),
        ("reports/study_output.py", ["def study_figures("]),
        ("api/extras.py", ["def require_modules("]),
    ],
)
def test_what_a_recipe_changes_is_where_it_says(file: str, names: list[str]) -> None:
    text = (PACKAGE / file).read_text("utf-8")
    assert all(name in text for name in names)
