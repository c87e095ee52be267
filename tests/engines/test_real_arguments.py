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
from msgspec.structs import replace
from tests.planner.conftest import make_question

from shardwise.architecture.models import load
from shardwise.engines.checks import problems
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
SHARED = ("TP8xDCP8", "TP8xEP8xDCP4")
#: Over two nodes of 8 GPUs
SPREAD = ("TP8xPP2", "TP2xDP8xEP16")

MODEL = load("deepseek-r1")
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
    can, plain = (
        record.capabilities,
        Launch("deepseek-ai/DeepSeek-R1", "r1", checkpoint_dtype="bf16"),
    )
    asked = [(name, plain) for name in LAYOUTS]
    if can.decode_context_parallel:
        asked += [(name, plain) for name in SHARED]
    if can.multi_node:
        two = replace(plain, nodes=2, head="10.0.0.1")
        asked += [(n, replace(two, node_rank=rank)) for n in SPREAD for rank in (0, 1)]
    for name, launch in asked:
        for kv in ("auto", "fp8"):
            for drafted in (None, Speculation.parse("mtp:2"), Speculation.parse("org/small:4")):
                deployment = Deployment(
                    "deepseek-r1",
                    gpu.id,
                    layout_of(name),
                    EngineLimits(64, 8192, 0.9, 8192),
                    Dtypes("fp8", kv),
                    engine,
                    speculation=drafted,
                )
                if list(problems(record, deployment, device_of(gpu), MODEL)):
                    continue  # refused before a command is written
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
    shared = {
        "vllm": "--tensor-parallel-size 8 --decode-context-parallel-size 8",
        "sglang": "--tp-size 8 --dcp-size 8",
    }
    assert any(shared.get(engine, copied[engine]) in line for line in lines)
    spread = {"vllm": "--nnodes 2 --node-rank 1", "sglang": "--nnodes 2 --node-rank 1"}
    assert any(spread.get(engine, copied[engine]) in line for line in lines)


#: tensorrt_llm/commands/serve.py writes the rest into the file that --extra_llm_api_options names;
#: its keys are fields of TorchLlmArgs and of its configs (llmapi/llm_args.py).
TRTLLM_KEYS = {
    *("enable_attention_dp", "enable_chunked_prefill", "kv_cache_config", "speculative_config"),
    *("dtype", "free_gpu_memory_fraction", "decoding_type", "max_draft_len"),
    *("num_nextn_predict_layers", "speculative_model_dir"),
    *("cuda_graph_config", "enable_padding", "max_batch_size"),
}


def test_trtllms_file_has_keys_of_its_own_arguments() -> None:
    record, gpu = get("trtllm"), default_catalogue().gpu("h200")
    used: set[str] = set()
    for drafted in ("mtp:2", "org/small:4"):
        for version in ("1.0", "1.3"):
            deployment = Deployment(
                "deepseek-r1",
                gpu.id,
                layout_of("DP8xEP8"),
                EngineLimits(64, 8192, 0.9, 16384),
                Dtypes("fp8", "fp8"),
                "trtllm",
                version,
                Speculation.parse(drafted),
            )
            (file,) = record.command(deployment, Launch("m"), device_of(gpu)).files
            used |= {line.partition(":")[0].strip() for line in file.text.splitlines()}
    assert used == TRTLLM_KEYS


@cache
def recommended(model: str, gpu: str, gpus: int, in_flight: int, engine: str) -> tuple[str, ...]:
    asked = make_question(model, gpu, gpus, Demand(4000, 1000, in_flight), engine=engine)
    best = plan(asked).best.deployment
    stored = checkpoint(model, asked.arch, best)
    assert not stored.placeholder, "a checkpoint that nobody published is recommended"
    return engine_command(best, asked.arch, asked.node.gpu, stored).argv


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
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
                      args.data_parallel_size, args.enable_expert_parallel, args.max_num_seqs,
                      args.decode_context_parallel_size, args.nnodes, args.node_rank]))
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
    for line, (tp, pp, dp, whole, seqs, dcp, nodes, rank) in zip(lines, parsed, strict=True):

        def value(name: str, default: int, line: list[str] = line) -> int:
            return int(line[line.index(name) + 1]) if name in line else default

        assert tp == value("--tensor-parallel-size", 1)
        assert pp == value("--pipeline-parallel-size", 1)
        assert dp == value("--data-parallel-size", 1)
        assert whole == ("--enable-expert-parallel" in line)
        assert seqs == value("--max-num-seqs", 0)
        assert dcp == value("--decode-context-parallel-size", 1)
        assert (nodes, rank) == (value("--nnodes", 1), value("--node-rank", 0))
