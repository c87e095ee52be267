"""`shardwise doctor`: as a process, on this machine, on pastes and on node files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.node.samples import FOLDER, needs_samples

PAIRS = """\
        GPU0    GPU1    GPU2    GPU3    CPU Affinity    NUMA Affinity
GPU0     X      NV12    SYS     SYS     0-31    0
GPU1    NV12     X      SYS     SYS     0-31    0
GPU2    SYS     SYS      X      NV12    32-63   1
GPU3    SYS     SYS     NV12     X      32-63   1
"""
LOG = """\
INFO 05-15 02:12:07 [gpu_model_runner.py:5448] Model loading took 14.99 GiB memory and 4.5 seconds
INFO 05-15 02:13:17 [gpu_worker.py:462] Available KV cache memory: 53.20 GiB
INFO 05-15 02:13:18 [kv_cache_utils.py:1731] GPU KV cache size: 435,808 tokens
"""


def doctor(
    *words: str, given: str | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", "doctor", *words],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **(env or {})},
    )


def refused(*words: str, given: str | None = None) -> str:
    done = doctor(*words, given=given)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def as_json(*words: str, given: str | None = None) -> Any:
    done = doctor(*words, "--json", given=given)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_machine_without_a_gpu_says_so_in_one_line_and_exits_0(tmp_path: Path) -> None:
    """No tool of a vendor is on the PATH, whatever this machine has."""
    lscpu = tmp_path / "lscpu"
    lscpu.write_text("#!/bin/sh\necho 'Model name: A CPU'\necho 'Socket(s): 2'\n", "utf-8")
    lscpu.chmod(0o755)
    done = doctor(env={"PATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith("no GPU on this machine (A CPU, 2 sockets")
    assert line.endswith("; read another machine's output with --from FILE")


def test_a_machine_without_any_tool_at_all(tmp_path: Path) -> None:
    done = doctor(env={"PATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "no GPU on this machine" in done.stdout


def test_this_machine_is_read_by_its_tools(tmp_path: Path) -> None:
    """Tools that print what real ones do stand in for hardware that is not here."""
    (tmp_path / "topo.txt").write_text(PAIRS, "utf-8")
    script = tmp_path / "nvidia-smi"
    script.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "topo -m" ] && /bin/cat {tmp_path}/topo.txt\n'
        '[ "$1" = "topo" ] || printf "GPU 0: NVIDIA A40 (UUID: GPU-0)\\n"\n',
        "utf-8",
    )
    script.chmod(0o755)
    done = doctor(env={"PATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "4 GPUs" in done.stdout
    assert "NV12" in done.stdout


def test_pairs_with_bridges_from_stdin() -> None:
    found = as_json("--from", "-", given=PAIRS)
    two, four = found["verdicts"]
    assert two["groups"] == [[0, 1], [2, 3]]
    assert two["slowest"] == "NV12"
    assert two["engines"][0]["library"] == "custom"
    assert four["slowest"] == "SYS"
    assert four["engines"][0]["library"] == "nccl"
    assert four["engines"][0]["transport"] == "host memory"
    assert four["engines"][0]["seconds"]["32"][0] > 8 * two["engines"][0]["seconds"]["32"][1]


def test_the_text_says_what_to_take_what_it_costs_and_what_to_change() -> None:
    done = doctor("--from", "-", "--engine", "vllm", "--wide", given=PAIRS)
    assert done.returncode == 0, done.stderr
    assert "0,1  2,3" in done.stdout
    assert "own kernel below 8 MiB, then NCCL" in done.stdout
    assert "NCCL through host memory" in done.stdout
    assert "do: prefer TP=2 with several replicas" in done.stdout
    assert "sglang" not in done.stdout


def test_several_files_are_one_machine(tmp_path: Path) -> None:
    (tmp_path / "topo.txt").write_text(PAIRS, "utf-8")
    names = "".join(f"GPU {i}: NVIDIA A40 (UUID: GPU-{i})\n" for i in range(4))
    (tmp_path / "list.txt").write_text(names, "utf-8")
    found = as_json("--from", str(tmp_path / "topo.txt"), str(tmp_path / "list.txt"))
    assert {d["name"] for d in found["node"]["devices"]} == {"NVIDIA A40"}
    assert found["node"]["links"]["0-1"] == "NV12"


def test_a_node_is_saved_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    first = doctor("--from", "-", "--gpu", "NVIDIA A40", "--save", str(path), given=PAIRS)
    assert first.returncode == 0, first.stderr
    assert f"use it with --node {path}" in first.stderr
    again = as_json("--node", str(path))
    assert again["node"]["links"] == as_json("--from", "-", given=PAIRS)["node"]["links"]
    assert {d["name"] for d in again["node"]["devices"]} == {"NVIDIA A40"}


def test_a_cut_matrix_shows_what_is_known_and_fails_with_its_line() -> None:
    cut = "\n".join(PAIRS.splitlines()[:3])
    done = doctor("--from", "-", given=cut)
    assert done.returncode == 2
    assert "NV12" in done.stdout
    assert "stdin: line 3: the matrix ends here: no row of GPU2 to GPU3" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_utf_16_file_as_powershell_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "topo.txt"
    path.write_bytes(PAIRS.replace("\n", "\r\n").encode("utf-16"))
    assert as_json("--from", str(path))["node"]["links"]["2-3"] == "NV12"


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        (["--from", "/nowhere.txt"], None, "cannot read /nowhere.txt: No such file"),
        (["--from", "-"], "hello\n", "nothing in it is known; what is read: nvidia-smi"),
        (["topo.txt"], None, "pass --from FILE"),
        (["--node", "/nowhere.toml"], None, "No such file"),
        (["--node", "a.toml", "--from", "-"], PAIRS, "--node and --from"),
        (["--from", "-", "--engine", "trtllm"], PAIRS, "trtllm"),
        (["--from", "-", "--model", "llama-9"], LOG, "llama-9"),
    ],
)
def test_what_cannot_be_used_is_refused(words: list[str], given: str | None, said: str) -> None:
    assert said in refused(*words, given=given)


def test_a_start_up_log_beside_a_prediction() -> None:
    """Llama 3 8B in bf16 has 14.96 GiB of weights and 128 KiB of cache a token."""
    found = as_json("--from", "-", "--model", "llama-3-8b", "--gpu", "h100", given=LOG)
    (comparison,) = found["predicted"]
    by_name = {q["name"]: q for q in comparison["quantities"]}
    assert by_name["weights"]["predicted"] == pytest.approx(14.96, abs=0.02)
    assert by_name["KV tokens"]["logged"] == 435808
    assert found["startups"][0]["kv_tokens"] == 435808


def test_nothing_of_a_paste_reaches_the_terminal_as_a_command() -> None:
    evil = PAIRS + "GPU 0: NVIDIA \x1b]0;title\x07\u202eA40 (UUID: GPU-0)\n"
    done = doctor("--from", "-", given=evil)
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout


@needs_samples
@pytest.mark.parametrize("name", sorted(p.name for p in FOLDER.glob("*/*.txt")))
def test_every_sample_is_shown_without_a_traceback(name: str) -> None:
    from click.testing import CliRunner

    from shardwise.cli.doctor import doctor as command
    from shardwise.errors import InputError

    (path,) = FOLDER.glob(f"*/{name}")
    done = CliRunner().invoke(command, ["--from", str(path)])
    assert done.exception is None or isinstance(done.exception, InputError)
    assert done.output.strip()


def test_a_paste_of_a_host_alone_says_that_it_names_no_gpu() -> None:
    out = doctor(
        "--from", "-", given="Model name: AMD EPYC 9554\nSocket(s): 2\nNUMA node(s): 2\n"
    ).stdout
    assert out.startswith("no GPUs and links in stdin (AMD EPYC 9554, 2 sockets")


def test_the_reason_why_a_log_s_all_reduce_is_off_is_explained() -> None:
    line = "[2026-03-03 11:06:07 TP0] Custom allreduce is disabled because this process group"
    out = doctor("--from", "-", given=f"{line} spans across nodes.\n").stdout
    assert "works within one node" in out
    assert "without NVLink" not in out
