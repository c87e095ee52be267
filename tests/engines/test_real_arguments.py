"""Every command that a plan prints has flags that its engine takes, by the engine's own sources;
and vLLM's own parser takes it whole, where vLLM is installed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.planner.conftest import make_question

from shardwise.engines.device import device_of
from shardwise.engines.facts import Launch
from shardwise.engines.registry import get
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, layout_of
from shardwise.layout.speculation import Speculation
from shardwise.planner.command import checkpoint, engine_command
from shardwise.planner.plan import plan
from shardwise.planner.question import Demand

SOURCES: dict[str, Any] = json.loads((Path(__file__).parent / "flags.json").read_text("utf-8"))
GPU = {"vllm": "h200", "sglang": "h200", "trtllm": "h200", "atom": "mi355x"}
LAYOUTS = ("TP1", "TP8", "TP8xEP8", "DP8xEP8", "TP2xDP4xEP8", "TP4xPP2", "DP8", "TP1xPP3")

#: What people ask: model, GPU, GPUs, requests in flight
ASKED = [
    *[("deepseek-r1", "h200", 8, c) for c in (8, 64, 512)],
    *[("gpt-oss-120b", "h100", n, 64) for n in (1, 2, 3, 4, 6, 8)],
    *[("qwen3-235b-a22b", "h100", n, 64) for n in (4, 8)],
    ("qwen3.5-397b-a17b", "b200", 8, 64),
    ("kimi-k2.5", "h200", 8, 512),
    ("llama-3.1-70b", "rtx-pro-6000", 2, 8),
    ("qwen3-32b", "rtx-4090", 3, 8),
]


def flags_of(argv: tuple[str, ...] | list[str]) -> list[str]:
    return [word.partition("=")[0] for word in argv if word.startswith("--")]


def known(engine: str) -> set[str]:
    return set(SOURCES[engine]["flags"].split())


def written(engine: str) -> Iterator[tuple[str, ...]]:
    """Commands of layouts, dtypes and speculation that the engine can be asked for."""
    gpu, record = default_catalogue().gpu(GPU[engine]), get(engine)
    for layout in map(layout_of, LAYOUTS):
        for kv in ("auto", "fp8"):
            for drafted in (None, Speculation.parse("mtp:2")):
                deployment = Deployment(
                    "deepseek-r1",
                    gpu.id,
                    layout,
                    EngineLimits(64, 8192, 0.9, 8192),
                    Dtypes("fp8", kv),
                    engine,
                    speculation=drafted,
                )
                launch = Launch("deepseek-ai/DeepSeek-R1", "r1", checkpoint_dtype="bf16")
                yield record.command(deployment, launch, device_of(gpu)).argv


@pytest.mark.parametrize("engine", SOURCES)
def test_every_flag_written_for_an_engine_is_one_of_its_own(engine: str) -> None:
    used = {flag for argv in written(engine) for flag in flags_of(argv)}
    assert len(used) > 8
    assert used <= known(engine), sorted(used - known(engine))


@pytest.mark.parametrize("engine", SOURCES)
def test_the_layout_flags_are_among_them(engine: str) -> None:
    lines = [" ".join(argv) for argv in written(engine)]
    copied = {
        "vllm": "--data-parallel-size 8 --enable-expert-parallel",
        "sglang": "--dp-size 8 --enable-dp-attention --ep-size 8",
        "trtllm": "--tp_size 8 --ep_size 8",
        "atom": "--tensor-parallel-size 8 --enable-dp-attention --enable-expert-parallel",
    }
    assert any(copied[engine] in line for line in lines)


@cache
def recommended(model: str, gpu: str, gpus: int, in_flight: int, engine: str) -> tuple[str, ...]:
    asked = make_question(model, gpu, gpus, Demand(4000, 1000, in_flight), engine=engine)
    best = plan(asked).best.deployment
    stored = checkpoint(model, asked.arch, best)
    assert not stored.placeholder, "a checkpoint that nobody published is recommended"
    return engine_command(best, asked.arch, asked.node.gpu, stored).argv


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("question", ASKED, ids=lambda q: f"{q[0]}-{q[2]}x{q[1]}-{q[3]}")
def test_a_recommended_command_has_only_flags_that_its_engine_takes(
    question: tuple[str, str, int, int], engine: str
) -> None:
    found = flags_of(recommended(*question, engine))
    assert found
    assert len(found) == len(set(found))
    assert set(found) <= known(engine), sorted(set(found) - known(engine))


PARSE = """
import json, sys
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.entrypoints.launchers.cli_args import make_arg_parser
for line in json.load(sys.stdin):
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(line)
    print(json.dumps([args.tensor_parallel_size, args.pipeline_parallel_size,
                      args.data_parallel_size, args.enable_expert_parallel, args.max_num_seqs]))
"""


@pytest.mark.vllm
def test_vllms_own_parser_takes_every_recommended_command_as_it_was_meant() -> None:
    python = os.environ.get("VLLM_PYTHON", "")
    if not python or not Path(python).exists():
        pytest.skip("VLLM_PYTHON names no interpreter; run: make test-vllm")
    commands = [recommended(*question, "vllm") for question in ASKED]
    commands += list(written("vllm"))
    lines = [["--model", argv[2], *argv[3:]] for argv in commands]
    done = subprocess.run(
        [python, "-c", PARSE], input=json.dumps(lines), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    parsed = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(parsed) == len(lines)
    for line, (tp, pp, dp, whole, seqs) in zip(lines, parsed, strict=True):

        def value(name: str, default: int, line: list[str] = line) -> int:
            return int(line[line.index(name) + 1]) if name in line else default

        assert tp == value("--tensor-parallel-size", 1)
        assert pp == value("--pipeline-parallel-size", 1)
        assert dp == value("--data-parallel-size", 1)
        assert whole == ("--enable-expert-parallel" in line)
        assert seqs == value("--max-num-seqs", 0)
