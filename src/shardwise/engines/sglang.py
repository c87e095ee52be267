"""SGLang.

Flags: sglang/srt/server_args.py and, in 0.5.23, sglang/srt/arg_groups/. The sources of releases
0.4.6, 0.5.3, 0.5.9 and 0.5.23 were read; a change is dated to the first of these that has it. What
runs as CUDA graphs was also read in 0.5.10 to 0.5.16.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from shardwise.architecture.model import Model
from shardwise.engines.device import Device
from shardwise.engines.engine import Engine
from shardwise.engines.facts import (
    AllReduce,
    Capabilities,
    ContextParallel,
    Defaults,
    Launch,
    Metrics,
    Packaging,
    Scheduling,
    Settings,
)
from shardwise.engines.marlin import marlin
from shardwise.engines.prompt_graphs import WHOLE_BUDGET, PromptGraphs
from shardwise.engines.rules import UNQUANTIZED, Shard, Weight, even, padded, whole_blocks
from shardwise.engines.startup import Quantity, StartupMemory
from shardwise.engines.versions import Known, Version, parse, release, since
from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment
from shardwise.units import GIB, MIB

INIT_PORT: Final = 20000  #: port of the examples in SGLang's guide
_ATTENTION_DP_FLAG: Final = (("0", ""), ("0.5.23", "--attn-dp-size"))
#: first version whose --kv-cache-dtype accepts "bfloat16"
_NAMES_BF16_CACHE: Final = (("0", False), ("0.5.9", True))


def flags(deployment: Deployment, launch: Launch, device: Device) -> list[str]:
    """Return the server's flags for a deployment.

    SGLang's TP, running requests and prefill chunk are totals over all copies of attention, so each
    is multiplied by the attention DP size.

    Source: https://docs.sglang.ai/advanced_features/server_arguments.html
    """
    layout, limits, copies = deployment.layout, deployment.limits, deployment.layout.attention_dp
    line = ["--tp-size", str(layout.stage_gpus)]
    if layout.pp_size > 1:
        line += ["--pp-size", str(layout.pp_size)]
    line += _attention_dp(deployment)
    line += _nodes(launch)
    if layout.dcp_size > 1:
        line += ["--dcp-size", str(layout.dcp_size)]
    if layout.ep_size > 1:
        line += ["--ep-size", str(layout.ep_size)]
    line += _dtype_flags(deployment, launch)
    if limits.max_model_len:
        line += ["--context-length", str(limits.max_model_len)]
    line += ["--max-running-requests", str(limits.max_num_seqs * copies)]
    line += ["--chunked-prefill-size", str(limits.max_num_batched_tokens * copies)]
    share = launch.static_share or limits.gpu_memory_utilization
    line += ["--mem-fraction-static", f"{share:.3f}".rstrip("0")]
    line += _speculation(deployment, launch)
    line += ["--enable-metrics"]
    return [*line, "--device", "cpu"] if device.vendor == "cpu" else line


#: Flag for the largest decode batch that runs as a graph, by first version.
_GRAPHS_FLAG: Final = (("0", "--cuda-graph-max-bs"), ("0.5.14", "--cuda-graph-max-bs-decode"))


def settings(model: Model, deployment: Deployment, device: Device) -> Settings:
    """Return graphs for all batches that the deployment allows, as in the calibration rows. By
    default, the largest batch with a graph follows from the GPU's memory."""
    del model
    version, seqs = parse(deployment.engine_version), deployment.limits.max_num_seqs
    usual = _graph_batch(device, version, deployment.layout.stage_gpus)
    if device.vendor not in ("nvidia", "amd") or seqs <= usual:
        return Settings()
    return Settings((since(version, _GRAPHS_FLAG), str(seqs)))


def _nodes(launch: Launch) -> list[str]:
    """Return the multi-node flags, equal on all nodes except the rank.

    Source: docs.sglang.io, references/multi_node_deployment.
    """
    if launch.nodes == 1:
        return []
    line = ["--nnodes", str(launch.nodes), "--node-rank", str(launch.node_rank)]
    return [*line, "--dist-init-addr", f"{launch.head}:{INIT_PORT}"]


def _attention_dp(deployment: Deployment) -> list[str]:
    """Return flags that all versions accept. 0.5.23 adds one of its own and deprecates these."""
    copies = deployment.layout.attention_dp
    if copies == 1:
        return []
    version = parse(deployment.engine_version)
    if version is not None and (flag := since(version, _ATTENTION_DP_FLAG)):
        return [flag, str(copies)]
    return ["--dp-size", str(copies), "--enable-dp-attention"]


