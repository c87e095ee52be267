"""A command that needs an optional library says which line installs it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from shardwise.cli.install_lines import EXTRA_OF_COMMAND, EXTRAS, install_line
from shardwise.cli.main import COMMANDS

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
RUN = """
import sys
sys.modules.update(dict.fromkeys({missing!r}))  # None: importing it fails as if it were absent
sys.argv = ["shardwise", *{words!r}]
from shardwise.cli.main import main
main()
"""


def test_every_extra_that_is_named_exists_and_brings_the_library() -> None:
    extras = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["optional-dependencies"]
    names = {"yaml": "pyyaml"}
    for module, extra in EXTRAS.items():
        assert any(names.get(module, module) in need for need in extras[extra]), module
    assert set(EXTRA_OF_COMMAND) <= set(COMMANDS)
    assert set(EXTRA_OF_COMMAND.values()) <= set(extras)


def test_the_command_decides_where_several_extras_bring_a_library() -> None:
    assert install_line("psutil", "up") == "pip install 'shardwise[host]'"
    assert install_line("httptools", "study") == "pip install 'shardwise[measure]'"
    assert install_line("numba.core", "plan") == "pip install 'shardwise[traffic]'"
    assert install_line("shardwise.gone", "plan") == ""


@pytest.mark.parametrize(
    ("missing", "words", "extra"),
    [
        ("httptools", ["bench", "selftest"], "bench"),
        ("httptools", ["study", "llama-51m", "--measure", "--minutes", "1"], "measure"),
        ("psutil", ["up", "deployment.toml"], "host"),
        ("uvicorn", ["web"], "web"),
    ],
)
def test_a_missing_library_is_one_line_and_exit_2(
    missing: str, words: list[str], extra: str
) -> None:
    code = RUN.format(missing=[missing], words=words)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"pip install 'shardwise[{extra}]'" in done.stderr
