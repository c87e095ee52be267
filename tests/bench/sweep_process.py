"""A sweep in a process of its own, that tests kill: `python sweep_process.py STORE PORT`."""

from __future__ import annotations

import sys
from pathlib import Path

from shardwise.bench.cell import Effort
from shardwise.bench.sweep import Engine, Sweep, missing, run_sweep
from shardwise.evidence.store import open_store
from shardwise.layout.deployment import Deployment
from shardwise.replica.command import Instance
from shardwise.workload.workload import Workload

TTFT_S, ITL_S = "0.01", "0.004"


def engine(port: int) -> Engine:
    """The server of known delays, started as an engine would be."""
    command = (sys.executable, "-m", "shardwise.bench.known_server", "{port}", TTFT_S, ITL_S)
    instance = Instance(Deployment("known", "", engine="command"), command=command)
    return Engine(instance, "auto", "cpu", "cpu", (), port, 30.0)


def sweep() -> Sweep:
    loads = tuple(Workload(8, 8, c) for c in (1, 2, 4))
    return Sweep(
        "test", "known", (1, 2), loads, lambda w: Effort(8 * w.concurrency, 3, 3, warm_up=0)
    )


def main() -> None:
    path, port = Path(sys.argv[1]), int(sys.argv[2])
    with open_store(path) as store:
        run_sweep(sweep(), engine(port), store, lambda line: print(line, flush=True))
        assert not missing(sweep(), engine(port), store)


if __name__ == "__main__":
    main()
