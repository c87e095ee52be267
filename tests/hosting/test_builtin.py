"""The built-in engine itself behind a balancer, one replica killed under load."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.hosting.conftest import free_port, require_balancer
from tests.hosting.load import closed_loop

from shardwise.hosting import operating
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable

if not (importlib.util.find_spec("torch") and importlib.util.find_spec("shardwise.engine")):
    pytest.skip("the engine extra is not installed", allow_module_level=True)

pytestmark = pytest.mark.live

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def test_four_replicas_lose_only_the_streams_of_the_killed_one(
    deploy: Callable[[DeploymentFile], Path], tmp_path: Path
) -> None:
    require_balancer("haproxy")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "config.json").write_text(json.dumps(CONFIG))
    first = free_port(5)
    model = ModelTable(
        model=str(tmp_path / "toy"),
        engine="builtin",
        replicas=4,
        max_num_seqs=64,
        max_num_batched_tokens=256,
        flags=["--random-weights", "--dtype", "fp32", "--threads-per-rank", "1"],
        first_port=first + 1,
    )
    path = deploy(DeploymentFile(port=first, models=[model]))
    victim = operating.look(path)[1][0].state.process
    assert victim

    killer = threading.Timer(1.5, os.kill, (victim.pid, signal.SIGKILL))
    killer.start()
    ended = asyncio.run(closed_loop(first, 64, 640, 40))
    killer.join()
    outcomes = Counter(e.outcome for e in ended)
    deadline = time.monotonic() + 40
    now = operating.look(path)[1][0]
    while (now.status, now.state.restarts) != ("ready", 1) and time.monotonic() < deadline:
        time.sleep(0.3)
        now = operating.look(path)[1][0]
    again = asyncio.run(closed_loop(first, 16, 32, 4))
    print(f"built-in: {dict(outcomes)}; after its return {Counter(e.outcome for e in again)}")
    assert outcomes["refused"] == outcomes["failed"] == 0
    assert 0 < outcomes["cut"] <= 40  # about 64/4 were on it
    assert (now.status, now.state.restarts) == ("ready", 1)
    assert {e.outcome for e in again} == {"whole"}
    assert operating.down(path) >= 9  # four servers with a rank each, the balancer
