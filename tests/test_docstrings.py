"""Every public name of the project has a docstring, and the exported functions document fully."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import shardwise

ROOT = Path(__file__).resolve().parents[1]
FUNCTIONS = [name for name in shardwise.__all__ if inspect.isfunction(getattr(shardwise, name))]


def test_the_linter_demands_a_docstring_of_every_public_class_method_and_function(
    tmp_path: Path,
) -> None:
    source = ROOT / "src" / "shardwise" / "kernels"
    bare = tmp_path / "src" / "shardwise" / "kernels" / "bare.py"
    bare.parent.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text("utf-8"), "utf-8")
    bare.write_text('"""A module."""\n\n\ndef public() -> None:\n    return None\n', "utf-8")
    for path, says in ((source, ""), (bare, "D103")):
        command = [sys.executable, "-m", "ruff", "check", "--no-cache", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == bool(says), done.stdout + done.stderr
        assert says in done.stdout


def test_no_docstring_rule_that_asks_for_presence_is_ignored_in_the_package() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]
    assert "D" in lint["select"]
    demanded = {"D100", "D101", "D102", "D103", "D104", "D417"}
    assert not demanded & set(lint["ignore"])
    for pattern, codes in lint["per-file-ignores"].items():
        if not pattern.startswith(("tests/", "benchmarks/")):
            assert not ({"D", *demanded} & set(codes)), pattern


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_exported_function_says_what_it_raises(name: str) -> None:
    doc = inspect.getdoc(getattr(shardwise, name)) or ""
    raises = doc.partition("Raises:\n")[2]
    errors = re.findall(r"^    (\w+): ", raises, re.MULTILINE)
    assert errors
    assert all(issubclass(getattr(shardwise, error), shardwise.ShardwiseError) for error in errors)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_line_of_a_section_begins_a_name_or_goes_on_further_in(name: str) -> None:
    doc = inspect.getdoc(getattr(shardwise, name)) or ""
    for section in ("Args", "Raises"):
        found = re.search(rf"^{section}:\n((?:    .*\n?)+)", doc, re.MULTILINE)
        assert found, section
        for line in found.group(1).splitlines():
            assert re.match(r" {8}|    \w+: ", line), f"{section}: {line}"
