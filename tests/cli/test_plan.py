"""`shardwise plan` as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from shardwise.cli.plan import plan, seconds
from shardwise.errors import InputError

ROOT = Path(__file__).parents[2]
BASE = ["llama-3.1-70b", "--gpu", "mi300x", "--gpus", "8", "--isl", "1024", "--osl", "256"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )


def test_json_is_one_document_and_nothing_else() -> None:
    done = run("plan", *BASE, "--concurrency", "64", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ranked"][0]["evidence"]["source"]["kind"] == "predicted"
    assert document["commands"][0]["argv"][:2] == ["vllm", "serve"]


def test_an_slo_that_nothing_meets_exits_3_with_one_line() -> None:
    done = run("plan", *BASE, "--ttft", "1ms")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert "misses TTFT" in done.stderr


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--concurrency", "0"], "concurrency is 0"),
        (["--concurrency", "4", "--request-rate", "1"], "at most one"),
        (["--tpot", "-5"], "--tpot"),
        (["--dtype", "fp7"], "weight dtype"),
        (["--engine", "foo"], "engine"),
        (["--objective", "joy"], "objective"),
        (["-o", "/proc/none/plan.json"], "/proc/none"),
    ],
)
def test_bad_input_is_one_clear_error(extra: list[str], says: str) -> None:
    result = CliRunner().invoke(plan, [*BASE, *extra])
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)


def test_output_starts_with_the_recommendation_and_ends_with_the_command() -> None:
    result = CliRunner().invoke(plan, [*BASE, "--concurrency", "64"], catch_exceptions=False)
    lines = result.stdout.strip().splitlines()
    assert lines[0].startswith("Deploy llama-3.1-70b as ")
    assert "80 % interval" in lines[0]
    assert "vllm serve meta-llama/Llama-3.1-70B" in lines[-1]


def test_output_file_holds_the_document(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    CliRunner().invoke(plan, [*BASE, "-o", str(file)], catch_exceptions=False)
    assert json.loads(file.read_text())["gpus"] == 8


@pytest.mark.parametrize(
    ("given", "expected"), [("200ms", 0.2), ("2s", 2.0), ("40", 0.04), ("1.5 s", 1.5)]
)
def test_times(given: str, expected: float) -> None:
    assert seconds(given, "ttft") == pytest.approx(expected)


@pytest.mark.parametrize("given", ["", "x", "-1", "0", "nan", "inf", "1h"])
def test_times_that_are_none(given: str) -> None:
    with pytest.raises(InputError):
        seconds(given, "ttft")


def test_commands_of_the_howto_run() -> None:
    text = (ROOT / "docs/howto/plan.md").read_text()
    commands = re.findall(r"^shardwise plan ([^\\\n]*(?:\\\n[^\\\n]*)*)$", text, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        arguments = command.replace("\\\n", " ").split()
        result = CliRunner().invoke(plan, arguments, catch_exceptions=False)
        assert result.exit_code == 0