def _dtype_flags(deployment: Deployment, launch: Launch) -> list[str]:
    line = []
    weight, kv = deployment.dtypes.weight, deployment.dtypes.kv
    if weight == "fp8" and launch.checkpoint_dtype in UNQUANTIZED:
        line += ["--quantization", "fp8"]
    version = parse(deployment.engine_version)
    if kv == "bf16" and not since(version, _NAMES_BF16_CACHE):
        if launch.checkpoint_kv in ("", "bf16"):
            return line  # "auto" means bf16 here
        raise InputError(
            f"KV cache dtype bf16 with SGLang {version} for a checkpoint that asks for "
            f"{launch.checkpoint_kv}",
            "allowed before 0.5.9: auto, fp8, fp8_e4m3, fp8_e5m2",
        )
    return line if kv == "auto" else [*line, "--kv-cache-dtype", CAPABILITIES.kv_dtypes[kv]]


def _speculation(deployment: Deployment, launch: Launch) -> list[str]:
    """Return the flags of a draft chain with one candidate per step, plus the verified token.

    The model's MTP heads draft (EAGLE), or a draft model does (STANDALONE).
    Source: docs.sglang.io, advanced_features/speculative_decoding.
    """
    drafted = deployment.speculation
    if drafted is None:
        return []
    line = ["--speculative-algorithm", "EAGLE"]
    if not drafted.own_heads:
        line = ["--speculative-algorithm", "STANDALONE"]
        line += ["--speculative-draft-model-path", launch.draft or drafted.draft]
    line += ["--speculative-num-steps", str(drafted.tokens), "--speculative-eagle-topk", "1"]
    return [*line, "--speculative-num-draft-tokens", str(drafted.tokens + 1)]


def cut(weight: Weight, tp_size: int, device: Device, version: Version | None) -> Shard:
    """Return one rank's shard of `weight`.

    Source: sglang/srt/layers/quantization/, fp8.py, marlin_utils.py, mxfp4.py and moe_wna16.py.
    """
    if weight.dtype == "mxfp4" and weight.experts:
        return _mxfp4_experts(weight, tp_size, device, version)
    if weight.dtype in UNQUANTIZED:
        return replace(weight.sharded(tp_size), refused=even(weight, tp_size))
    nvidia = device.vendor == "nvidia"
    weight_only = weight.dtype == "int4" or (weight.dtype == "int8" and weight.weight_only)
    # Marlin also runs fp8 weights without scale blocks on GPUs without fp8
    unblocked = weight.dtype == "fp8" and min(weight.block) <= 1 and not device.multiplies_fp8
    if nvidia and not weight.experts and (weight_only or unblocked):
        return marlin(weight, tp_size, pads=False)
    return whole_blocks(weight, tp_size)


def _mxfp4_experts(weight: Weight, tp_size: int, device: Device, version: Version | None) -> Shard:
    """Pad fused MXFP4 experts as their kernel requires (layers/quantization/mxfp4.py)."""
    shard = weight.sharded(tp_size)
    if device.vendor == "amd":
        intermediate = hidden = 256
    elif device.is_sm100:
        intermediate = hidden = since(version, (("0", 256), ("0.5.23", 128))) if version else 256
    elif device.multiplies_fp4:
        intermediate = hidden = 128
    else:  # triton_kernels, which pads the hidden size as in vLLM
        intermediate, hidden = 64, 256
    if weight.down:
        return padded(shard, hidden, intermediate)
    return padded(shard, intermediate, hidden)


#: Upper limit of GPU memory in GiB -> (chunked prefill, CUDA graph batch at TP < 4, at TP >= 4).
#: Source: sglang/srt/arg_groups/memory_hook.py of 0.5.23
_BY_MEMORY: Final = (
    (20, 2048, 8, 8),
    (35, 4096, 48, 160),
    (60, 4096, 32, 160),
    (160, 8192, 256, 512),
)
#: The same in 0.5.3 and 0.5.9. Only the CUDA graph batch at 20 to 35 GiB differs.
_BY_MEMORY_BEFORE: Final = ((20, 2048, 8, 8), (35, 2048, 24, 80), *_BY_MEMORY[2:])
_LARGEST: Final = (16384, 512, 512)
#: Largest message of the fused all-reduce: FUSE_ALLREDUCE_MAX_BATCH_SIZE, 2,048 tokens, of
#: DeepSeek-R1's 14 KiB. Those of smaller models are taken to be as many bytes.
_FUSED_BYTES: Final = 28 * MIB
#: Before 0.5: by TP size
_FRACTION_BY_TP: Final = ((16, 0.79), (8, 0.81), (4, 0.85), (2, 0.87), (1, 0.88))


