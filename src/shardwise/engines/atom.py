"""ATOM, AMD's engine on AITER kernels.

Flags: github.com/ROCm/ATOM, atom/model_engine/arg_utils.py; docs/configuration_guide.md and
docs/distributed_guide.md as of November 2026.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from shardwise.engines.device import Device
from shardwise.engines.engine import Engine
from shardwise.engines.facts import (
    AllReduce,
    Capabilities,
    Defaults,
    Launch,
    Metrics,
    Packaging,
    Scheduling,
)
from shardwise.engines.rules import UNQUANTIZED, Shard, Weight, even, padded, whole_blocks
from shardwise.engines.startup import Quantity, StartupMemory
from shardwise.engines.versions import Known, Version
from shardwise.layout.deployment import Deployment
from shardwise.units import GIB, MIB


def flags(deployment: Deployment, launch: Launch, device: Device) -> list[str]:
    """Return the flags. With --enable-dp-attention, every TP rank is a copy of attention."""
    del device, launch
    layout, limits = deployment.layout, deployment.limits
    line = ["--tensor-parallel-size", str(layout.stage_gpus)]
    if layout.attention_dp > 1:
        line += ["--enable-dp-attention"]
    if layout.ep_size > 1:
        line += ["--enable-expert-parallel"]
    kv = deployment.dtypes.kv
    if kv != "auto":
        line += ["--kv_cache_dtype", CAPABILITIES.kv_dtypes[kv]]
    if limits.max_model_len:
        line += ["--max-model-len", str(limits.max_model_len)]
    line += ["--max-num-seqs", str(limits.max_num_seqs)]
    line += ["--max-num-batched-tokens", str(limits.max_num_batched_tokens)]
    line += ["--gpu-memory-utilization", f"{limits.gpu_memory_utilization:g}"]
    if deployment.speculation is not None:
        drafted = deployment.speculation.tokens
        line += ["--method", "mtp", "--num-speculative-tokens", str(drafted)]
    return line


def defaults(device: Device, version: Version | None, world_size: int) -> Defaults:
    """Return the defaults, which are the same on every GPU.

    Source: docs/configuration_guide.md.
    """
    del device, version, world_size
    return Defaults(
        max_num_seqs=512,
        max_num_batched_tokens=16384,
        memory_fraction=0.9,
        block_size=16,
        source="github.com/ROCm/ATOM, docs/configuration_guide.md",
    )


def cut(weight: Weight, tp_size: int, device: Device, version: Version | None) -> Shard:
    """Keep scale blocks whole. Pad MXFP4 experts to 256 for AITER, as vLLM and SGLang do on AMD."""
    del device, version
    if weight.dtype == "mxfp4" and weight.experts:
        return padded(weight.sharded(tp_size), 256, 256)
    if weight.dtype in UNQUANTIZED:
        return replace(weight.sharded(tp_size), refused=even(weight, tp_size))
    return whole_blocks(weight, tp_size)


def startup(device: Device, version: Version | None) -> StartupMemory:
    """Return the memory taken at start-up, measured by a warm-up run as in early vLLM.

    Source: atom/model_engine/model_runner.py, get_num_blocks.
    """
    del device, version
    return StartupMemory(
        share="total",
        context_bytes=Quantity(
            1.0 * GIB, 0.5 * GIB, 3.0 * GIB, "assumed; 1 GiB more takes 1 GiB of KV cache"
        ),
        context_counted=True,
        collective_bytes=Quantity(
            1.8 * GIB, 0.5 * GIB, 4.0 * GIB, "assumed equal to vLLM's, with RCCL instead of NCCL"
        ),
        collective_bytes_without_peers=Quantity(
            0.1 * GIB, 0.04 * GIB, 0.33 * GIB, "assumed equal to vLLM's: vllm#13061, #14452"
        ),
        collective_counted=True,
        graph_bytes=Quantity(0.8 * GIB, 0.13 * GIB, 4.8 * GIB, "assumed equal to vLLM's"),
        graph_counted=False,
        sampler_bytes_per_logit=Quantity(
            16.0, 8.0, 40.0, "assumed: logits, softmax and noise in 32 bits"
        ),
        activation="one forward of max_num_batched_tokens tokens",
    )


def scheduling(device: Device, version: Version | None) -> Scheduling:
    """docs/configuration_guide.md."""
    del device, version
    return Scheduling(
        chunked_prefill=True,
        mixed_batches=False,
        prefix_caching=False,
        graph_batch_sizes=(*range(1, 9), 16, 32, 48, 64, 128, 256, 512),
        all_reduce=AllReduce(
            custom_world_sizes=(2, 4, 6, 8),
            custom_max_bytes=16 * MIB,
            quick_reduce_world_sizes=(2, 4, 8),
            source="AITER's custom all-reduce; size limit assumed equal to SGLang's on ROCm",
        ),
        source="atom/model_engine/arg_utils.py: --cudagraph-capture-sizes",
    )


CAPABILITIES: Final = Capabilities(
    vendors=("amd",),
    pipeline=False,
    experts="whole",
    attention_dp=True,
    attention_dp_with_tp=False,
    decode_context_parallel=None,
    speculation=("mtp",),
    online_fp8=False,
    weight_dtypes=("bf16", "fp16", "fp8", "int8", "int4", "mxfp4"),
    kv_dtypes={"bf16": "bf16", "fp8": "fp8"},
    max_tp=8,
    source="atom/model_engine/arg_utils.py, docs/distributed_guide.md",
)

ATOM: Final = Engine(
    name="atom",
    title="ATOM",
    program=("python", "-m", "atom.entrypoints.openai_server", "--model"),
    module=("atom.entrypoints.openai_server", "--model"),
    packaging=Packaging(
        module="atom",
        install="use the image rocm/atom, or pip install git+https://github.com/ROCm/ATOM",
        images={"rocm": "rocm/atom:latest"},
    ),
    capabilities=CAPABILITIES,
    known=Known("0.1", "0.1"),
    metrics=Metrics(
        path="/metrics",
        in_flight=("atom:scheduler_requests",),
        names={
            "shardwise_ttft_seconds": "atom:time_to_first_token_seconds",
            "shardwise_itl_seconds": "atom:inter_token_latency_seconds",
        },
    ),
    write_flags=flags,
    address=("--host", "--server-port"),
    served_name_flag="",
    defaults_at=defaults,
    cut_at=cut,
    startup_at=startup,
    scheduling_at=scheduling,
)
