"""Deployments of stand-in engines, each on ports of its own, stopped whatever happens."""

from __future__ import annotations

import json
import random
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason="the host extra is not installed")

from shardwise.hosting import operating
from shardwise.hosting.balancers.choosing import known
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable, save
from shardwise.hosting.state import read as read_state
from shardwise.replica import processes

STAND_IN = Path(__file__).with_name("stand_in.py")
BALANCERS = ("haproxy", "caddy", "vllm-router", "smg")


def free_port(count: int = 1) -> int:
    """The first of `count` free ports, below those that the kernel deals to clients."""
    for _ in range(100):
        first = random.randrange(12_000, 32_000)
        if all(_free(port) for port in range(first, first + count)):
            return first
    raise AssertionError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def require_balancer(name: str) -> None:
    if not known()[name].path():
        pytest.skip(f"{name} is not installed: {known()[name].install}")


def stand_in(
    replicas: int, first_port: int, ttft_s: float = 0.02, tpot_s: float = 0.01, name: str = "toy"
) -> ModelTable:
    command = [sys.executable, str(STAND_IN), "{host}", "{port}", name]
    return ModelTable(
        model=name,
        engine="command",
        command=[*command, str(ttft_s), str(tpot_s)],
        replicas=replicas,
        first_port=first_port,
    )


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


def toy(folder: Path, replicas: int, first_port: int, *flags: str) -> ModelTable:
    """Replicas of a small random model on the built-in engine."""
    (folder / "toy").mkdir()
    (folder / "toy" / "config.json").write_text(json.dumps(CONFIG))
    return ModelTable(
        model=str(folder / "toy"),
        engine="builtin",
        replicas=replicas,
        max_num_seqs=64,
        max_num_batched_tokens=256,
        flags=["--random-weights", "--dtype", "fp32", "--threads-per-rank", "1", *flags],
        first_port=first_port,
    )


@pytest.fixture
def deploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[DeploymentFile], Path]]:
    """Saves and brings up a file; whatever runs at the end is brought down."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / "deployment.toml"

    def start(file: DeploymentFile) -> Path:
        save(file, path)
        operating.up(path, lambda _: None)
        return path

    yield start
    from shardwise.hosting import state

    if read_state(state.folder(path)):
        operating.down(path, grace_s=2.0)
    assert processes.marked(state.deployment_id(path)) == []
