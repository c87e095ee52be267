"""Servers cache the prefixes of prompts, so no prompt is sent twice: not in another cell or repeat,
not in the warm-up, and not by the same command again."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvloop", reason="needs: pip install 'shardwise[bench]'")

from shardwise import bench_run
from shardwise.bench.cell import Effort, arrange
from shardwise.bench.prompts import PromptSource, make_prompts
from shardwise.bench.sweep import Engine, Sweep, key_of, run_sweep
from shardwise.evidence.store import open_store
from shardwise.layout.deployment import Deployment
from shardwise.replica.command import Instance
from shardwise.workload.workload import Workload

SCRIPT = Path(__file__).with_name("recording_server.py")
ISL, OSL = 48, 3
BLOCK = 16  #: tokens that servers cache together
IDS = PromptSource("token ids", ids=(100, 1000))  #: what `bench` chooses for the known server

Prompts = Callable[[], list[list[int]]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Prompts]]:
    """A server process; its URL, and the prompts that it was sent since the last call."""
    file = tmp_path / "prompts.jsonl"
    command = [sys.executable, str(SCRIPT), "0", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        try:
            yield url, lambda: _take(file)
        finally:
            process.terminate()


def _take(file: Path) -> list[list[int]]:
    found = [json.loads(line) for line in file.read_text().splitlines()]
    file.unlink()
    return found


def _run(url: str, **given: Any) -> list[dict[str, Any]]:
    """Measure two cells twice each; return their conditions."""
    usual: dict[str, Any] = {"concurrencies": (1, 2), "isl": ISL, "osl": OSL, "requests": 6}
    found = bench_run(url, **{**usual, "min_repeats": 2, "max_repeats": 2, **given})
    assert all(not cell.conditions["failures"] for cell in found.cells)
    return [dict(cell.conditions) for cell in found.cells]


def _distinct(prompts: list[list[int]], after: int = 0) -> int:
    """Number of different blocks that follow the first `after` tokens."""
    return len({tuple(prompt[after : after + BLOCK]) for prompt in prompts})


def _shared(prompts: list[list[int]]) -> int:
    """Number of tokens that all prompts begin with."""
    alike = (len(set(tokens)) == 1 for tokens in zip(*prompts, strict=False))
    return sum(1 for _ in takewhile(bool, alike))


def test_no_prompt_begins_like_another_of_the_run_or_of_an_earlier_one(
    server: tuple[str, Prompts],
) -> None:
    url, sent = server
    for _ in range(2):
        _run(url)
    # warm-ups of 1 and 2, and two runs of 6 at each concurrency, by each command
    prompts = sent()
    assert len(prompts) == 2 * (1 + 2 + 2 * 2 * 6)
    assert _distinct(prompts) == len(prompts)


def test_a_rate_and_a_trace_send_new_prompts_too(
    server: tuple[str, Prompts], tmp_path: Path
) -> None:
    url, sent = server
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,isl,osl\n0,40,3\n0.01,48,3\n0.02,40,3\n")
    for _ in range(2):
        _run(url, request_rates=(200.0, 400.0))
        _run(url, trace=trace)
    prompts = sent()
    assert _distinct(prompts) == len(prompts)
    assert {len(prompt) for prompt in prompts} == {40, 48}


def test_the_shared_prefix_is_the_same_everywhere_and_nothing_else_is(
    server: tuple[str, Prompts],
) -> None:
    url, sent = server
    for _ in range(2):
        _run(url, shared_prefix=20)
    prompts = sent()
    assert _shared(prompts) == 20
    assert _distinct(prompts, after=20) == len(prompts)
    _run(url, shared_prefix=20, seed=1)
    assert _shared([prompts[0], *sent()]) == 0


def test_prompts_can_be_made_again_from_what_a_cell_records(
    server: tuple[str, Prompts],
) -> None:
    url, sent = server
    cells = _run(url, shared_prefix=20, seed=3)
    seeds = [seed for cell in cells for seed in cell["prompt_seeds"]]
    assert len(set(seeds)) == 4
    again = [p for seed in seeds for p in make_prompts(IDS, [ISL] * 6, seed, 20, prefix_seed=3)]
    prompts = sent()
    assert all(prompt in prompts for prompt in again)


def test_arrivals_and_lengths_depend_on_the_seed_alone() -> None:
    load = Workload(ISL, 32, 4, length_spread=0.5, request_rate=3.0)
    one, two = arrange(IDS, load, 20, 7, 0), arrange(IDS, load, 20, 7, 0)
    assert (one.due_s, one.osl) == (two.due_s, two.osl)
    assert list(map(len, one.prompts)) == list(map(len, two.prompts))
    assert not {tuple(p) for p in one.prompts} & {tuple(p) for p in two.prompts}
    assert arrange(IDS, load, 20, 7, 0, prompt_seed=one.prompt_seed) == one
    other_seed, other_repeat = arrange(IDS, load, 20, 8, 0), arrange(IDS, load, 20, 7, 1)
    assert one.due_s != other_seed.due_s != other_repeat.due_s != one.due_s


def test_global_random_state_has_no_part_in_prompts() -> None:
    load, drawn = Workload(ISL, OSL, 1), []
    for _ in range(2):
        random.seed(0)
        drawn.append(arrange(IDS, load, 1, 0, 0).prompts)
    assert drawn[0] != drawn[1]


def test_a_sweep_sends_new_prompts_and_names_its_cells_as_before(tmp_path: Path) -> None:
    file, port = tmp_path / "prompts.jsonl", _free_port()
    command = (sys.executable, str(SCRIPT), "{port}", str(file))
    instance = Instance(Deployment("known", "", engine="command"), command=command)
    engine = Engine(instance, "auto", "cpu", "cpu", (), port, 30.0)
    loads = tuple(Workload(ISL, OSL, c, length_spread=0.0) for c in (1, 2))
    sweep = Sweep("test", "known", (1, 2), loads, lambda _: Effort(4, 2, 2))
    keys = []
    for name in ("a.db", "b.db"):
        with open_store(tmp_path / name) as store:
            cells = run_sweep(sweep, engine, store, lambda _: None)
        keys.append([cell.key for cell in cells])
        assert all(len(cell.conditions["prompt_seeds"]) == 2 for cell in cells)
    assert keys[0] == keys[1]
    prompts = _take(file)
    # at both TP sizes of both sweeps: warm-ups of 1 and 2, two runs of 4 for both loads
    measured = [prompt for prompt in prompts if len(prompt) == ISL]
    assert len(measured) == 2 * 2 * (1 + 2 + 2 * 2 * 4)
    assert _distinct(measured) == len(measured)


def test_a_store_from_before_lengths_were_stated_is_resumed() -> None:
    sweep = Sweep("test", "known", (1,), (), lambda _: Effort(4))
    engine = Engine(Instance(Deployment("known", "")), "auto", "cpu", "cpu", ())
    stated = Workload(ISL, OSL, 1, length_spread=0.0)
    assert key_of(sweep, engine, 1, stated) == key_of(sweep, engine, 1, Workload(ISL, OSL, 1))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
