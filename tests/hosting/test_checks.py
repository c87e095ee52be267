"""What is wrong is said in one line, and nothing is started."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.hosting.conftest import STAND_IN, free_port, require_balancer

from shardwise.hosting import state
from shardwise.replica import processes

COMMAND = f'["{sys.executable}", "{STAND_IN}", "{{host}}", "{{port}}", "toy"]'


def run(path: Path, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", *words, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "XDG_STATE_HOME": str(home)},
    )


def cpu(extra: str = "", engine: str = "command", top: str = "") -> str:
    command = f"command = {COMMAND}\n" if engine == "command" else ""
    return f'{top}\n[[model]]\nmodel = "toy"\nengine = "{engine}"\n{command}{extra}\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (cpu("devices = [[4000]]"), "CPU core 4000 does not exist; found here: 0"),
        (cpu("replicas = 2\ndevices = [[0], [0]]"), "device 0 is claimed by toy/0 and toy/1"),
        (
            '[node]\ngpu = "mi300x"\n[[model]]\nmodel = "llama-3.1-70b"\ntp_size = 2\n',
            "rocm device 0 does not exist; found here: none",
        ),
        (
            '[node]\ngpu = "h100"\ngpus = 8\n[[model]]\nmodel = "llama-3.1-405b"\ntp_size = 8\n'
            "pp_size = 2\n",
            "16 GPUs for the replicas, and the file's node has 8.*shardwise export",
        ),
        (cpu(engine="sglang"), "'sglang' is not installed in .*pip install 'sglang"),
        (cpu("colour = 1"), "unknown field `colour`"),
        (cpu(top='api_key_env = "SHARDWISE_TEST_KEY"'), "SHARDWISE_TEST_KEY is not set"),
        (cpu() + cpu(), "2 models are served as 'toy'"),
        (
            cpu(top='balancer = "vllm-router"') + cpu('name = "other"'),
            "vllm-router cannot route 2 models; allowed here: haproxy",
        ),
        (
            '[node]\ngpu = "mi300x"\n[[model]]\nmodel = "llama-3.1-70b"\ntp_size = 3\n',
            "TP=3 does not divide the 64 attention heads",
        ),
        (
            '[node]\ngpu = "mi300x"\n[[model]]\nmodel = "llama-3.1-405b"\nweight_dtype = "bf16"\n',
            "raise tp_size",
        ),
        ("port = ", "not TOML"),
    ],
)
def test_bad_deployment_exits_2_with_one_line_and_starts_nothing(
    tmp_path: Path, text: str, says: str
) -> None:
    require_balancer("haproxy")
    path = tmp_path / "deployment.toml"
    path.write_text(text)
    if "gpu" in text and Path("/sys/class/kfd").exists():
        pytest.skip("this machine has AMD GPUs")
    done = run(path, tmp_path, "up")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search(says, done.stderr), done.stderr
    assert processes.marked(state.deployment_id(path)) == []
    assert not (tmp_path / "shardwise").exists()


def test_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    require_balancer("haproxy")
    path = tmp_path / "deployment.toml"
    port = free_port(2)
    path.write_text(cpu(f"first_port = {port + 1}", top=f"port = {port}"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = run(path, tmp_path, "up")
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr


@pytest.mark.parametrize("command", ["status", "logs", "down"])
def test_command_without_up_says_so(tmp_path: Path, command: str) -> None:
    done = run(tmp_path / "deployment.toml", tmp_path, command)
    assert done.returncode == 2
    assert "nothing was started" in done.stderr