def _by_memory(device: Device, version: Version | None) -> tuple[int, int, int]:
    table = since(version, (("0", _BY_MEMORY_BEFORE), ("0.5.23", _BY_MEMORY)))
    for gib, chunk, narrow, wide in table:
        if device.memory_bytes < gib * GIB:
            return chunk, narrow, wide
    return _LARGEST


def _graph_batch(device: Device, version: Version | None, world_size: int) -> int:
    """Return the largest batch of a copy of attention that runs as a graph by default."""
    _, narrow, wide = _by_memory(device, version)
    return narrow if world_size < 4 else wide


def defaults(device: Device, version: Version | None, world_size: int) -> Defaults:
    """Return SGLang's default limits.

    The memory fraction reserves memory for activations and CUDA graphs, in MiB: 512 + 1.5 per token
    of the chunk + 2 per sequence of the largest graph + 128 per GPU of the replica, and at least
    10 GiB on GPUs above 60 GiB. The limit of running requests follows from the KV cache, from 2048
    to 4096.

    Source: sglang/srt/server_args.py; arg_groups/memory_hook.py in 0.5.23.
    """
    chunk, _, _ = _by_memory(device, version)
    if version is not None and version < Version((0, 5)):
        fraction = next(share for size, share in _FRACTION_BY_TP if world_size >= size)
    else:
        graph = _graph_batch(device, version, world_size)
        reserved = 512 + 1.5 * max(chunk, 2048) + 2 * graph + 128 * world_size
        if device.memory_bytes > 60 * GIB:
            reserved = max(reserved, 10 * 1024)
        total = device.memory_bytes / MIB
        fraction = round((total - reserved) / total, 3) if total else 0.88
    return Defaults(
        max_num_seqs=2048,
        max_num_batched_tokens=chunk,
        memory_fraction=fraction,
        block_size=1,
        source="sglang/srt/server_args.py, sglang/srt/arg_groups/memory_hook.py",
    )


def startup(device: Device, version: Version | None) -> StartupMemory:
    """Return the start-up memory.

    There is no profiling run: the KV cache gets free_before_load x fraction - weights
    (sglang/srt/model_executor/model_runner.py, profile_max_num_token).
    """
    del device, version
    return StartupMemory(
        share="free_before_load",
        context_bytes=Quantity(
            0.6 * GIB,
            0.4 * GIB,
            1.2 * GIB,
            "sglang#4826: 139.2 of 139.8 GiB free before load at TP=1",
        ),
        context_counted=True,
        collective_bytes=Quantity(
            1.8 * GIB,
            1.0 * GIB,
            2.6 * GIB,
            "vllm#21348: 16.46 GiB of KV cache at fraction 0.93 and TP=4 on H100 leave 2.4 GiB for "
            "context and collectives",
        ),
        collective_bytes_without_peers=Quantity(
            0.1 * GIB, 0.04 * GIB, 0.33 * GIB, "assumed equal to vLLM's: vllm#13061, #14452"
        ),
        collective_counted=True,
        graph_bytes=Quantity(
            0.8 * GIB,
            0.13 * GIB,
            4.8 * GIB,
            "assumed equal to vLLM's; reserved by the default fraction",
        ),
        graph_counted=False,
        sampler_bytes_per_logit=Quantity(
            0.0, 0.0, 0.0, "none: no profiling run, the fraction reserves the memory"
        ),
        activation="none: must fit in the memory that the fraction reserves",
    )


def graph_batch_sizes(device: Device, version: Version | None) -> tuple[int, ...]:
    """Return the captured batch sizes without speculation.

    Source: sglang/srt/arg_groups/cuda_graph_hook.py.
    """
    _, largest, _ = _by_memory(device, version)
    sizes = [1, 2, 4, 8, 12, *range(16, 257, 8), *range(272, 512, 16), *range(512, 1025, 32)]
    return tuple(size for size in sizes if size <= largest)


#: first version that captures prompts by default
_PROMPT_GRAPHS_SINCE: Final = "0.5.10"


