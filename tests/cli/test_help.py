"""Help of every command and option: there, standing alone; bare and mistyped commands helped on."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from shardwise.cli.examples import EXAMPLES
from shardwise.cli.main import COMMANDS, cli

CONTEXT = click.Context(cli)


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for sub in command.list_commands(CONTEXT):
            found = command.get_command(CONTEXT, sub)
            assert found is not None
            yield from commands(found, f"{name} {sub}".strip())


EVERY = dict(commands(cli, ""))


@pytest.mark.parametrize("name", EVERY)
def test_every_option_has_help_that_stands_alone(name: str) -> None:
    for option in EVERY[name].params:
        if isinstance(option, click.Option):
            said = option.help or ""
            assert len(said.split()) >= 3, f"{option.opts}: {said!r}"
            assert said[-1] in ".…", f"{option.opts}: {said!r}"
            for words in ("likewise", "the same for", "as above"):
                assert words not in said.lower(), f"{option.opts}: {said!r}"


@pytest.mark.parametrize("name", EVERY)
def test_every_command_says_what_it_does(name: str) -> None:
    assert len((EVERY[name].help or "").split()) >= 5


LEAVES = {name: command for name, command in EVERY.items() if not isinstance(command, click.Group)}


def test_every_command_has_an_example() -> None:
    assert set(EXAMPLES) == set(LEAVES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_in_the_help_and_is_understood(name: str) -> None:
    command = LEAVES[name]
    shown = CliRunner().invoke(cli, [*name.split(), "--help"]).output
    for line in EXAMPLES[name]:
        assert f"  shardwise {line}\n" in shown
        assert len(line) < 78
        words = shlex.split(line)[len(name.split()) :]
        context = command.make_context(name, list(words), resilient_parsing=True)
        assert not context.args, f"{line}: {context.args}"
        options = {option for p in command.params for option in p.opts}
        assert {word for word in words if word.startswith("-")} <= options, line


def shardwise(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_command_the_help_is_shown() -> None:
    bare = CliRunner().invoke(cli, [])
    assert bare.exit_code == 0
    assert all(f"  {name} " in bare.output for name in COMMANDS)
    assert "Example: shardwise plan" in bare.output


def test_a_mistyped_command_names_the_near_one() -> None:
    done = shardwise("paln")
    assert done.returncode == 2
    assert done.stderr == (
        "shardwise: unknown command 'paln'; did you mean plan, explain?; see shardwise --help\n"
    )


def test_a_mistyped_command_of_a_group_does_too() -> None:
    done = shardwise("bench", "rum")
    assert done.returncode == 2
    assert done.stderr.startswith("shardwise: unknown command 'rum'; did you mean run")


def test_a_mistyped_option_names_the_near_one() -> None:
    done = shardwise("plan", "llama-3.1-8b", "--gpuss", "8")
    assert done.returncode == 2
    assert "--gpus" in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_setting_of_the_environment_is_documented() -> None:
    root = Path(__file__).resolve().parents[2]
    sources = (root / "src").rglob("*.py")
    read = {v for p in sources for v in re.findall(r"SHARDWISE_[A-Z_]+", p.read_text("utf-8"))}
    page = (root / "docs" / "reference" / "cli.md").read_text("utf-8")
    assert len(read) >= 3
    assert all(f"`{variable}`" in page for variable in read), read
