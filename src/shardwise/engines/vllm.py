"""vLLM.

Flags: vllm/engine/arg_utils.py. The sources of releases 0.7.3, 0.8.5, 0.9.2, 0.10.1, 0.11.0,
0.13.0, 0.15.1, 0.19.0, 0.20.0, 0.21.0, 0.24.0, 0.28.0 and 0.32.0 were read; a change is dated to
the first of these that has it.
"""

from __future__ import annotations

from typing import Final

import msgspec
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
from shardwise.engines.prompt_graphs import PromptGraphs
from shardwise.engines.rules import UNQUANTIZED
from shardwise.engines.startup import Quantity, StartupMemory
from shardwise.engines.versions import Known, Version, parse, since
from shardwise.engines.vllm_rules import cut
from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment
from shardwise.units import GIB, MIB

#: first version whose --kv-cache-dtype accepts "bfloat16" (config/cache.py, CacheDType)
_NAMES_BF16_CACHE: Final = (("0", False), ("0.11", True))
#: first versions with --speculative-config instead of single flags, and with "mtp" for all models
_HAS_MTP: Final = (("0", False), ("0.11", True))
#: first version with --nnodes, which needs no Ray
_HAS_NODES: Final = (("0", False), ("0.13", True))
RPC_PORT: Final = 13345  #: port of the examples in vLLM's guide
#: first version with "draft_model" in V1; 0.13 refuses it (issues/31883)
_HAS_DRAFT_MODELS: Final = (("0", False), ("0.15", True))


def flags(deployment: Deployment, launch: Launch, device: Device) -> list[str]:
    """Return the server's flags for a deployment.

    `--max-num-seqs` and `--max-num-batched-tokens` are limits per copy of attention.

    Source: https://docs.vllm.ai/en/latest/cli/serve.html
    """
    layout, limits = deployment.layout, deployment.limits
    line = ["--tensor-parallel-size", str(layout.tp_size)]
    if layout.pp_size > 1:
        line += ["--pipeline-parallel-size", str(layout.pp_size)]
    if layout.attention_dp > 1:
        line += ["--data-parallel-size", str(layout.attention_dp)]
    if layout.dcp_size > 1:
        line += ["--decode-context-parallel-size", str(layout.dcp_size)]
    if layout.ep_size > 1:
        line += ["--enable-expert-parallel"]
    line += _nodes(deployment, launch)
    line += _dtype_flags(deployment, launch)
    if limits.max_model_len:
        line += ["--max-model-len", str(limits.max_model_len)]
    line += ["--max-num-seqs", str(limits.max_num_seqs)]
    if not launch.embeds:
        line += ["--max-num-batched-tokens", str(limits.max_num_batched_tokens)]
    if device.vendor != "cpu":
        line += ["--gpu-memory-utilization", f"{limits.gpu_memory_utilization:g}"]
    return line + _speculation(deployment, launch)


#: AMD generations with AITER's kernels, which are off by default (vllm/envs.py). All tables of
#: experts on them are AITER's; the rows of dense models ran without.
_AITER: Final = frozenset({"cdna3", "cdna4"})
_AITER_ON: Final = Settings(environment={"VLLM_ROCM_USE_AITER": "1"})
#: Kernels of gpt-oss's experts in its calibration rows (InferenceX, gptoss_fp4_h200.sh and
#: _b200.sh) by first version: Marlin instead of Triton, and fp8 instead of 16-bit inputs.
#: Source: docs/features/quantization/online.md; pull/44992 removed the variables.
_MARLIN: Final = (
    ("0", Settings(environment={"VLLM_MXFP4_USE_MARLIN": "1"})),
    ("0.23", Settings(("--moe-backend", "marlin"))),
)
_MXFP8_INPUTS: Final = (
    ("0", Settings(environment={"VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8": "1"})),
    ("0.22", Settings(("--quantization-config", '{"moe":{"activation":"mxfp8"}}'))),
)


def settings(model: Model, deployment: Deployment, device: Device) -> Settings:
    """Return graphs for prompts, and the kernels of experts that the calibration rows used."""
    if device.vendor not in ("nvidia", "amd"):
        return Settings()
    kernels = _experts(model, deployment, device)
    return replace(kernels, flags=(*kernels.flags, *_graphs(model, deployment, device)))