def _prompt_graphs(device: Device, version: Version | None) -> PromptGraphs:
    """Return what all releases from 0.5.10 to 0.5.23 capture. Some of them also capture MLA, copies
    of attention, drafts or towers, and others do not. With FlashInfer's experts, which are usual on
    data-center Blackwell, 0.5.10 and 0.5.12 capture nothing.

    Without a version nothing counts as captured, as in all measured rows.

    Source: release notes of 0.5.10; sglang/srt/server_args.py, piecewise_cuda_graph_disabled_*;
    sglang/srt/arg_groups/cuda_graph_hook.py in 0.5.23.
    """
    if version is None or version < release(_PROMPT_GRAPHS_SINCE) or device.vendor != "nvidia":
        return PromptGraphs()
    return PromptGraphs(WHOLE_BUDGET, plain_only=True, dense_only=device.is_sm100)


def scheduling(device: Device, version: Version | None) -> Scheduling:
    """Return the scheduling: prefill batches run before decode batches.

    Source: sglang/srt/managers/scheduler.py.
    """
    return Scheduling(
        chunked_prefill=True,
        mixed_batches=False,  # --enable-mixed-chunk is off by default
        prompt_graphs=_prompt_graphs(device, version),
        prefix_caching=True,
        graph_batch_sizes=graph_batch_sizes(device, version),
        all_reduce=AllReduce(
            custom_world_sizes=(2, 4, 6, 8),
            custom_max_bytes=(16 if device.vendor == "amd" else 8) * MIB,
            fused_by_capability={
                capability: dict.fromkeys((2, 4, 8), _FUSED_BYTES)
                for capability in ((9, 0), (10, 0), (10, 3))
            },
            pcie_max_world=2,
            quick_reduce_world_sizes=(2, 4, 8),
            source="sglang/srt/distributed/device_communicators/{custom_all_reduce,"
            "quick_all_reduce}.py; sglang/srt/layers/communicator.py",
        ),
        source="sglang/srt/server_args.py",
    )


CONTEXT_PARALLEL: Final = ContextParallel(
    caches="latent",
    since="0.5.23",
    latent_fp8_since="0.5.23",
    speculation=True,
    vendors=("nvidia",),
    source="docs.sglang.io, advanced_features/dcp; sgl-project/sglang#14194",
)

CAPABILITIES: Final = Capabilities(
    vendors=("nvidia", "amd", "intel", "cpu"),
    pipeline=True,
    experts="divisor",
    attention_dp=True,
    attention_dp_with_tp=True,
    multi_node=True,
    decode_context_parallel=CONTEXT_PARALLEL,
    speculation=("mtp", "draft_model"),
    online_fp8=True,
    weight_dtypes=(
        *("bf16", "fp16", "fp32", "fp8", "int8", "int4", "mxfp8", "mxfp4", "nvfp4"),
        "fp4",
    ),
    kv_dtypes={
        "bf16": "bfloat16",
        "fp8": "fp8_e4m3",
        "fp8_e4m3": "fp8_e4m3",
        "fp8_e5m2": "fp8_e5m2",
    },
    source="sglang/srt/arg_groups/fields/{parallel,model,spec}.py of 0.5.23",
)

SGLANG: Final = Engine(
    name="sglang",
    title="SGLang",
    program=("python", "-m", "sglang.launch_server", "--model-path"),
    module=("sglang.launch_server", "--model-path"),
    packaging=Packaging(
        module="sglang",
        install="pip install 'sglang[all]'",
        images={"cuda": "lmsysorg/sglang:latest", "rocm": "lmsysorg/sglang:latest"},
    ),
    capabilities=CAPABILITIES,
    known=Known("0.4.6", "0.5.23"),
    metrics=Metrics(
        path="/metrics",
        in_flight=("sglang:num_running_reqs", "sglang:num_queue_reqs"),
        progress=("sglang:prompt_tokens_total", "sglang:generation_tokens_total"),
        names={
            "shardwise_ttft_seconds": "sglang:time_to_first_token_seconds",
            "shardwise_itl_seconds": "sglang:inter_token_latency_seconds",
            "shardwise_e2e_latency_seconds": "sglang:e2e_request_latency_seconds",
            "shardwise_requests": "sglang:num_requests",
            "shardwise_requests_running": "sglang:num_running_reqs",
            "shardwise_requests_waiting": "sglang:num_queue_reqs",
            "shardwise_output_tokens": "sglang:generation_tokens",
        },
    ),
    managed=True,
    write_flags=flags,
    settings=settings,
    defaults_at=defaults,
    cut_at=cut,
    startup_at=startup,
    scheduling_at=scheduling,
)
