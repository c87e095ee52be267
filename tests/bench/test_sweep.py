"""A sweep keeps each cell when it is done, goes on where it was killed, and leaves nothing behind.

The engine is the server of known delays, a real process; tests/engine sweeps the built-in engine.
"""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from shardwise.bench.cell import Effort
from shardwise.bench.sweep import Engine, Sweep, key_of, run_sweep
from shardwise.errors import InputError
from shardwise.evidence.store import open_store
from shardwise.layout.deployment import Deployment
from shardwise.replica import processes, running
from shardwise.replica.command import Instance
from shardwise.workload.workload import Workload

SCRIPT = Path(__file__).with_name("sweep_process.py")


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sweep_process", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _cells(path: Path) -> dict[str, int]:
    """Cell -> requests completed."""
    with open_store(path) as store:
        return {cell.key: cell.conditions["completed"] for cell in store.cells("test")}


def test_a_sweep_killed_twice_gives_the_same_cells_and_leaves_no_engine(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed.db", tmp_path / "whole.db"
    port = _free_port()
    for cells_before in (1, 3):
        with subprocess.Popen(
            [sys.executable, str(SCRIPT), str(killed), str(port)],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("TP=") and len(_cells(killed)) >= cells_before:
                    process.send_signal(signal.SIGKILL)
                    break
    left = processes.marked(f"sweep {killed.resolve()}")
    assert left, "the killed sweep's engine runs on, so there is something to find"
    done_before = _cells(killed)
    assert 0 < len(done_before) < 6
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(killed), str(port)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{len(done_before)} of 6 cells are in" in done.stdout
    assert "of an earlier run" in done.stdout
    assert not processes.marked(f"sweep {killed.resolve()}")
    subprocess.run([sys.executable, str(SCRIPT), str(whole), str(_free_port())], check=True)
    assert _cells(killed) == _cells(whole)
    # 8 requests a slot, three runs: 24, 48 and 96 at concurrency 1, 2 and 4
    assert sorted(_cells(whole).values()) == [24, 24, 48, 48, 96, 96]


def test_a_rerun_with_nothing_missing_starts_no_engine(tmp_path: Path) -> None:
    script = _script()
    said: list[str] = []
    one = Sweep("test", "known", (1,), (Workload(8, 8, 1),), lambda _: Effort(4, 1, 1, warm_up=0))
    with open_store(tmp_path / "s.db") as store:
        first = run_sweep(one, script.engine(_free_port()), store, said.append)
        said.clear()
        again = run_sweep(one, script.engine(_free_port()), store, said.append)
    assert len(first) == 1
    assert (again, said) == ([], [])
    conditions = first[0].conditions
    assert conditions["versions"]["shardwise"]
    assert conditions["hardware"]["cores"]
    assert conditions["argv"][2] == "shardwise.bench.known_server"
    assert first[0].evidence.deployment.tp_size == 1


def test_what_changes_a_figure_changes_the_cells_name() -> None:
    script = _script()
    sweep, engine, load = script.sweep(), script.engine(8390), Workload(8, 8, 1)
    other = Engine(
        Instance(Deployment("known", "", engine="command"), flags=("--x",)),
        "auto",
        "cpu",
        "cpu",
        (),
    )
    assert key_of(sweep, engine, 1, load) == key_of(sweep, script.engine(9000), 1, load)
    assert key_of(sweep, engine, 1, load) != key_of(sweep, other, 1, load)
    assert key_of(sweep, engine, 1, load) != key_of(sweep, engine, 2, load)
    assert key_of(sweep, engine, 1, load) != key_of(sweep, engine, 1, Workload(9, 8, 1))


def test_an_engine_that_does_not_start_shows_its_own_last_lines(tmp_path: Path) -> None:
    # flushed: what goes to a log by two streams lies there in the order in which it was written
    code = "print('loading', flush=True); raise SystemExit('no such model: known')"
    command = (sys.executable, "-c", code)
    broken = Engine(
        Instance(Deployment("known", "", engine="command"), command=command),
        "auto",
        "cpu",
        "cpu",
        (),
        _free_port(),
        20.0,
    )
    with (
        open_store(tmp_path / "s.db") as store,
        pytest.raises(running.EngineError, match="exit code 1") as raised,
    ):
        run_sweep(_script().sweep(), broken, store, lambda _: None)
    assert raised.value.last_lines == ("loading", "no such model: known")
    assert raised.value.exit_code == 4


def test_cores_are_shared_evenly_and_gpus_one_a_rank() -> None:
    instance = Instance(Deployment("m", "", engine="builtin"))
    cpu = Engine(instance, "fp32", "cpu", "cpu", (0, 1, 2, 3, 4))
    assert cpu.devices_of(1) == (0, 1, 2, 3, 4)
    assert cpu.devices_of(2) == (0, 1, 2, 3)  # two cores a rank
    assert cpu.devices_of(8) == (0, 1, 2, 3, 4)  # more ranks than cores: all share
    gpus = Engine(instance, "bf16", "h200", "cuda", (0, 1))
    assert gpus.devices_of(1) == (0,)
    with pytest.raises(InputError, match="TP=4 on 2 GPUs"):
        gpus.devices_of(4)
    assert cpu.instance_of(2, 8).flags == ("--dtype", "fp32")
    vllm = Engine(Instance(Deployment("m", "", engine="vllm")), "fp32", "cpu", "cpu", (0, 1))
    assert vllm.instance_of(2, 8).flags == ("--dtype", "float32")
