"""A deployment on a Ray cluster of several nodes, one of which is killed under load."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.hosting.conftest import free_port, require_balancer, stand_in
from tests.hosting.load import Ended, closed_loop, stream

from shardwise.errors import InputError
from shardwise.hosting import operating
from shardwise.hosting.deployment_file import DeploymentFile, save

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: shardwise[ray]"
)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without CPUs and three nodes of one CPU."""
    from ray.cluster_utils import Cluster  # type: ignore[import-not-found,unused-ignore]

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(3):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


def on_two_replicas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, int]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    first, path = free_port(3), tmp_path / "deployment.toml"
    save(DeploymentFile(port=first, models=[stand_in(2, first + 1, tpot_s=0.05)]), path)
    return path, first


def busy_node(cluster: Any) -> Any:
    """A node whose CPU a replica holds."""
    import ray  # type: ignore[import-not-found,unused-ignore]
    from ray._private.state import (  # type: ignore[import-not-found,unused-ignore]
        available_resources_per_node,
    )

    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    try:
        free = available_resources_per_node()
    finally:
        ray.shutdown()
    workers = [node for node in cluster.list_all_nodes() if node is not cluster.head_node]
    taken = [node for node in workers if not free.get(node.node_id, {}).get("CPU")]
    assert len(taken) == 2, "replicas are spread"
    return taken[0]


@pytest.mark.live
@needs_ray
def test_a_node_killed_under_load_costs_only_its_own_streams(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_balancer("haproxy")
    path, port = on_two_replicas(tmp_path, monkeypatch)
    operating.up(path, lambda _: None, on=cluster.address)
    try:
        victim = busy_node(cluster)
        ended: list[Ended] = []
        load = threading.Thread(
            target=lambda: ended.extend(asyncio.run(closed_loop(port, 16, 160, 20)))
        )
        load.start()
        time.sleep(2.0)
        cluster.remove_node(victim, allow_graceful=False)
        load.join()
        outcomes = Counter(one.outcome for one in ended)
        print(f"two replicas on Ray, a node killed: {dict(outcomes)}")
        assert outcomes["refused"] == outcomes["failed"] == 0, ended
        assert outcomes["cut"] <= 16
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            _, seen = operating.look(path)
            if [one.status for one in seen] == ["ready", "ready"]:
                break
            time.sleep(0.5)
        assert [one.status for one in seen] == ["ready", "ready"]
        assert sum(one.state.restarts for one in seen) >= 1
        assert asyncio.run(stream(port, 3)).outcome == "whole"
    finally:
        operating.down(path)
    assert asyncio.run(stream(port, 3)).outcome == "failed"


@needs_ray
@pytest.mark.live
def test_a_cluster_too_small_is_refused_before_anything_starts(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    first, path = free_port(6), tmp_path / "deployment.toml"
    save(DeploymentFile(port=first, models=[stand_in(4, first + 1)]), path)
    with pytest.raises(InputError, match="needs 1 CPUs of one node"):
        operating.up(path, lambda _: None, on=cluster.address)
    with pytest.raises(InputError, match="nothing was started"):
        operating.look(path)


@needs_ray
@pytest.mark.live
def test_no_cluster_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = on_two_replicas(tmp_path, monkeypatch)
    with pytest.raises(InputError, match=r"no Ray cluster at 'ray://127\.0\.0\.1:1'"):
        operating.up(path, lambda _: None, on="ray://127.0.0.1:1")


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = on_two_replicas(tmp_path, monkeypatch)
    with pytest.raises(InputError, match=r"shardwise\[ray\]"):
        operating.up(path, lambda _: None, on="ray://127.0.0.1:10001")
