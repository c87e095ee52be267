"""Whatever is typed: no traceback, no exit code but 0, 2, 3 and 4, no answer later than 30 s.

The 30 s are of this process's CPU, which a busy machine does not make more; a command that waits
for something is given ten times as long, of the clock. The examples are the same each time:
`make fuzz` draws others for as long as SHARDWISE_FUZZ_SECONDS says. Simulations of more than 50,000
requests are not drawn: they say how much there is to do.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from tests.cli.fuzzing import SUBJECTS, lines, write_files

from shardwise.cli.bench import COMMANDS as BENCH_COMMANDS
from shardwise.cli.main import COMMANDS, main

SECONDS = float(os.environ.get("SHARDWISE_FUZZ_SECONDS", "0"))
EXAMPLES = 140  # about 45 s of a core
ROUND = 500  # examples that `make fuzz` draws at a time
ANSWERS_WITHIN_S = 30
MOST_MEMORY = 12 << 30  # bytes; /dev/full, read to its end, filled a machine
ALLOWED = {0, 2, 3, 4}
#: that hold what a person typed, where a simulation of a million requests is no mistake
_SIZES = (
    *("--rate", "--concurrency", "--duration", "--seeds", "--osl", "--isl", "--replicas"),
    *("--turns", "--day"),
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of files to work in, a home that is empty, and stdin at its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHARDWISE_HOME", str(tmp_path / "home"))
    write_files(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, hard))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _is_large(words: list[str]) -> bool:
    """Whether a simulation is asked for that takes long because it is large."""
    sizes = {}
    for name, value in pairwise(words):
        if name in _SIZES:
            with contextlib.suppress(ValueError):
                sizes[name] = sum(map(float, value.split(",")))
    work = sizes.get("--rate", 0.0) * sizes.get("--duration", 3.0) * sizes.get("--seeds", 1.0)
    work *= max(sizes.get("--turns", 1.0), 1.0)
    work += 10 * sizes.get("--concurrency", 0.0) + 3600 * sizes.get("--day", 0.0)
    work *= max(sizes.get("--osl", 20.0), 20.0) / 20.0
    return words[0] in {"simulate", "search"} and not work <= 50_000


def _run(words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `shardwise WORDS`, in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    argv, stdin = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["shardwise", *words], io.TextIOWrapper(io.BytesIO(), "utf-8")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = 0 if ended.code is None else int(ended.code)
    else:
        code = 0
    finally:
        sys.argv, sys.stdin = argv, stdin
    return code, _text(out), _text(err)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def _late(number: int, _frame: FrameType | None) -> None:
    waited = "of waiting" if number == signal.SIGALRM else "of CPU"
    raise AssertionError(f"no answer within the time {waited}")


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """AssertionError where what is within takes longer than ANSWERS_WITHIN_S of CPU."""
    timers = ((signal.SIGPROF, signal.ITIMER_PROF, 1), (signal.SIGALRM, signal.ITIMER_REAL, 10))
    former = [signal.signal(number, _late) for number, _, _ in timers]
    for _, timer, times in timers:
        signal.setitimer(timer, times * ANSWERS_WITHIN_S)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, former, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def _check(words: list[str]) -> None:
    note(" ".join(map(repr, words)))
    with _limited():
        code, out, err = _run(words)
    assert code in ALLOWED, (words, code, err)
    assert "Traceback" not in out + err
    if code:
        assert err.strip(), (words, "says nothing")


def _try(**chosen: Any) -> None:
    """Draw lines and check each; `chosen` are settings of hypothesis."""

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck), **chosen)
    @given(lines())
    def any_line(words: list[str]) -> None:
        if not _is_large(words):
            _check(words)

    any_line()


def test_every_command_is_tried() -> None:
    assert {subject.words[0] for subject in SUBJECTS} == set(COMMANDS)
    assert {s.words[1] for s in SUBJECTS if s.words[0] == "bench"} == set(BENCH_COMMANDS)


def test_no_command_line_ends_in_a_traceback() -> None:
    # compiled once for a machine, which is not what is timed here
    _run(["simulate", "llama-3.1-8b", "--rate", "2", "--duration", "3s", "--osl", "20"])
    if not SECONDS:
        phases = (Phase.explicit, Phase.generate)
        _try(max_examples=EXAMPLES, derandomize=True, phases=phases)
        return
    ends, rounds = time.monotonic() + SECONDS, 0
    while time.monotonic() < ends:
        _try(max_examples=ROUND)
        rounds += 1
        print(f"{rounds * ROUND} command lines", flush=True)


def test_a_round_of_fuzzing_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "_check", lambda _words: None)
    for _ in range(2):
        _try(max_examples=3)
