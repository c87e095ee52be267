"""TensorRT-LLM, through `trtllm-serve` and its PyTorch backend.

Flags: tensorrt_llm/commands/serve.py; the YAML file's keys: tensorrt_llm/llmapi/llm_args.py. Read
from GitHub's main between 1.0 and 1.4. Attention data parallelism, chunked prefill, the KV cache
dtype, MTP and the padding of CUDA graphs can only be set in the file.
"""

from __future__ import annotations

import hashlib
from typing import Final

from msgspec.structs import replace

from shardwise.engines.device import Device
from shardwise.engines.engine import Engine
from shardwise.engines.facts import (
    AllReduce,
    Capabilities,
    ConfigFile,
    Defaults,
    Launch,
    Metrics,
    Packaging,
    Scheduling,
)
from shardwise.engines.rules import UNQUANTIZED, Shard, Weight, even, padded, whole_blocks
from shardwise.engines.startup import Quantity, StartupMemory
from shardwise.engines.versions import Known, Version, parse, since
from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment
from shardwise.units import GIB, MIB

#: Key for the number of tokens drafted by MTP: num_nextn_predict_layers in the guides of 1.0 to
#: 1.2, max_draft_len in the examples of 1.4.
_MTP_KEY: Final = (("0", "num_nextn_predict_layers"), ("1.3", "max_draft_len"))
#: first version with `cuda_graph_config`; before, single settings of the PyTorch backend
_HAS_GRAPH_CONFIG: Final = (("0", False), ("1.0", True))


def flags(deployment: Deployment, launch: Launch, device: Device) -> list[str]:
    """Return the server's flags for a deployment.

    TP is the number of GPUs of a stage, with attention sharded over them or copied. The memory
    fraction refers to the memory free after the model is loaded.

    Source: https://nvidia.github.io/TensorRT-LLM/commands/trtllm-serve/trtllm-serve.html
    """
    del device
    layout, limits = deployment.layout, deployment.limits
    line = ["--tp_size", str(layout.stage_gpus)]
    if layout.pp_size > 1:
        line += ["--pp_size", str(layout.pp_size)]
    if layout.ep_size > 1:
        line += ["--ep_size", str(layout.ep_size)]
    line += ["--max_batch_size", str(limits.max_num_seqs)]
    line += ["--max_num_tokens", str(limits.max_num_batched_tokens)]
    if limits.max_model_len:
        line += ["--max_seq_len", str(limits.max_model_len)]
    line += ["--kv_cache_free_gpu_memory_fraction", f"{limits.gpu_memory_utilization:g}"]
    if files := config_files(deployment, launch):
        line += ["--extra_llm_api_options", files[0].name]
    return line


def config_files(deployment: Deployment, launch: Launch) -> tuple[ConfigFile, ...]:
    """Return the YAML file for --extra_llm_api_options; none if flags are enough."""
    lines = []
    if deployment.layout.attention_dp > 1:
        lines += ["enable_attention_dp: true"]
    if _needs_chunks(deployment):
        lines += ["enable_chunked_prefill: true"]
    if dtype := _kv_dtype(deployment, launch):
        # this block overrides the flag, so it must repeat the fraction
        share = deployment.limits.gpu_memory_utilization
        lines += ["kv_cache_config:", f"  dtype: {dtype}", f"  free_gpu_memory_fraction: {share:g}"]
    lines += _speculation(deployment, launch)
    if since(parse(deployment.engine_version), _HAS_GRAPH_CONFIG):
        lines += _graphs(deployment.limits.max_num_seqs)
    if not lines:
        return ()
    text = "\n".join(lines) + "\n"
    # one file for all replicas, and another one where a model on the same node needs other settings
    name = hashlib.sha256(text.encode()).hexdigest()[:6]
    return (ConfigFile(f"trtllm-{name}.yaml", text),)


def _graphs(max_num_seqs: int) -> list[str]:
    """Return CudaGraphConfig for every batch, as in the measured rows. By default, batches are not
    padded: those of 33 to 63, 65 to 127 and more than 128 sequences run without a graph
    (tensorrt_llm/llmapi/llm_args.py).
    """
    lines = ["cuda_graph_config:", "  enable_padding: true"]
    return [*lines, f"  max_batch_size: {max_num_seqs}"]


