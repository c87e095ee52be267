"""How fast planning is. Prints one JSON line: whole-process seconds of `shardwise plan` on 8 GPUs
(median of 5) for a dense model and for a mixture of experts with draft heads, and configurations a
second of an array sweep (fit check and all metrics)."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import Final

import numpy as np

from shardwise import __version__
from shardwise.architecture.model import in_dtype
from shardwise.architecture.models import load
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.perfmodel.estimate import Subject, sweep
from shardwise.perfmodel.loads import Offered
from shardwise.perfmodel.memory import kv_budget_bytes, sequence_bytes, shortfall_bytes
from shardwise.perfmodel.profiles import bundled_profile, calibrated

DENSE: Final = (
    "plan llama-3.1-70b --gpu mi300x --gpus 8 --isl 1024 --osl 256 --concurrency 64 --json"
)
EXPERTS: Final = (
    "plan deepseek-r1 --gpu h200 --gpus 8 --isl 4000 --osl 1000 --concurrency 64 --json"
)
CONFIGURATIONS: Final = 200_000
CHUNK: Final = 4_096  #: arrays that stay in the processor's cache


def plan_seconds(command: str, repeats: int = 5) -> list[float]:
    """Wall time of the whole command, the first (cold) run left out."""
    argv = [sys.executable, "-m", "shardwise.cli.main", *command.split()]
    # an installed package has its bytecode; without it, compiling takes 0.2 s of each run
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env=env)
        times.append(time.perf_counter() - start)
    return times[1:]


def sweep_rate() -> float:
    """Configurations a second: TP, concurrency and lengths drawn, fit checked, all predicted."""
    catalogue = default_catalogue()
    arch, gpu = in_dtype(load("llama-3.1-70b"), "fp8"), catalogue.gpu("mi300x")
    known = calibrated(bundled_profile(), gpu, "vllm", dict(catalogue.by_id))
    subject = Subject(arch, gpu, "vllm", "bf16", known)
    rng = np.random.default_rng(0)
    tp = rng.choice(np.array([1.0, 2.0, 4.0, 8.0]), CONFIGURATIONS)
    concurrency = rng.integers(1, 513, CONFIGURATIONS).astype(np.float64)
    isl = rng.integers(16, 8192, CONFIGURATIONS).astype(np.float64)
    osl = rng.integers(2, 2048, CONFIGURATIONS).astype(np.float64)
    start = time.perf_counter()
    for i in range(0, CONFIGURATIONS, CHUNK):
        part = slice(i, i + CHUNK)
        one = np.ones_like(tp[part])
        layouts = Layouts(tp[part], one, one, one, one)
        deployments = Deployments(layouts, concurrency[part], 8192.0 * one, 0.9 * one)
        budget = kv_budget_bytes(arch, subject.platform, deployments)
        sequence = sequence_bytes(arch, isl[part] + osl[part], layouts, "bf16")
        fits = shortfall_bytes(budget, sequence) <= 0
        offered = Offered(concurrency[part], isl[part], osl[part], 10.0 * concurrency[part])
        served = sweep(subject, "closed_loop", deployments, offered)
        assert fits.shape == served.e2e_latency_s.shape
    return CONFIGURATIONS / (time.perf_counter() - start)


def main() -> None:
    times, experts = plan_seconds(DENSE), plan_seconds(EXPERTS)
    peer = "aiconfigurator"
    state = "installed, not compared" if find_spec(peer) else "not installed"
    print(
        json.dumps(
            {
                "benchmark": "planning",
                "plan_s_median": round(statistics.median(times), 4),
                "plan_s": [round(t, 4) for t in times],
                "plan_experts_s_median": round(statistics.median(experts), 4),
                "plan_experts_s": [round(t, 4) for t in experts],
                "sweep_configurations_per_s": round(sweep_rate()),
                "sweep_configurations": CONFIGURATIONS,
                "peer": f"{peer} {state}",
                "shardwise": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                "machine": platform.machine(),
                "cpus": os.cpu_count(),
            }
        )
    )


if __name__ == "__main__":
    main()