def _experts(model: Model, deployment: Deployment, device: Device) -> Settings:
    version = parse(deployment.engine_version)
    if model.moe is not None and device.generation in _AITER:
        return _AITER_ON
    if model.family != "gpt_oss" or deployment.dtypes.weight not in ("auto", "mxfp4"):
        return Settings()
    if device.capability == (9, 0):
        return since(version, _MARLIN)
    return since(version, _MXFP8_INPUTS) if device.is_sm100 else Settings()


#: Flag for the largest step that runs as graphs, by first version.
_CAPTURE_FLAG: Final = (("0", "--cuda-graph-sizes"), ("0.13", "--max-cudagraph-capture-size"))


def _graphs(model: Model, deployment: Deployment, device: Device) -> list[str]:
    """Return the flag that keeps graphs for prompts where a low `--max-num-seqs` would leave them
    out: vLLM captures steps of up to twice the tokens of its decodes. For the families with a size
    of their own, it does not follow from `--max-num-seqs`.

    Source: vllm/config/vllm.py, _set_cudagraph_sizes; vllm/config/scheduler.py in 0.10.1 and 0.11.0
    """
    version, drafted = parse(deployment.engine_version), deployment.speculation
    graphs, limits = scheduling(device, version).prompt_graphs, deployment.limits
    if model.family in graphs.by_family:
        return []
    wanted = graphs.tokens(model, deployment.layout, drafts=drafted is not None)
    wanted = min(wanted, limits.max_num_batched_tokens)
    decoded = limits.max_num_seqs * (1 + drafted.tokens if drafted else 1)
    if wanted <= max(graph_batch_sizes(device, version, decoded)):
        return []
    return [since(version, _CAPTURE_FLAG), str(wanted)]


def _nodes(deployment: Deployment, launch: Launch) -> list[str]:
    """Return the multi-node flags.

    Source: docs/serving/parallelism_scaling.md, "Running vLLM with MultiProcessing", for pipelines;
    docs/serving/data_parallel_deployment.md for copies of attention.
    """
    if launch.nodes == 1:
        return []
    headless = ["--headless"] if launch.node_rank else []
    copies = deployment.layout.attention_dp
    if copies == 1:
        version = parse(deployment.engine_version)
        if not since(version, _HAS_NODES):
            raise InputError(f"several nodes with vLLM {version}", "allowed from 0.13 on, or Ray")
        line = ["--nnodes", str(launch.nodes), "--node-rank", str(launch.node_rank)]
        return [*line, "--master-addr", launch.head, *headless]
    local = copies // launch.nodes
    line = ["--data-parallel-size-local", str(local), "--data-parallel-address", launch.head]
    line += ["--data-parallel-rpc-port", str(RPC_PORT)]
    if launch.node_rank:
        line += ["--data-parallel-start-rank", str(launch.node_rank * local)]
    return line + headless


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
            f"KV cache dtype bf16 with vLLM {version} for a checkpoint that asks for "
            f"{launch.checkpoint_kv}",
            "allowed before 0.11: auto, fp8, fp8_e4m3, fp8_e5m2",
        )
    return line if kv == "auto" else [*line, "--kv-cache-dtype", CAPABILITIES.kv_dtypes[kv]]


def _speculation(deployment: Deployment, launch: Launch) -> list[str]:
    """Return the speculation flags.

    The model's MTP heads draft, or a draft model with the same vocabulary and TP
    (github.com/vllm-project/vllm/pull/24322). Source: vllm/config/speculative.py.
    """
    drafted = deployment.speculation
    if drafted is None:
        return []
    version = parse(deployment.engine_version)
    first = _HAS_MTP if drafted.own_heads else _HAS_DRAFT_MODELS
    if not since(version, first):
        raise InputError(
            f"speculation {drafted.name} with vLLM {version}",
            f"allowed from {first[-1][0]} on",
            "use a newer version",
        )
    config: dict[str, str | int] = {"method": "mtp"}
    if not drafted.own_heads:
        config = {"method": "draft_model", "model": launch.draft or drafted.draft}
    config["num_speculative_tokens"] = drafted.tokens
    return ["--speculative-config", msgspec.json.encode(config).decode()]