def _speculation(deployment: Deployment, launch: Launch) -> list[str]:
    """Return MTPDecodingConfig or DraftTargetDecodingConfig (tensorrt_llm/llmapi/llm_args.py)."""
    drafted = deployment.speculation
    if drafted is None:
        return []
    lines = ["speculative_config:"]
    if drafted.own_heads:
        key = since(parse(deployment.engine_version), _MTP_KEY)
        return [*lines, "  decoding_type: MTP", f"  {key}: {drafted.tokens}"]
    lines += ["  decoding_type: Draft_Target", f"  max_draft_len: {drafted.tokens}"]
    return [*lines, f"  speculative_model_dir: {launch.draft or drafted.draft}"]


def _needs_chunks(deployment: Deployment) -> bool:
    """Return whether prompts may exceed a step; if so, chunked prefill must be enabled.

    Without it they are refused (NVIDIA/TensorRT-LLM#4947). Early versions have no flag for it, but
    all versions accept it in the file.
    """
    limits = deployment.limits
    return not 0 < limits.max_model_len <= limits.max_num_batched_tokens


def _kv_dtype(deployment: Deployment, launch: Launch) -> str:
    """Return the file's KV cache dtype, auto or fp8; "" for the default. 16 bits is no value."""
    kv = deployment.dtypes.kv
    if kv == "bf16" and launch.checkpoint_kv not in ("", "bf16"):
        raise InputError(
            f"KV cache dtype bf16 with TensorRT-LLM for a checkpoint that asks for "
            f"{launch.checkpoint_kv}",
            "allowed: auto, fp8",
        )
    return "" if kv in ("auto", "bf16") else CAPABILITIES.kv_dtypes[kv]


def defaults(device: Device, version: Version | None, world_size: int) -> Defaults:
    """Return the default limits, which are the same on every GPU.

    Source: tensorrt_llm/llmapi/llm_args.py.
    """
    del device, version, world_size
    return Defaults(
        max_num_seqs=2048,
        max_num_batched_tokens=8192,
        memory_fraction=0.9,
        block_size=32,
        source="tensorrt_llm/llmapi/llm_args.py: max_batch_size, max_num_tokens, KvCacheConfig",
    )


def cut(weight: Weight, tp_size: int, device: Device, version: Version | None) -> Shard:
    """Return one rank's shard. Scale blocks stay whole, assumed as in vLLM.

    If the assumption is wrong, a layout that works is refused.

    MXFP4 experts are padded to 128, the input of gate and up to 512 on Blackwell
    (tensorrt_llm/_torch/modules/fused_moe/quantization.py, MXFP4WeightTRTLLMGenFusedMoEMethod).
    """
    del version
    if weight.dtype == "mxfp4" and weight.experts:
        hidden = 512 if device.is_sm100 and not weight.down else 128
        return padded(weight.sharded(tp_size), 128, hidden)
    if weight.dtype in UNQUANTIZED:
        return replace(weight.sharded(tp_size), refused=even(weight, tp_size))
    return whole_blocks(weight, tp_size)


def startup(device: Device, version: Version | None) -> StartupMemory:
    """Return the start-up memory: a dry run, then a fraction of the free memory.

    The KV cache gets (total - weights - context - collectives - activations) x fraction. CUDA
    graphs use the rest.

    Source: tensorrt_llm/_torch/pyexecutor/_util.py.
    """
    del device, version
    return StartupMemory(
        share="free_after_load",
        context_bytes=Quantity(
            1.0 * GIB, 0.5 * GIB, 2.0 * GIB, "assumed; 1 GiB more takes 0.9 GiB of KV cache"
        ),
        context_counted=True,
        collective_bytes=Quantity(
            1.0 * GIB, 0.3 * GIB, 2.6 * GIB, "assumed within the range of vLLM's"
        ),
        collective_bytes_without_peers=Quantity(
            0.1 * GIB, 0.04 * GIB, 0.33 * GIB, "assumed equal to vLLM's: vllm#13061, #14452"
        ),
        collective_counted=True,
        graph_bytes=Quantity(0.8 * GIB, 0.13 * GIB, 4.8 * GIB, "assumed equal to vLLM's"),
        graph_counted=False,
        sampler_bytes_per_logit=Quantity(
            12.0, 8.0, 40.0, "assumed: 32-bit logits, softmax and a copy"
        ),
        activation="one forward of max_num_tokens tokens",
    )


