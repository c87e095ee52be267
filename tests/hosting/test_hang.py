"""Replicas that hang, a full disk, a taken port, a killed balancer: all of it passes, and what
cannot be kept is seen to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from tests.hosting.conftest import free_port, require_balancer, stand_in
from tests.hosting.load import closed_loop, stream

from shardwise.hosting import operating, state
from shardwise.hosting.deployment_file import BalancerName, DeploymentFile, ModelTable
from shardwise.replica import processes
from shardwise.replica.processes import Process

Deploy = Callable[[DeploymentFile], Path]
Record = Callable[[str, object], None]

pytestmark = pytest.mark.live

HANG_S = 2.0


def impatient(replicas: int, first_port: int, tpot_s: float = 0.02) -> ModelTable:
    model = stand_in(replicas, first_port, ttft_s=0.05, tpot_s=tpot_s)
    return msgspec.structs.replace(model, probe_interval_s=0.5, hang_timeout_s=HANG_S)


def first_replica(path: Path) -> operating.Seen:
    return operating.look(path)[1][0]


def process_of(path: Path) -> Process:
    found = first_replica(path).state.process
    assert found
    return found


def wait_for(path: Path, good: Callable[[operating.Seen], bool], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not good(now := first_replica(path)):
        assert time.monotonic() < deadline, now
        time.sleep(0.1)


def is_back(seen: operating.Seen) -> bool:
    return (seen.status, seen.state.restarts) == ("ready", 1)


@pytest.mark.parametrize("balancer", ["haproxy", "caddy", "vllm-router"])
def test_a_stopped_replica_is_restarted_and_its_streams_end(
    deploy: Deploy, balancer: BalancerName, record_property: Record
) -> None:
    require_balancer(balancer)
    first = free_port(6)
    path = deploy(DeploymentFile(port=first, balancer=balancer, models=[impatient(3, first + 2)]))
    victim = process_of(path)
    stop = partial(os.kill, victim.pid, signal.SIGSTOP)
    ended = asyncio.run(
        closed_loop(first, 24, 480, 20, limit_s=30.0, underway=stop)  # one that hangs raises
    )
    wait_for(path, is_back)
    outcomes = Counter(e.outcome for e in ended)
    longest_s = max(e.ended_s - e.started_s for e in ended)
    record_property(
        "seen",
        f"{balancer}: {outcomes['whole']} of 480 whole, {outcomes['cut']} cut, "
        f"{outcomes['refused'] + outcomes['failed']} refused; the longest took {longest_s:.0f} s",
    )
    assert not victim.alive
    assert outcomes["whole"] >= 480 - 24
    assert all(e.server in ("", str(victim.pid)) for e in ended if e.outcome != "whole")
    if balancer == "haproxy":  # what it had not begun to answer went to another
        assert outcomes["refused"] == outcomes["failed"] == 0, ended
    assert {e.outcome for e in asyncio.run(closed_loop(first, 8, 16, 3))} == {"whole"}


def test_a_replica_that_answers_health_and_nothing_else_is_restarted(deploy: Deploy) -> None:
    require_balancer("caddy")
    first = free_port(4)
    path = deploy(DeploymentFile(port=first, balancer="caddy", models=[impatient(1, first + 2)]))
    victim = process_of(path)
    os.kill(victim.pid, signal.SIGUSR1)
    open_stream = asyncio.run(asyncio.wait_for(stream(first, 3), 30))
    assert open_stream.outcome != "whole"  # it ended, and visibly
    wait_for(path, is_back)
    assert "no completion for" in path_of_log(path).read_text()
    assert asyncio.run(stream(first, 3)).outcome == "whole"


def path_of_log(path: Path) -> Path:
    return state.folder(path) / "logs" / "controller.log"


def test_a_busy_replica_is_not_restarted(deploy: Deploy) -> None:
    require_balancer("caddy")
    first = free_port(4)
    path = deploy(DeploymentFile(port=first, balancer="caddy", models=[impatient(1, first + 2)]))
    os.kill(process_of(path).pid, signal.SIGUSR2)
    time.sleep(3 * HANG_S)
    assert (first_replica(path).status, first_replica(path).state.restarts) == ("ready", 0)


def test_a_full_disk_ends_no_supervision(deploy: Deploy) -> None:
    require_balancer("caddy")
    first = free_port(4)
    path = deploy(DeploymentFile(port=first, balancer="caddy", models=[impatient(1, first + 2)]))
    partial = state.folder(path) / "state.json.partial"
    partial.symlink_to("/dev/full")  # what is written there fails with "No space left on device"
    killed = []
    for _ in range(2):
        before = processes.recorded([state.folder(path) / "logs" / "toy-0.log"])
        killed += before
        processes.kill_all(before)
        deadline = time.monotonic() + 20
        while asyncio.run(stream(first, 3)).outcome != "whole":
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert len(killed) == 2
    assert "No space left on device" in path_of_log(path).read_text()
    assert first_replica(path).state.restarts == 0  # as far as could be written
    partial.unlink()
    wait_for(path, lambda seen: (seen.status, seen.state.restarts) == ("ready", 2))
    now, _ = operating.look(path)
    assert now.controller
    assert now.controller.alive


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "state"
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if (
        not shutil.which("mount")
        or subprocess.run(line, capture_output=True, check=False).returncode
    ):
        pytest.skip("a small disk cannot be mounted: run it as root on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_replicas_and_balancer_come_back_while_the_whole_state_disk_is_full(
    small_disk: Path, deploy: Deploy
) -> None:
    require_balancer("haproxy")
    first = free_port(4)
    path = deploy(DeploymentFile(port=first, balancer="haproxy", models=[impatient(1, first + 2)]))
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
        while True:
            out.write(b"0" * 4096)
    assert shutil.disk_usage(small_disk).free == 0
    now, _ = operating.look(path)
    assert now.balancer_process
    processes.kill_all([process_of(path), now.balancer_process])
    deadline = time.monotonic() + 30
    while asyncio.run(stream(first, 3)).outcome != "whole":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    filler.unlink()
    wait_for(path, is_back)
    assert operating.look(path)[0].balancer_restarts >= 1


def test_a_port_taken_meanwhile_is_waited_for(deploy: Deploy) -> None:
    require_balancer("caddy")
    first = free_port(4)
    path = deploy(DeploymentFile(port=first, balancer="caddy", models=[impatient(1, first + 2)]))
    processes.kill_all([process_of(path)])
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                taken.bind(("127.0.0.1", first + 2))
                break
        taken.listen()
        wait_for(path, lambda seen: f"port {first + 2} is in use" in seen.state.note)
    wait_for(path, lambda seen: seen.status == "ready")
    assert asyncio.run(stream(first, 3)).outcome == "whole"


@pytest.mark.parametrize("balancer", ["haproxy", "caddy", "vllm-router"])
def test_a_killed_balancer_is_back_and_leaves_nothing(
    deploy: Deploy, balancer: BalancerName
) -> None:
    require_balancer(balancer)
    first = free_port(5)
    path = deploy(DeploymentFile(port=first, balancer=balancer, models=[impatient(2, first + 2)]))
    old = operating.look(path)[0].balancer_process
    assert old
    processes.kill_all([old])
    deadline = time.monotonic() + 20
    while asyncio.run(stream(first, 3)).outcome != "whole":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    now, seen = operating.look(path)
    assert now.balancer_restarts == 1
    assert [one.state.restarts for one in seen] == [0, 0]
    operating.down(path, grace_s=2.0)
    assert processes.marked(state.deployment_id(path)) == []
    assert not [left for left in processes.session(old) if left.alive]
