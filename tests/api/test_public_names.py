"""The public names are those of the reference page, and importing the package loads nothing."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import shardwise
from shardwise.cli.main import COMMANDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "api.md"


def test_the_reference_page_has_every_public_name_and_no_other() -> None:
    listed = re.findall(r"^::: shardwise\.(\w+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(shardwise.__all__)


@pytest.mark.parametrize("name", shardwise.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(shardwise, name)
    assert found.__name__ == name
    assert (found.__doc__ or "").strip()
    assert name in dir(shardwise)


FUNCTIONS = [name for name in shardwise.__all__ if inspect.isfunction(getattr(shardwise, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_documented_and_all_but_the_first_two_are_keywords(name: str) -> None:
    function = getattr(shardwise, name)
    arguments = inspect.signature(function).parameters
    described = re.findall(r"^ {4,8}(\w+): ", inspect.getdoc(function) or "", re.MULTILINE)
    assert set(arguments) <= set(described)
    positional = [p for p in arguments.values() if p.kind is not p.KEYWORD_ONLY]
    assert len(positional) <= 2
    times = [n for n in arguments if n.startswith(("ttft", "tpot", "e2e", "duration", "warmup"))]
    assert all(n.endswith("_s") for n in times)


@pytest.mark.parametrize("name", shardwise.__all__)
def test_paths_may_be_text_and_lists_of_them_too(name: str) -> None:
    found = getattr(shardwise, name)
    methods = [m for _, m in inspect.getmembers(found, inspect.isfunction) if m.__name__[0] != "_"]
    for function in [found, *methods] if inspect.isfunction(found) else methods:
        for argument in inspect.signature(function).parameters.values():
            assert not re.search(r"\bPath\b", str(argument.annotation)), argument


def test_every_command_has_a_function_or_is_listed_without_one() -> None:
    page = (PAGE.parents[1] / "howto" / "python.md").read_text("utf-8").split("## Commands and")[1]
    table, alone = page.split("\n\n", 2)[1:]
    rows = [line.split("|")[1:3] for line in table.splitlines()[2:]]
    listed = {words.split()[0] for row in rows for words in re.findall(r"`([a-z ]+)`", row[0])}
    listed |= {words.split()[0] for words in re.findall(r"`([a-z ]+)`", alone)}
    assert listed == set(COMMANDS)
    functions = {name for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    assert functions == set(FUNCTIONS)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'plann'"):
        shardwise.plann  # noqa: B018


def test_importing_the_package_loads_no_library() -> None:
    code = (
        "import sys, shardwise; heavy = {'numpy', 'msgspec', 'click', 'altair', 'pandas'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or "
        "(len([m for m in sys.modules if m.startswith('shardwise.')]) > 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_function_stays_one_after_its_commands_modules_are_imported() -> None:
    code = "import shardwise; shardwise.study; import shardwise.cli.study; shardwise.study.__call__"
    subprocess.run([sys.executable, "-c", code], check=True)