#: Captured batch sizes without padding up to the default maximum of 128.
#: Source: tensorrt_llm/llmapi/llm_args.py.
_GRAPHS: Final = (*range(1, 33), 64, 128)


def scheduling(device: Device, version: Version | None) -> Scheduling:
    """Return the scheduling. Chunked prefill is off by default.

    Source: tensorrt_llm/_torch/pyexecutor/py_executor.py.
    """
    del device, version
    return Scheduling(
        chunked_prefill=False,
        mixed_batches=True,
        prefix_caching=True,  # enable_block_reuse
        graph_batch_sizes=_GRAPHS,
        all_reduce=AllReduce(
            custom_world_sizes=(2, 4, 8),
            custom_max_bytes=8 * MIB,
            fused_by_capability={
                capability: {2: 8 * MIB, 4: 8 * MIB, 8: 8 * MIB}
                for capability in ((9, 0), (10, 0), (10, 3))
            },
            source="tensorrt_llm/_torch/distributed/ops.py: AllReduceStrategy AUTO; sizes assumed "
            "equal to vLLM's, since its workspace differs by GPU and world size",
        ),
        source="tensorrt_llm/llmapi/llm_args.py; capacity_scheduler_policy GUARANTEED_NO_EVICT; "
        "tensorrt_llm/_torch/modules/fused_moe/fused_moe_cutlass.py: run_post_quant_allgather",
        reserves_output=True,
        # block scales of fp8 are computed by the experts' kernels
        gathers_quantized=("fp8", "nvfp4", "w4a8_mxfp4_mxfp8"),
    )


CAPABILITIES: Final = Capabilities(
    vendors=("nvidia",),
    pipeline=True,
    experts="divisor",
    attention_dp=True,
    attention_dp_with_tp=False,
    # Helix runs only on decode servers of disaggregated deployments (docs/source/features/helix.md)
    decode_context_parallel=None,
    speculation=("mtp", "draft_model"),
    online_fp8=False,
    weight_dtypes=("bf16", "fp16", "fp32", "fp8", "int8", "int4", "mxfp8", "mxfp4", "nvfp4", "fp4"),
    # https://nvidia.github.io/TensorRT-LLM/reference/support-matrix.html
    native_only=("fp8", "nvfp4", "fp4"),
    kv_dtypes={"bf16": "auto", "fp8": "fp8", "fp8_e4m3": "fp8"},
    source="tensorrt_llm/commands/serve.py, tensorrt_llm/llmapi/llm_args.py",
)

TRTLLM: Final = Engine(
    name="trtllm",
    title="TensorRT-LLM",
    program=("trtllm-serve",),
    module=("tensorrt_llm.commands.serve", "serve"),
    packaging=Packaging(
        module="tensorrt_llm",
        install="pip install tensorrt-llm --extra-index-url https://pypi.nvidia.com",
        images={"cuda": "nvcr.io/nvidia/tensorrt-llm/release:latest"},
    ),
    capabilities=CAPABILITIES,
    known=Known("0.20", "1.4"),
    metrics=Metrics(
        path="/prometheus/metrics",
        in_flight=(),
        names={
            "shardwise_ttft_seconds": "trtllm_time_to_first_token_seconds",
            "shardwise_tpot_seconds": "trtllm_time_per_output_token_seconds",
            "shardwise_e2e_latency_seconds": "trtllm_e2e_request_latency_seconds",
            "shardwise_requests": "trtllm_request_success",
        },
    ),
    write_flags=flags,
    write_files=config_files,
    served_name_flag="",
    defaults_at=defaults,
    cut_at=cut,
    startup_at=startup,
    scheduling_at=scheduling,
)