def defaults(device: Device, version: Version | None, world_size: int) -> Defaults:
    """Return the default limits of `vllm serve`.

    Source: vllm/engine/arg_utils.py, get_batch_defaults for OPENAI_API_SERVER.
    """
    big = device.memory_bytes >= 70 * GIB
    if version is not None and version < Version((0, 8)):
        # V0 without chunked prefill: a step takes max_model_len tokens, at least 2048
        seqs, tokens = 256, 2048
    elif device.vendor == "cpu":
        seqs, tokens = 128 * world_size, 2048 * world_size
    elif device.memory_bytes >= 160 * GIB:
        # in 0.28.0, not in 0.24.0
        seqs, tokens = 1024, since(version, (("0", 8192), ("0.28", 16384)))
    elif big and ("a100" not in device.name.lower() or not _spares_a100(version)):
        seqs, tokens = 1024, 8192
    else:
        seqs, tokens = 256, 2048
    return Defaults(
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        memory_fraction=since(version, (("0", 0.9), ("0.20", 0.92))),
        block_size=16,
        source="vllm/engine/arg_utils.py and vllm/config/cache.py",
    )


def _spares_a100(version: Version | None) -> bool:
    """Return whether A100 keeps the small defaults (github.com/vllm-project/vllm/pull/17885)."""
    return since(version, (("0", False), ("0.9", True)))


#: Bytes of the sampler's dummy run per row and vocabulary entry. PyTorch's sampler sorts: 40 bytes
#: (pull/32558: 1.25 GiB for 256 rows of 131,072). Start-up logs agree: 38 from gpt-oss-120b on
#: H100 (vllm#23278: 71.27 GiB usable, 65.97 loaded, -2.14 left, 1,024 rows of 201,088; vllm#27508
#: the same with 1,024 instead of 8,192 tokens a step, so layers add nothing), 41 from Llama-3-8B
#: (pull/10511: 1.26 GiB for 256 rows of 128,256), 45 from Phi-4 (1.16 GiB for 256 of 100,352).
_SORTED: Final = Quantity(
    40.0, 38.0, 45.0, "pull/32558; start-up logs of vllm#23278, vllm#27508, pull/10511"
)
#: The Triton kernel does not sort: 12 bytes in the same table (384 MiB), plus the 16-bit logits.
#: FlashInfer's sampler does not sort either. V1 uses it if FlashInfer is installed, as in the
#: official image, where gpt-oss-120b starts on one H100 with about 58,000 tokens of cache. Before
#: 0.19 the larger value is assumed, which holds for an installation by pip or conda.
UNSORTED: Final = Quantity(14.0, 12.0, 20.0, "pull/32558, merged as pull/33538")


def startup(device: Device, version: Version | None) -> StartupMemory:
    """Return the start-up memory.

    The memory that profiling added is subtracted from the budget. Since 0.11 the snapshot before
    profiling is taken after the process groups exist. Since 0.20 an estimate of the CUDA graphs is
    subtracted too.

    Source: vllm/v1/worker/gpu_worker.py, determine_available_memory.
    """
    del device
    if version is not None and version < Version((0, 7)):
        context = Quantity(
            0.6 * GIB,
            0.4 * GIB,
            1.8 * GIB,
            "vllm#10517: 0.5 GiB on an RTX 3090 besides a forward of 20,000 tokens, 0.6.4; "
            "pull/10511: 1.79 GiB on an H100, 0.6.5",
        )
    else:
        context = Quantity(
            0.16 * GIB, 0.05 * GIB, 0.33 * GIB, "pull/12126, vllm#14452: non_torch_memory 0.16-0.33"
        )
    return StartupMemory(
        share="total",
        context_bytes=context,
        context_counted=True,
        collective_bytes=Quantity(
            1.8 * GIB,
            1.0 * GIB,
            2.6 * GIB,
            "pull/10511: 1.79 GiB more at TP=2 on H100; vllm#13074: 2.55 at TP=8 x PP=2 on H20",
        ),
        collective_bytes_without_peers=Quantity(
            0.1 * GIB, 0.04 * GIB, 0.33 * GIB, "vllm#13061, #14452: RTX 4090 and 5090 over PCIe"
        ),
        collective_counted=since(version, (("0", True), ("0.11", False))),
        graph_bytes=Quantity(
            0.8 * GIB,
            0.13 * GIB,
            4.8 * GIB,
            "logs of 0.19 to 0.21: took 0.34, 0.73, 1.22; estimated 0.36, 0.55, 1.62, 4.77 GiB",
        ),
        graph_counted=since(version, (("0", False), ("0.20", True))),
        sampler_bytes_per_logit=since(version, (("0", _SORTED), ("0.19", UNSORTED))),
        activation=(
            "one forward of max_num_batched_tokens tokens, then the sampler on max_num_seqs rows "
            "of the whole vocabulary on every rank: the larger of the two counts, not their sum"
        ),
    )


