"""Each command that the documentation shows exists with its options, and runs where marked so."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from shardwise.cli.main import cli

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```(\w*) ?([\w.-]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONTINUED = re.compile(r"\\\n\s*")


def pages(having: str) -> list[Path]:
    return [p for p in sorted(DOCS.rglob("*.md")) if having in p.read_text("utf-8")]


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


def commands(text: str) -> Iterator[str]:
    """The `shardwise` lines of a block, continued lines joined, without pipes and comments."""
    for line in CONTINUED.sub(" ", text).splitlines():
        found = re.search(r"(?:^|\| )shardwise (.*)", line.strip())
        if found:
            yield re.split(r"\s#\s|\s\|\s", found.group(1))[0]


@pytest.mark.parametrize("page", pages("shardwise "), ids=name_of)
def test_every_command_shown_exists_with_its_options(page: Path) -> None:
    blocks = BLOCK.findall(page.read_text("utf-8"))
    for line in (line for language, _, text in blocks if language in ("sh", "") for line in
                 commands(text)):  # fmt: skip
        words, command = shlex.split(line), cli
        context = click.Context(cli)
        while words and isinstance(command, click.Group):
            name = words.pop(0)
            found = command.get_command(context, name)
            assert found is not None, f"{line}: no command {name}"
            command = found  # type: ignore[assignment]
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        given = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-zA-Z].*", word)}
        assert given <= known | {"-h", "--help"}, f"{line}: {sorted(given - known)}"


@pytest.mark.parametrize("page", pages("```python run"), ids=name_of)
def test_every_program_marked_to_run_runs(page: Path, tmp_path: Path) -> None:
    for language, name, text in BLOCK.findall(page.read_text("utf-8")):
        if language == "python" and name == "run":
            done = subprocess.run(
                [sys.executable, "-c", text],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout


@pytest.mark.parametrize("page", pages("```sh run"), ids=name_of)
def test_every_command_marked_to_run_runs(page: Path, tmp_path: Path) -> None:
    env = {**os.environ, "SHARDWISE_HOME": str(tmp_path / "home")}
    for language, name, text in BLOCK.findall(page.read_text("utf-8")):
        if language == "sh" and name == "run":
            for line in text.replace("\\\n", " ").strip().splitlines():
                words = shlex.split(line)
                assert words[0] == "shardwise", line
                done = subprocess.run(
                    [sys.executable, "-m", "shardwise.cli.main", *words[1:]],
                    cwd=tmp_path,
                    env=env,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=120,
                )
                assert done.returncode == 0, f"{line}\n{done.stderr}"
        elif "." in name:
            (tmp_path / name).write_text(text, "utf-8")
