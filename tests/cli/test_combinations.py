"""Every combination of options of `simulate` and `search` is honoured or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from shardwise.cli.main import cli
from shardwise.errors import InputError
from shardwise.simulator.compiling import HAS_NUMBA

pytestmark = pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")

#: Options with a value that changes the answer of a short run.
OPTIONS: Final = {
    "--isl": ("300",),
    "--osl": ("40",),
    "--length-cv": ("0.5",),
    "--arrivals": ("bursty",),
    "--duration": ("15s",),
    "--warmup": ("4s",),
    "--turns": ("3",),
    "--think": ("2s",),
    "--prefix-tokens": ("300",),
    "--prefixes": ("4",),
    "--ttft": ("18ms",),
    "--tpot": ("5.2ms",),
    "--lengths": ("lengths.csv",),
    "--fail": ("0:3:6",),
    "--price": ("7",),
    "--hash-block": ("16",),
    "--start-up": ("1m",),
    "--replicas": ("3",),
    "--prefill-replicas": ("1",),
    "--prefill-tp": ("2",),
}
TRAFFIC: Final = {
    "--rate": ("4",),
    "--stage": ("4:10s",),
    "--concurrency": ("4",),
    "--trace": ("trace.csv",),
}
DAY: Final = ("--day", "1,2", "--ttft", "500ms")
#: Options that a day honours: those of a request, of the bounds and of the replicas.
OF_A_DAY: Final = ("--isl", "--osl", "--length-cv", "--ttft", "--tpot", "--price", "--start-up")
MODEL: Final = ("llama-3.1-8b", "--gpu", "h200", "--max-num-seqs", "64")
#: shorter than ten minutes and a thousand tokens
SHORT: Final = {"--duration": ("10s",), "--isl": ("200",), "--osl": ("20",)}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path = tmp_path_factory.mktemp("combinations")
    rows = [f"{0.25 * i},{150 + 7 * i},{10 + i % 30}" for i in range(40)]
    for name in ("trace.csv", "lengths.csv"):
        (path / name).write_text("\n".join(["arrival_s,isl,osl", *rows]), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        yield


@cache
def answer(traffic: str, *names: str) -> Any:
    """Return the JSON document of a run, or the line that refuses it."""
    given = {**{name: OPTIONS[name] for name in names}, traffic: TRAFFIC[traffic]}
    for name, value in SHORT.items():
        if name not in given and not refused(traffic, name, *names):
            given[name] = value
    words = [word for name, values in given.items() for word in (name, *values)]
    done = CliRunner().invoke(cli, ["simulate", *MODEL, *words, "--json"])
    if isinstance(done.exception, InputError):
        assert "\n" not in str(done.exception)
        assert done.stdout == ""
        return str(done.exception)
    assert done.exit_code in (0, 3), (words, done.output, done.exception)
    return json.loads(done.stdout)


def refused(traffic: str, *names: str) -> bool:
    """Whether the options of SHORT have no effect."""
    mine = {"--trace", "--lengths"} & {traffic, *names}
    lasts = traffic in ("--rate", "--concurrency")
    return not lasts if names[0] == "--duration" else bool(mine)


@pytest.mark.parametrize("traffic", TRAFFIC)
@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_changes_the_answer_or_is_refused(traffic: str, name: str) -> None:
    found = answer(traffic, name)
    assert isinstance(found, str) or found != answer(traffic)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_day_honours_or_refuses_an_option(name: str) -> None:
    words = ["simulate", *MODEL, *DAY, name, *OPTIONS[name], "--json"]
    done = CliRunner().invoke(cli, words)
    assert isinstance(done.exception, InputError) == (name not in OF_A_DAY), done.output


@pytest.mark.parametrize("traffic", ["--rate", "--concurrency"])
@pytest.mark.parametrize("first", OPTIONS)
def test_of_two_options_each_changes_the_answer_or_they_are_refused(
    traffic: str, first: str
) -> None:
    for one, other in combinations(OPTIONS, 2):
        if one == first:
            found = answer(traffic, one, other)
            if not isinstance(found, str):
                assert found != answer(traffic, one), other
                assert found != answer(traffic, other), other


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tp", "2"), "--tp with a deployment file; allowed: a model's name; set it in d.toml"),
        (("--gpu", "h200"), "--gpu with a deployment file"),
        (("--replicas", "2"), "--replicas with a deployment file"),
        (("--speculation", "mtp:1"), "--speculation with a deployment file"),
    ],
)
def test_options_that_a_deployment_file_decides_are_refused(
    words: tuple[str, ...], message: str
) -> None:
    Path("d.toml").write_text('[node]\ngpu = "h200"\n[[model]]\nmodel = "llama-3.1-8b"\n', "utf-8")
    done = CliRunner().invoke(cli, ["simulate", "d.toml", "--rate", "1", *words])
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--think", "2s"), "--think without --turns; it would have no effect"),
        (("--prefixes", "3"), "--prefixes without --prefix-tokens; it would have no effect"),
        (("--turns", "3", "--arrivals", "bursty"), "--arrivals with --turns; one of them would"),
    ],
)
def test_a_search_refuses_options_without_effect(words: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(cli, ["search", "llama-3.1-8b", "--rate", "1", *words])
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
