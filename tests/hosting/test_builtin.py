"""The built-in engine itself behind a balancer, one replica killed under load."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.hosting.conftest import free_port, require_balancer, toy
from tests.hosting.load import closed_loop

from shardwise.hosting import operating
from shardwise.hosting.deployment_file import DeploymentFile
from shardwise.replica import processes

if not (importlib.util.find_spec("torch") and importlib.util.find_spec("shardwise.engine")):
    pytest.skip("the engine extra is not installed", allow_module_level=True)

pytestmark = pytest.mark.live


def wait_until_back(path: Path) -> operating.Seen:
    """The first replica, once it has been restarted."""
    deadline = time.monotonic() + 40
    now = operating.look(path)[1][0]
    while (now.status, now.state.restarts) != ("ready", 1) and time.monotonic() < deadline:
        time.sleep(0.3)
        now = operating.look(path)[1][0]
    return now


def test_four_replicas_lose_only_the_streams_of_the_killed_one(
    deploy: Callable[[DeploymentFile], Path], tmp_path: Path
) -> None:
    require_balancer("haproxy")
    first = free_port(5)
    model = toy(tmp_path, 4, first + 1)
    path = deploy(DeploymentFile(port=first, models=[model]))
    victim = operating.look(path)[1][0].state.process
    assert victim

    kill = partial(os.kill, victim.pid, signal.SIGKILL)
    ended = asyncio.run(closed_loop(first, 64, 640, 40, underway=kill))
    outcomes = Counter(e.outcome for e in ended)
    now = wait_until_back(path)
    again = asyncio.run(closed_loop(first, 16, 32, 4))
    print(f"built-in: {dict(outcomes)}; after its return {Counter(e.outcome for e in again)}")
    assert outcomes["refused"] == outcomes["failed"] == 0
    assert 0 < outcomes["cut"] <= 40  # about 64/4 were on it
    assert (now.status, now.state.restarts) == ("ready", 1)
    assert {e.outcome for e in again} == {"whole"}
    assert operating.down(path) >= 9  # four servers with a rank each, the balancer


def test_a_rank_that_is_stopped_is_seen_and_its_replica_restarted(
    deploy: Callable[[DeploymentFile], Path],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Its server still answers HTTP: the engine's own watch has to see it."""
    require_balancer("caddy")
    first = free_port(4)
    model = toy(tmp_path, 2, first + 1, "--step-timeout", "2")
    path = deploy(DeploymentFile(port=first, balancer="caddy", models=[model]))
    victim = operating.look(path)[1][0].state.process
    assert victim
    (rank,) = [p for p in processes.session(victim) if is_engine(p)]
    stopped_s = time.monotonic()
    os.kill(rank.pid, signal.SIGSTOP)
    ended = asyncio.run(closed_loop(first, 16, 128, 20, limit_s=40.0))  # one that hangs raises
    now = wait_until_back(path)
    outcomes = Counter(e.outcome for e in ended)
    back_s = time.monotonic() - stopped_s
    record_property("seen", f"{outcomes['whole']} of 128 whole, back after {back_s:.0f} s")
    assert (now.status, now.state.restarts) == ("ready", 1)
    assert outcomes["whole"] >= 128 - 16
    assert not rank.alive


def is_engine(process: processes.Process) -> bool:
    """Whether it is an engine process, which is spawned by a server."""
    line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    return b"spawn_main" in line
