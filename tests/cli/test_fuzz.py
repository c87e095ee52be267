"""Whatever is typed: no traceback, no exit code but 0, 2, 3 and 4, no answer later than 30 s.

The examples are the same each time. `make fuzz` draws others for as long as SHARDWISE_FUZZ_SECONDS
says. Simulations of more than 50,000 requests are not drawn: they say how much there is to do.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from tests.cli.fuzzing import lines, write_files

from shardwise.cli.main import main

SECONDS = float(os.environ.get("SHARDWISE_FUZZ_SECONDS", "0"))
EXAMPLES = 250
ANSWERS_WITHIN_S = 30
ALLOWED = {0, 2, 3, 4}
#: that hold what a person typed, where a simulation of a million requests is no mistake
_SIZES = ("--rate", "--concurrency", "--duration", "--seeds", "--osl", "--isl", "--replicas")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of files to work in, a home that is empty, and stdin at its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHARDWISE_HOME", str(tmp_path / "home"))
    write_files(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _is_large(words: list[str]) -> bool:
    """Whether a simulation is asked for that takes long because it is large."""
    sizes = {}
    for name, value in pairwise(words):
        if name in _SIZES:
            with contextlib.suppress(ValueError):
                sizes[name] = float(value)
    work = sizes.get("--rate", 0.0) * sizes.get("--duration", 3.0) * sizes.get("--seeds", 1.0)
    work += 10 * sizes.get("--concurrency", 0.0)
    work *= max(sizes.get("--osl", 20.0), 20.0) / 20.0
    return words[0] in {"simulate", "search"} and not work <= 50_000


def _run(words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `shardwise WORDS`, in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    argv, sys.argv = sys.argv, ["shardwise", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = 0 if ended.code is None else int(ended.code)
    else:
        code = 0
    finally:
        sys.argv = argv
    return code, _text(out), _text(err)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def _late(_number: int, _frame: FrameType | None) -> None:
    raise AssertionError(f"no answer within {ANSWERS_WITHIN_S} s")


def _check(words: list[str]) -> None:
    note(" ".join(map(repr, words)))
    former = signal.signal(signal.SIGALRM, _late)
    signal.alarm(ANSWERS_WITHIN_S)
    try:
        code, out, err = _run(words)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
    assert code in ALLOWED, (words, code, err)
    assert "Traceback" not in out + err
    if code:
        assert err.strip(), (words, "says nothing")


@given(lines())
def _any_line(words: list[str]) -> None:
    if not _is_large(words):
        _check(words)


def test_no_command_line_ends_in_a_traceback() -> None:
    checks = list(HealthCheck)
    if not SECONDS:
        phases = (Phase.explicit, Phase.generate)
        settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=phases,
            suppress_health_check=checks,
        )(_any_line)()
        return
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        settings(max_examples=500, database=None, deadline=None, suppress_health_check=checks)(
            _any_line
        )()
