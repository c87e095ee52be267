"""Many simulations: resumed, spread over processes, and over Ray nodes of which one is killed."""

from __future__ import annotations

import importlib.util
import threading
import time
from pathlib import Path

import pytest

from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment, Layout
from shardwise.simulator.compiling import HAS_NUMBA
from shardwise.simulator.search import Job, Store, run_job, search
from shardwise.simulator.traffic import Lengths, Traffic

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not (HAS_RAY and HAS_NUMBA), reason="ray or numba is not installed")


def jobs(count: int, duration_s: float = 4.0) -> list[Job]:
    deployment = Deployment(
        model="llama-3.1-8b",
        gpu="h200",
        layout=Layout(tp_size=1),
    )
    traffic = Traffic(4.0, Lengths(200), Lengths(20), duration_s)
    return [Job(deployment, traffic, seed=seed) for seed in range(count)]


def test_a_search_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.sqlite")
    asked = jobs(4)
    first = run_job(asked[0])
    marked = type(first)(first.key, goodput=-1.0)  # recognisable: it must not be run again
    store.add(asked[:1], [marked])
    outcomes = search(asked, store, workers=1)
    assert outcomes[0].goodput == -1.0
    assert [o.done for o in outcomes[1:]] == [16, 16, 16]
    assert Store(store.path).outcomes().keys() == {job.key for job in asked}


def test_a_job_that_cannot_run_is_an_outcome_with_its_reason() -> None:
    job = Job(
        Deployment(
            model="llama-3.1-405b",
            gpu="h200",
            layout=Layout(tp_size=1),
        ),
        jobs(1)[0].traffic,
    )
    assert "does not fit" in run_job(job).error


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    path.write_text("no database, " * 100)
    with pytest.raises(InputError, match="cannot hold simulations"):
        Store(path)


@needs_ray
def test_a_node_killed_midway_loses_no_finished_simulation(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster  # type: ignore[import-not-found,unused-ignore]

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    store = Store(tmp_path / "runs.sqlite")
    asked, kept = jobs(1000), {}

    def kill_midway() -> None:
        while len(store.outcomes()) < 200:
            time.sleep(0.1)
        kept.update(store.outcomes())
        cluster.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill_midway, daemon=True)
    killer.start()
    import ray  # type: ignore[import-not-found,unused-ignore]

    try:
        outcomes = search(asked, store, on=cluster.address)
        killer.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert 200 <= len(kept) < 1000  # it was midway
    assert len(outcomes) == 1000
    assert all(o.done == 16 and not o.error for o in outcomes)
    assert all(store.outcomes()[key] == outcome for key, outcome in kept.items())