#: In MiB. Source: vllm/distributed/device_communicators/all_reduce_utils.py (0.11.0 to 0.32.0)
_CUSTOM: Final = {
    (9, 0): {2: 64 * MIB, 4: 32 * MIB, 6: MIB // 2, 8: MIB // 4},
    (10, 0): {2: 2 * MIB, 4: 2 * MIB, 6: MIB, 8: MIB},
    (10, 3): {2: 4 * MIB, 4: 4 * MIB, 6: 8 * MIB, 8: 4 * MIB},
}
_SYMMETRIC: Final = {
    (9, 0): {2: 64 * MIB, 4: 32 * MIB, 6: 64 * MIB, 8: 64 * MIB},
    (10, 0): {2: 8 * MIB, 4: 32 * MIB, 6: 128 * MIB, 8: 128 * MIB},
    (10, 3): {2: 4 * MIB, 4: 32 * MIB, 6: 32 * MIB, 8: 64 * MIB},
}
#: vllm/compilation/passes/fusion/allreduce_rms_fusion.py (0.32.0)
_FUSED: Final = {
    (9, 0): {2: 64 * MIB, 4: 2 * MIB, 8: MIB // 2},
    (10, 0): {2: 64 * MIB, 4: 32 * MIB, 8: MIB},
    (10, 3): {2: 64 * MIB, 4: 64 * MIB, 8: 4 * MIB},
}
ALL_REDUCE: Final = AllReduce(
    custom_world_sizes=(2, 4, 6, 8),
    custom_max_bytes=8 * MIB,
    by_capability=_CUSTOM,
    symmetric_by_capability=_SYMMETRIC,
    fused_by_capability=_FUSED,
    pcie_max_world=2,
    quick_reduce_world_sizes=(2, 4, 8),
    source=(
        "vllm/distributed/device_communicators/{custom_all_reduce,all_reduce_utils,"
        "quick_all_reduce}.py; quick reduce needs VLLM_ROCM_QUICK_REDUCE_QUANTIZATION"
    ),
)


def graph_batch_sizes(
    device: Device, version: Version | None, max_num_seqs: int = 256
) -> tuple[int, ...]:
    """vllm/config/vllm.py, _set_cudagraph_sizes."""
    largest = since(version, (("0", 512), ("0.28", 1024 if device.is_sm100 else 512)))
    if since(version, (("0", False), ("0.10.1", True))):  # config/scheduler.py before 0.13
        largest = min(2 * max_num_seqs, largest)
    if since(version, (("0", False), ("0.13", True))):
        sizes = [1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)]
    else:
        sizes = [1, 2, 4, *range(8, largest + 1, 8)]
    return tuple(size for size in sizes if size <= largest)


#: Formats of experts whose kernels take quantized inputs.
_GATHERED: Final = ("fp8", "fp8_block", "nvfp4", "w4a8_mxfp4_mxfp8")


def _prompt_graphs(device: Device, version: Version | None) -> PromptGraphs:
    return PromptGraphs(max(graph_batch_sizes(device, version)), {"gpt_oss": 1024})


def scheduling(device: Device, version: Version | None) -> Scheduling:
    """vllm/config/scheduler.py, vllm/config/vllm.py."""
    v1 = since(version, (("0", False), ("0.8", True)))
    return Scheduling(
        chunked_prefill=v1,
        mixed_batches=v1,
        prefix_caching=v1,
        graph_batch_sizes=graph_batch_sizes(device, version),
        all_reduce=ALL_REDUCE,
        source="vllm/config/vllm.py: async scheduling off in 0.13.0, on in 0.15.1; V1 from 0.8 on; "
        "vllm/v1/engine/output_processor.py: RequestOutputCollector merges deltas; "
        "vllm/v1/attention/backends/flash_attn.py: one flash_attn_varlen_func for the whole batch; "
        "flashinfer.py (Blackwell): decodes and prompts apart; docs/design/cuda_graphs.md: prompts "
        "up to the largest captured size run as piecewise graphs; "
        "vllm/model_executor/models/config.py: GptOssForCausalLMConfig; pull/32567 (January 2026): "
        "inputs are quantized before they are gathered",
        merges_output=v1,
        one_attention_call=v1 and device.uses_flash_attention,
        prompt_graphs=_prompt_graphs(device, version) if v1 else PromptGraphs(),
        steps_ahead=since(version, (("0", 0.0), ("0.14", 1.0))),
        gathers_quantized=since(version, (("0", ()), ("0.16", _GATHERED))),
    )


CONTEXT_PARALLEL: Final = ContextParallel(
    caches="any",
    since="0.11",
    latent_fp8_since="0.28",
    speculation=False,
    vendors=("nvidia",),
    source="docs/serving/context_parallel_deployment.md; docs/design/attention_backends.md (no "
    "ROCm backend merges shares); pull/23734 (MLA), pull/24864 and pull/25438 (GQA), pull/44044 "
    "(fp8 latent cache); issues/50391 (no speculation)",
)

CAPABILITIES: Final = Capabilities(
    vendors=("nvidia", "amd", "intel", "cpu"),
    pipeline=True,
    experts="whole",
    attention_dp=True,
    attention_dp_with_tp=True,
    decode_context_parallel=CONTEXT_PARALLEL,
    multi_node=True,
    speculation=("mtp", "draft_model"),
    online_fp8=True,
    weight_dtypes=(
        *("bf16", "fp16", "fp32", "fp8", "int8", "int4", "mxfp8", "mxfp6", "mxfp4", "nvfp4"),
        "fp4",
    ),
    kv_dtypes={
        "bf16": "bfloat16",
        "fp8": "fp8",
        "fp8_e4m3": "fp8_e4m3",
        "fp8_e5m2": "fp8_e5m2",
    },
    source="vllm/engine/arg_utils.py, vllm/config/{parallel,cache,speculative}.py of 0.32.0",
)

VLLM: Final = Engine(
    name="vllm",
    title="vLLM",
    program=("vllm", "serve"),
    module=("vllm.entrypoints.openai.api_server", "--model"),
    packaging=Packaging(
        module="vllm",
        install="pip install vllm",
        images={"cuda": "vllm/vllm-openai:latest", "rocm": "rocm/vllm:latest"},
        api_key_variable="VLLM_API_KEY",
    ),
    capabilities=CAPABILITIES,
    known=Known("0.6", "0.32"),
    metrics=Metrics(
        path="/metrics",
        in_flight=("vllm:num_requests_running", "vllm:num_requests_waiting"),
        progress=(
            "vllm:iteration_tokens_total_count",
            "vllm:prompt_tokens_total",
            "vllm:generation_tokens_total",
        ),
        names={
            "shardwise_ttft_seconds": "vllm:time_to_first_token_seconds",
            "shardwise_itl_seconds": "vllm:inter_token_latency_seconds",
            "shardwise_tpot_seconds": "vllm:request_time_per_output_token_seconds",
            "shardwise_e2e_latency_seconds": "vllm:e2e_request_latency_seconds",
            "shardwise_requests": "vllm:request_success",
            "shardwise_requests_running": "vllm:num_requests_running",
            "shardwise_requests_waiting": "vllm:num_requests_waiting",
            "shardwise_output_tokens": "vllm:generation_tokens",
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
