"""Run in Vidur's own Python: one job of `benchmarks/traffic.py`, simulated by Vidur.

    python ask_vidur.py JOB.json ANSWER.json

Vidur brings step times of its own (regressions on profiles that it downloads). Here it is given
those of the job, so that both simulators schedule the same steps: its Sarathi scheduler, decodes
first and prompts cut to the budget, behind round robin. Its metrics are off; times are read from
its requests. ANSWER: its version, seconds of CPU time, and each request's latencies in seconds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from bisect import bisect_right
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from vidur._native.entities import ExecutionTime
from vidur.config import (
    CacheConfig,
    ClusterConfig,
    LinearRegressionExecutionTimePredictorConfig,
    MetricsConfig,
    ReplicaConfig,
    RoundRobinGlobalSchedulerConfig,
    SarathiSchedulerConfig,
    SimulationConfig,
)
from vidur.entities import Request
from vidur.execution_time_predictor import BaseExecutionTimePredictor
from vidur.execution_time_predictor import ExecutionTimePredictorRegistry as Predictors
from vidur.request_generator import RequestGeneratorRegistry as Generators
from vidur.simulator import Simulator
from vidur.types import ExecutionTimePredictorType, RequestGeneratorType

JOB: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text("utf-8"))
BLOCK = 16  #: tokens


def read_at(surface: dict[str, Any], row: float, column: float) -> float:
    """Seconds of a surface (shardwise.simulator.surface.read_at, in Python)."""

    def place(nodes: list[float], value: float) -> tuple[int, float]:
        cell = min(max(bisect_right(nodes, value) - 1, 0), len(nodes) - 2)
        return cell, max(value - nodes[cell], 0.0) / (nodes[cell + 1] - nodes[cell])

    (a, x), (b, y) = place(surface["rows"], row), place(surface["columns"], column)
    low, high = (
        (1 - x) * one + x * other
        for one, other in zip(
            surface["seconds"][a][b : b + 2], surface["seconds"][a + 1][b : b + 2], strict=True
        )
    )
    return float((1 - y) * low + y * high)


class GivenSteps(BaseExecutionTimePredictor):  # type: ignore[misc]
    """The job's step tables (shardwise.simulator.stepping.mixed_step_s, in Python)."""

    def get_execution_time(self, batch: Any, _stage: int) -> Any:
        decode, prompt = JOB["decode_s"], JOB["prompt_s"]
        n = context = tokens = 0
        seconds = 0.0
        for request, new, cached in zip(
            batch.requests, batch.num_q_tokens, batch.num_kv_tokens, strict=True
        ):
            if request.is_prefill_complete:
                n += 1
                context += cached - 1
            else:
                tokens += new
                seconds += read_at(JOB["scores"], new, cached - new / 2)
        if n:
            seconds += read_at(JOB["reads"], n, context / n)
        if tokens == 0:
            seconds += decode[n]
        elif n == 0:
            seconds += prompt[tokens]
        else:
            seconds += prompt[n + tokens] + JOB["beside_s"][n]
        if tokens:
            launch, per_step, per_sequence, _ = JOB["launch"]
            knee = JOB["host_knee"]
            if n + tokens <= JOB["graph_tokens"]:
                launch *= JOB["piecewise_share"]
            device = seconds - per_step - per_sequence * n
            seconds += (device**knee + launch**knee) ** (1 / knee) - device
        # it adds up parts of a layer in ms; all is one part of a single layer here
        return ExecutionTime(1, *[0.0] * 6, 1e3 * seconds, *[0.0] * 7)


class GivenRequests:
    """The job's trace."""

    made: ClassVar[list[Request]] = []

    def __init__(self, config: Any) -> None:
        pass

    def generate(self) -> list[Request]:
        rows = zip(JOB["arrival_s"], JOB["isl"], JOB["osl"], strict=True)
        GivenRequests.made = [Request(at, isl, osl) for at, isl, osl in rows]
        return GivenRequests.made


# every part of a layer is abstract, and none is asked for
GivenSteps.__abstractmethods__ = frozenset()


def main() -> None:
    key = ExecutionTimePredictorType.LINEAR_REGRESSION
    Predictors.unregister(key)
    Predictors.register(key, GivenSteps)
    Generators.unregister(RequestGeneratorType.SYNTHETIC)
    Generators.register(RequestGeneratorType.SYNTHETIC, GivenRequests)
    metrics = MetricsConfig(
        write_metrics=False,
        enable_chrome_trace=False,
        store_plots=False,
        output_dir=tempfile.mkdtemp(),
    )
    config = SimulationConfig(
        cluster_config=ClusterConfig(
            num_replicas=JOB["replicas"],
            # only its memory planner looks at the model, and room is given in blocks below
            replica_config=ReplicaConfig(num_pipeline_stages=1, tensor_parallel_size=1),
            cache_config=CacheConfig(BLOCK, JOB["kv_capacity_tokens"] // BLOCK),
            global_scheduler_config=RoundRobinGlobalSchedulerConfig(),
            replica_scheduler_config=SarathiSchedulerConfig(
                batch_size_cap=JOB["max_num_seqs"], chunk_size=JOB["max_num_batched_tokens"]
            ),
        ),
        execution_time_predictor_config=LinearRegressionExecutionTimePredictorConfig(),
        metrics_config=metrics,
    )
    simulator = Simulator(config)
    started = time.process_time()
    simulator.run()
    cpu_s = time.process_time() - started
    made = GivenRequests.made
    answer = {
        "version": version("vidur"),
        "cpu_s": cpu_s,
        "ttft_s": [request.prefill_completed_at - request.arrived_at for request in made],
        "e2e_latency_s": [request.completed_at - request.arrived_at for request in made],
    }
    Path(sys.argv[2]).write_text(json.dumps(answer), "utf-8")


if __name__ == "__main__":
    main()
