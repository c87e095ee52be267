"""Shardwise's own engine (`shardwise.engine`): flags of `shardwise serve`, limits and rules."""

from __future__ import annotations

from typing import Final

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
from shardwise.engines.rules import Shard, Weight
from shardwise.engines.startup import Quantity, StartupMemory
from shardwise.engines.versions import Known, Version
from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment

#: Measured private memory of a CPU rank before weights are loaded: shardwise/engine/options.py.
RANK_PROCESS_BYTES: Final = 350e6


def flags(deployment: Deployment, launch: Launch, device: Device) -> list[str]:
    """Return the flags of `shardwise serve`.

    Raises InputError if the KV cache dtype differs from the weight dtype.
    """
    weight, kv = deployment.dtypes.weight, deployment.dtypes.kv
    if kv not in ("auto", weight) and weight != "auto":
        raise InputError(
            f"KV cache dtype {kv[:40]!r} with weights in {weight} on the built-in engine",
            f"allowed: auto, {weight}",
            "its KV cache has the dtype of its computation",
        )
    limits = deployment.limits
    line = ["--tensor-parallel-size", str(deployment.layout.tp_size)]
    line += ["--device", "cpu" if device.vendor == "cpu" else "cuda"]
    if weight != "auto":
        line += ["--dtype", weight]
    if limits.max_model_len:
        line += ["--max-model-len", str(limits.max_model_len)]
    line += ["--max-num-seqs", str(limits.max_num_seqs)]
    line += ["--max-num-batched-tokens", str(limits.max_num_batched_tokens)]
    if launch.kv_cache_tokens:
        line += ["--kv-cache-tokens", str(launch.kv_cache_tokens)]
    if launch.threads_per_rank:
        line += ["--threads-per-rank", str(launch.threads_per_rank)]
    return line


def defaults(device: Device, version: Version | None, world_size: int) -> Defaults:
    """Return the defaults of shardwise/engine/options.py.

    The KV cache has a size in tokens instead of a memory fraction.
    """
    del device, version, world_size
    return Defaults(
        max_num_seqs=64,
        max_num_batched_tokens=1024,
        memory_fraction=1.0,
        block_size=16,
        source="shardwise/engine/options.py",
    )


def cut(weight: Weight, tp_size: int, device: Device, version: Version | None) -> Shard:
    """Cut `weight` into parts whose sizes differ by at most one; no size is refused.

    Source: shardwise/engine/sharding.py.
    """
    del device, version
    return weight.sharded(tp_size)


def startup(device: Device, version: Version | None) -> StartupMemory:
    """Return the start-up memory. The KV cache has the requested size; no profiling run is made."""
    del version
    here = "shardwise/engine/options.py: RANK_PROCESS_BYTES, measured with torch 2.13 on x86-64"
    none = Quantity(0.0, 0.0, 0.0, "not allocated")
    process = Quantity(RANK_PROCESS_BYTES, 0.8 * RANK_PROCESS_BYTES, 1.5 * RANK_PROCESS_BYTES, here)
    return StartupMemory(
        share="none",
        context_bytes=process if device.vendor == "cpu" else none,
        context_counted=False,
        collective_bytes=none,
        collective_bytes_without_peers=none,
        collective_counted=False,
        graph_bytes=none,
        graph_counted=False,
        sampler_bytes_per_logit=Quantity(12.0, 8.0, 16.0, "shardwise/engine/sampling.py"),
        activation="none",
    )


def scheduling(device: Device, version: Version | None) -> Scheduling:
    """shardwise/engine/scheduler.py."""
    del device, version
    return Scheduling(
        chunked_prefill=True,
        mixed_batches=True,
        prefix_caching=False,
        graph_batch_sizes=(),
        all_reduce=AllReduce((), 0, source="shardwise/engine/collectives.py"),
        source="shardwise/engine/scheduler.py",
    )


BUILTIN: Final = Engine(
    name="builtin",
    title="the built-in engine",
    program=("shardwise", "serve"),
    module=("shardwise.cli.main", "serve"),
    packaging=Packaging(module="torch", install="pip install 'shardwise[engine]'"),
    capabilities=Capabilities(
        vendors=("nvidia", "amd", "cpu"),
        pipeline=False,
        experts="none",
        attention_dp=False,
        attention_dp_with_tp=False,
        decode_context_parallel=None,
        speculation=(),
        online_fp8=False,
        weight_dtypes=("fp32", "bf16", "fp16"),
        kv_dtypes={"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"},
        source="shardwise/engine/options.py",
    ),
    known=Known("0.1", "9999.9"),
    metrics=Metrics(
        path="/metrics",
        in_flight=("shardwise_requests_in_flight",),
        progress=("shardwise_output_tokens_total",),
        names={
            name: name
            for name in (
                "shardwise_ttft_seconds",
                "shardwise_itl_seconds",
                "shardwise_e2e_latency_seconds",
                "shardwise_requests",
                "shardwise_requests_running",
                "shardwise_requests_waiting",
                "shardwise_output_tokens",
            )
        },
    ),
    managed=True,
    write_flags=flags,
    defaults_at=defaults,
    cut_at=cut,
    startup_at=startup,
    scheduling_at=scheduling,
    auto_kv=lambda weight_dtype, _scheme: weight_dtype if weight_dtype != "auto" else "bf16",
    vocab_padding=1,
)
