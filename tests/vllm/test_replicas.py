"""Two real vLLM replicas behind a balancer, one of them killed under load."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.hosting.conftest import free_port, require_balancer
from tests.hosting.load import closed_loop, median

from shardwise.hosting import operating
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable, save

pytestmark = pytest.mark.vllm

ENVIRONMENT = {
    "VLLM_HOST_IP": "127.0.0.1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


def test_a_killed_replica_loses_only_its_own_streams_and_returns(
    vllm_python: str, random_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_balancer("haproxy")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    first, cores = free_port(4), sorted(os.sched_getaffinity(0))
    model = ModelTable(
        model=str(random_llama),
        name="toy",
        engine="vllm",
        python=vllm_python,
        replicas=2,
        devices=[[cores[0]], [cores[-1]]] if len(cores) > 1 else [],
        first_port=first + 1,
        max_num_seqs=32,
        max_model_len=512,
        flags=["--enforce-eager", "--load-format=dummy", "--dtype=float32"],
        env=ENVIRONMENT,
        ready_timeout_s=300,
    )
    path = tmp_path / "deployment.toml"
    save(DeploymentFile(port=first, balancer="haproxy", models=[model]), path)
    try:
        operating.up(path, lambda _: None)
        _, before = operating.look(path)
        victim = before[0].state.process
        assert victim

        def kill() -> None:
            time.sleep(3.0)
            os.kill(victim.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        ended = asyncio.run(closed_loop(first, 16, 320, 32, limit_s=120.0))
        killer.join()
        outcomes = Counter(e.outcome for e in ended)
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            now = operating.look(path)[1][0]
            if now.status == "ready" and now.state.restarts == 1:
                break
            time.sleep(1.0)
        again = Counter(e.outcome for e in asyncio.run(closed_loop(first, 8, 32, 8)))
        print(
            f"two vLLM replicas, one killed: {dict(outcomes)}, median TTFT "
            f"{median([e.ttft_s for e in ended]) * 1e3:.0f} ms; after its return: {dict(again)}"
        )
        assert outcomes["refused"] == outcomes["failed"] == 0, [
            e for e in ended if e.outcome not in {"whole", "cut"}
        ]
        assert outcomes["whole"] > 0
        assert outcomes["cut"] <= 16  # at most what was in flight
        assert now.status == "ready"
        assert now.state.restarts == 1
        assert set(again) == {"whole"}
    finally:
        operating.down(path, grace_s=5.0)
