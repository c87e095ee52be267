"""How public sources started their engines and clients, if their rows do not say.

InferenceX: github.com/SemiAnalysisAI/InferenceX, benchmarks/, one script per model, GPU and engine.
Settings not listed here were the engine's defaults, or followed from the load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.engines.versions import parse, release, since
from shardwise.layout.deployment import FixedLimits, Layout
from shardwise.workload.workload import TRAFFIC_CV


class Run(msgspec.Struct, frozen=True):
    """Source and configuration of a row. Lengths are means, in tokens."""

    source: str
    model: str
    engine: str
    version: str
    layout: Layout
    concurrency: float
    isl: float
    osl: float
    measured_on: str = ""  #: ISO date; "" if the source does not say
    gpu: str = ""  #: id in the catalogue


#: Sources that draw lengths uniformly from 0.8 to 1.0 of the stated ones (`--random-range-ratio
#: 0.8`), with the mean and the standard deviation over the mean: 0.2 / sqrt(12) over 0.9.
_SHORTENED: Final = ("inferencex", "rocm_atom_dashboard")
_SHORTENED_MEAN: Final = 0.9
_SHORTENED_CV: Final = 0.064
#: Stated prompts of ATOM's runs with `--random-range-ratio 1`: equal lengths ("AW" in
#: .github/benchmark/oot_benchmark_models.json of github.com/ROCm/ATOM, May 2026).
_ATOM_EQUAL: Final = (1000.0, 5000.0, 10000.0)


class Lengths(msgspec.Struct, frozen=True):
    """Lengths of a source's requests."""

    mean: float  #: over the stated one
    cv: float | None  #: standard deviation over the mean; None: unknown


def lengths_of(source: str, isl: float) -> Lengths:
    """Return the lengths of requests that `source` states as prompts of `isl` tokens."""
    if not any(name in source for name in _SHORTENED):
        return Lengths(1.0, None)
    if "rocm_atom_dashboard" in source and isl in _ATOM_EQUAL:
        return Lengths(1.0, 0.0)
    return Lengths(_SHORTENED_MEAN, _SHORTENED_CV)


class Recipe(msgspec.Struct, frozen=True):
    """How rows of a source were measured.

    Attributes:
        limits: Engine limits at startup.
        gather_steps: Decode steps over which the scheduler gathers new requests.
        gather_wait: Mean steps that a request waits because of this.
        extra_in_flight: Requests that the client kept in flight beyond the engine's slots.
        waves: Requests that the client sent per request in flight; 0: unknown.
        queued: Requests that were queued at once; 0: unknown.
        whole_experts: Whether the run used expert parallelism even if the row does not say so.
        default_flags: Whether the engine ran with its own default limits.
        copies_attention: Whether the attention of an MoE model ran data parallel even if the row
            does not say so.
        drafted: Whether the run drafted tokens; None: as the row says.
        length_cv: Standard deviation of lengths over their mean; None: as the row says, or unknown.
        kv_dtype: Dtype of the KV cache; "": that of the checkpoint.
        stream_interval: Tokens per chunk that a stream sends after the first token.
        graph_tokens: Tokens of the largest step with prompts that ran as CUDA graphs but for
            attention; NaN: the engine's default.
    """

    limits: FixedLimits = FixedLimits()
    gather_steps: float = 1.0
    gather_wait: float = 0.0
    extra_in_flight: float = 0.0
    waves: float = 0.0
    queued: float = 0.0
    whole_experts: bool = False
    copies_attention: bool = False
    default_flags: bool = False
    drafted: bool | None = None
    length_cv: float | None = None
    kv_dtype: str = ""
    stream_interval: float = 1.0
    graph_tokens: float = math.nan


_DEFAULT: Final = Recipe()
#: GPUStack's lab sends prompts of ShareGPT, whose means are 190 to 240 tokens, or equal lengths.
_SHAREGPT: Final = (150.0, 300.0)
#: `--scheduler-recv-interval` of the SGLang scripts: 10 below 16 requests in flight, else 30
#: (dsr1_fp8_b200.sh, qwen3.5_fp8_b200.sh); DeepSeek-R1 at TP=4 always 10.
_POLLS: Final = (10.0, 30.0)
_POLLS_FROM: Final = 16.0
#: `--stream-interval` of the same scripts.
_SGLANG_STREAMS: Final = 30.0
#: `--chunked-prefill-size` and `--mem-fraction-static` of the same scripts.
_SGLANG: Final = FixedLimits(max_num_batched_tokens=32768, gpu_memory_utilization=0.82)
_SGLANG_DSR1_TP4: Final = FixedLimits(max_num_batched_tokens=8192, gpu_memory_utilization=0.95)
#: `free_gpu_memory_fraction` and `--max_num_tokens` of TensorRT-LLM's scripts by model:
#: gptoss_fp4_h200_trt.sh, 70b_fp8_h200_trt_slurm.sh.
_TRTLLM: Final[Mapping[str, FixedLimits]] = {
    "gpt-oss-120b": FixedLimits(max_num_batched_tokens=20000, gpu_memory_utilization=0.85),
    "llama-3.1-70b": FixedLimits(max_num_batched_tokens=16384),
}
#: `stream_interval` of the same scripts, else 10.
_TRTLLM_STREAMS: Final[Mapping[str, float]] = {"gpt-oss-120b": 20.0}
_TRTLLM_STREAMS_USUALLY: Final = 10.0
#: `free_gpu_memory_fraction` of dsr1_fp8_b200_trt.sh, at TP=4 with prompts of 8,192 and otherwise.
_TRTLLM_DSR1_MEMORY: Final = {True: 0.75, False: 0.8}
#: `MAX_NUM_TOKENS` of dsr1_fp8_b200_trt.sh: requests in flight, the longest prompt and 64 more,
#: rounded up to 64; since 1.2.0rc6 at least 8,192 (_slurm.sh before: no minimum).
_TRTLLM_DSR1_MORE: Final = 64
_TRTLLM_DSR1_LEAST: Final = (("0", 0), ("1.2", 8192))
#: `enable_piecewise_cuda_graph` of dsr1_fp8_b200_trt.sh (1.2.0rc6; not in its predecessor), up to
#: its token limit: from and below so many requests in flight, by the longest prompt and answer.
_TRTLLM_DSR1_GRAPHS: Final[Mapping[tuple[float, float], tuple[float, float]]] = {
    (1024.0, 1024.0): (64.0, 256.0),
    (1024.0, 8192.0): (128.0, 256.0),
    (8192.0, 1024.0): (64.0, math.inf),
}
_TRTLLM_DSR1_GRAPHS_VERSION: Final = "1.2."
#: Steps that TensorRT-LLM delays prompts to batch them. With 1,024 tokens in and out:
#: `batch_wait_timeout_iters` of 70b_fp8_h200_trt_slurm.sh below TP=8, and of dsr1_fp8_b200_trt.sh
#: from 64 to 255 requests in flight. With any lengths: `timeout_iters` of attention_dp_config.
_SHORT: Final = 1024.0
_HELD_70B: Final = 20.0
_HELD_DSR1: Final = 40.0
_HELD_DSR1_FROM_TO: Final = (64.0, 256.0)
_HELD_ATTENTION_DP: Final = 60.0
#: Until November 2025, TensorRT-LLM's scripts of these models set EP to the TP size
#: (`--ep_size=$TP` in gptoss_fp4_h200_trt_slurm.sh, `EP_SIZE="$TP"` in
#: dsr1_fp8_b200_trt_slurm.sh), and the results had neither an EP nor a version. Where the same
#: loads were run again with a stated EP in December, TPOT is the same within 3 %.
_TRTLLM_EP_UNTOLD: Final = ("gpt-oss-120b", "deepseek-r1")
#: Runs with MTP (`spec-decoding: mtp`), from the search spaces in
#: .github/configs/nvidia-master.yaml and their changes in perf-changelog.yaml. DeepSeek-R1 with
#: SGLang: none before 0.5.8. From then on, TP=8 up to 512 in flight with MTP; without, TP=4, and
#: TP=8 up to 64 in flight (4 for prompts of 8,192 tokens). Qwen3.5 in fp8: TP=4 with MTP; TP=8, and
#: TP=4 with whole experts, without. DeepSeek-R1 with TensorRT-LLM: 1.2.0rc6.post3 only with MTP,
#: 1.2.0rc6.post2 and results without a version only without, 1.1.0rc2.post2 from 2026 on.
_SGLANG_MTP_SINCE: Final = ("0.5.8", "0.5.9")
_SGLANG_DSR1_PLAIN_TO: Final = {False: 64.0, True: 4.0}  #: requests in flight, by long prompts
_TRTLLM_DSR1_MTP: Final = "1.2.0rc6.post3"
_TRTLLM_DSR1_BOTH: Final = "1.1.0rc2.post2"
_TRTLLM_DSR1_MTP_FROM: Final = "2026"
#: `max-cudagraph-capture-size`, before `cuda-graph-sizes`, of gptoss_fp4_h100.sh, _h200.sh and
#: _b200.sh.
_GPT_OSS: Final = "gpt-oss-120b"
_GPT_OSS_GRAPHS: Final = 2048.0
#: `kv-cache-dtype` of the same scripts; those of other GPUs leave it to the checkpoint.
_GPT_OSS_KV: Final[Mapping[str, str]] = {"b200": "fp8"}
#: minimaxm2.5_fp8_b200.sh and _h200.sh until April 2026 (vLLM 0.19): memory utilization 0.95, a
#: 16-bit KV cache, and expert parallelism if EP_SIZE -ge 1, which holds for every row; the first
#: script, with vLLM 0.16 at TP=4 on H200, had none. At TP=8 the engine does not start without it:
#: 1536 / 8 is not a multiple of the fp8 block of 128.
_MINIMAX_BEFORE: Final = FixedLimits(gpu_memory_utilization=0.95)
_MINIMAX_BEFORE_VERSIONS: Final = ("0.16", "0.17", "0.18")
_MINIMAX_FIRST: Final = "0.16"
#: The same script for B200 since then: memory utilization 0.9, `--max-num-batched-tokens` twice the
#: longest prompt, `--kv-cache-dtype fp8`, `--stream-interval 20`.
_MINIMAX_MEMORY: Final = 0.9
_MINIMAX_PROMPTS: Final = 2.0
_MINIMAX_STREAMS: Final = 20.0


def recipe_of(run: Run) -> Recipe:
    """Return how a source's row was measured, from its scripts or its numbers."""
    for name, recipe in _SOURCES.items():
        if name in run.source:
            return recipe(run)
    return _DEFAULT


#: Requests of NVIDIA's throughput tables by mean prompt and output, all of equal length
#: (docs/source/performance/perf-overview.md of TensorRT-LLM 0.14 to 1.0, "Preparing a Dataset").
_TRTLLM_PERF_REQUESTS: Final[Mapping[tuple[float, float], float]] = {
    (128.0, 128.0): 30000.0,
    (128.0, 2048.0): 3000.0,
    (128.0, 4096.0): 1500.0,
    (500.0, 2000.0): 3000.0,
    (1000.0, 1000.0): 3000.0,
    (1000.0, 2000.0): 1500.0,
    (1024.0, 2048.0): 1500.0,  # assumed: as 1,000 and 2,000
    (2048.0, 128.0): 3000.0,
    (2048.0, 2048.0): 1500.0,
    (5000.0, 500.0): 1500.0,
    (20000.0, 2000.0): 1000.0,
}
#: `trtllm-bench` sizes the batch for the KV cache, up to 4,096 sequences
#: (tensorrt_llm/bench/build/tuning.py); until 0.15 it read batch sizes of 2,048 to 8,192 from a
#: file.
_TRTLLM_PERF: Final = FixedLimits(max_num_seqs=4096)
#: First version whose options for MoE models contain `enable_attention_dp: true` (same page, "For
#: MoE models"). The tables call these layouts TP.
_TRTLLM_PERF_ATTENTION_DP: Final = "1."


def _trtllm_perf(run: Run) -> Recipe:
    if run.source.endswith("_static"):
        return _DEFAULT
    return Recipe(
        _TRTLLM_PERF,
        queued=_TRTLLM_PERF_REQUESTS.get((run.isl, run.osl), 0.0),
        length_cv=0.0,
        copies_attention=run.version.startswith(_TRTLLM_PERF_ATTENTION_DP),
    )


def _gpustack(run: Run) -> Recipe:
    """Return default flags; prompts of ShareGPT vary as traffic does."""
    low, high = _SHAREGPT
    conversations = low < min(run.isl, run.osl) <= max(run.isl, run.osl) < high
    return Recipe(default_flags=True, length_cv=TRAFFIC_CV if conversations else None)


#: Requests per stream of a run whose TTFT is a median, which the first burst does not change.
_MEDIAN: Final = 1000.0
#: Pages of SGLang's cookbook draw lengths uniformly from 1 to the nominal: their means are half of
#: 1,000, 4,000 and 8,000. TTFT is a median: 155 ms with 64 streams of 3,981 tokens, where a burst
#: of 64 prompts among 320 requests would add 400 ms to the mean.
_COOKBOOK: Final = Recipe(length_cv=0.577, waves=_MEDIAN)
#: Pages of github.com/vllm-project/recipes send 100 requests of equal length (`vllm bench serve`).
_VLLM_RECIPES_REQUESTS: Final = 100.0
#: Requests per stream of a run whose first burst is negligible.
STEADY: Final = 30.0
#: An unknown client, unlike that of the source's other rows. TTFT falls as the load rises from 8 to
#: 32 streams, and grows with the output length. At each of 160 loads it includes the E2E latency
#: divided by the number of streams, which is a queue of one.
_LLAMA_8B: Final = Recipe(extra_in_flight=1.0, waves=STEADY)
#: TensorRT-LLM's token limit in aiconfigurator's benchmarks beyond batch size and prompt
#: (generator/rule_plugin/benchmark/trtllm.rule). Chunked prefill is off, so a step takes whole
#: prompts.
_BEYOND_PROMPT: Final = 1500.0
#: `free_gpu_memory_fraction` of its engine files
#: (generator/config/backend_templates/trtllm/extra_engine_args.1.0.0rc3.yaml.j2).
_GENAI_PERF_MEMORY: Final = 0.8


def _genai_perf(run: Run) -> Recipe:
    """Return the settings of aiconfigurator's client: equal lengths and ten requests per stream
    (eval/benchmarks/genai_perf_runner.py).

    Rows agree: TTFT is a number of prefills that does not depend on the output length and grows by
    one per 20 streams, which is a burst of which every tenth request is part.
    """
    prompts = (run.isl + _BEYOND_PROMPT) // run.isl
    limit = int(run.concurrency + prompts * run.isl)
    limits = FixedLimits(max_num_batched_tokens=limit, gpu_memory_utilization=_GENAI_PERF_MEMORY)
    return Recipe(limits, waves=10.0, length_cv=0.0)


def _aiconfigurator(run: Run) -> Recipe:
    if run.engine != "trtllm":
        return _DEFAULT
    return _LLAMA_8B if run.model == "llama-3.1-8b" else _genai_perf(run)


def _polled(steps: float, limits: FixedLimits) -> Recipe:
    """Poll for requests every `steps` steps; a request waits for half of them on average."""
    return Recipe(limits, steps, (steps - 1.0) / 2.0)


def _held(steps: float, run: Run, limits: FixedLimits) -> Recipe:
    """Delay prompts for `steps` steps after the first arrives. The first waits for all steps; those
    that arrive meanwhile wait for half of them on average."""
    others = steps * run.concurrency / run.osl
    return Recipe(limits, steps, steps * (1.0 + others / 2.0) / (1.0 + others))


def _longest(mean_tokens: float) -> int:
    """Return the longest of InferenceX's lengths with this mean."""
    return round(mean_tokens / _SHORTENED_MEAN)


def _sglang(run: Run) -> Recipe:
    return replace(
        _sglang_settings(run), drafted=_sglang_drafted(run), stream_interval=_SGLANG_STREAMS
    )


def _sglang_drafted(run: Run) -> bool | None:
    """Return whether the run drafted tokens; None where it was measured with and without."""
    tp_size = run.layout.tp_size
    if run.model == "qwen3.5-397b-a17b":
        return tp_size == 4 and not run.layout.expert_parallel
    if run.model != "deepseek-r1":
        return None
    if tp_size == 4 or not run.version.startswith(_SGLANG_MTP_SINCE):
        return False
    return True if run.concurrency > _SGLANG_DSR1_PLAIN_TO[run.isl > _SHORT] else None


def _sglang_settings(run: Run) -> Recipe:
    if (run.model, run.layout.tp_size) == ("deepseek-r1", 4):
        return _polled(_POLLS[0], _SGLANG_DSR1_TP4)
    return _polled(_POLLS[run.concurrency >= _POLLS_FROM], _SGLANG)


def _trtllm(run: Run) -> Recipe:
    return replace(
        _trtllm_settings(run),
        whole_experts=not run.version and run.model in _TRTLLM_EP_UNTOLD,
        drafted=_trtllm_drafted(run),
        stream_interval=_TRTLLM_STREAMS.get(run.model, _TRTLLM_STREAMS_USUALLY),
        graph_tokens=_trtllm_graphs(run),
    )


def _trtllm_graphs(run: Run) -> float:
    if run.model != "deepseek-r1" or not run.version.startswith(_TRTLLM_DSR1_GRAPHS_VERSION):
        return math.nan
    lengths = (float(_longest(run.isl)), float(_longest(run.osl)))
    fewest, most = _TRTLLM_DSR1_GRAPHS.get(lengths, (math.inf, math.inf))
    limit = _trtllm_dsr1_limits(run).max_num_batched_tokens or 0
    return float(limit) if fewest <= run.concurrency < most else 0.0


def _trtllm_drafted(run: Run) -> bool | None:
    if run.model != "deepseek-r1":
        return None
    if run.version == _TRTLLM_DSR1_BOTH:
        return run.measured_on >= _TRTLLM_DSR1_MTP_FROM if run.measured_on else None
    return run.version == _TRTLLM_DSR1_MTP


def _trtllm_settings(run: Run) -> Recipe:
    limits = _TRTLLM.get(run.model, FixedLimits())
    if run.model == "deepseek-r1":
        limits = _trtllm_dsr1_limits(run)
    short = run.isl <= _SHORT and run.osl <= _SHORT
    if run.layout.attention_dp > 1:
        return _held(_HELD_ATTENTION_DP, run, limits)
    if run.model == "llama-3.1-70b" and short and run.layout.tp_size < 8:
        return _held(_HELD_70B, run, limits)
    low, high = _HELD_DSR1_FROM_TO
    if run.model == "deepseek-r1" and short and low <= run.concurrency < high:
        return _held(_HELD_DSR1, run, limits)
    return Recipe(limits)


def _trtllm_dsr1_limits(run: Run) -> FixedLimits:
    steps = _TRTLLM_DSR1_MORE
    tokens = -(-(run.concurrency + _longest(run.isl) + steps) // steps) * steps
    # results without a version are older
    least = since(parse(run.version) or release("0"), _TRTLLM_DSR1_LEAST)
    return FixedLimits(
        max_num_batched_tokens=int(max(tokens, least)),
        gpu_memory_utilization=_TRTLLM_DSR1_MEMORY[run.layout.tp_size == 4 and run.isl > _SHORT],
    )


def _vllm(run: Run) -> Recipe:
    if run.model == _GPT_OSS:
        return Recipe(kv_dtype=_GPT_OSS_KV.get(run.gpu, ""), graph_tokens=_GPT_OSS_GRAPHS)
    if run.model != "minimax-m2.5":
        return _DEFAULT
    if run.version.startswith(_MINIMAX_BEFORE_VERSIONS):
        whole = not run.version.startswith(_MINIMAX_FIRST)
        return Recipe(_MINIMAX_BEFORE, whole_experts=whole, kv_dtype="bf16")
    limits = FixedLimits(
        max_num_batched_tokens=int(_MINIMAX_PROMPTS * _longest(run.isl)),
        gpu_memory_utilization=_MINIMAX_MEMORY,
    )
    return Recipe(limits, kv_dtype="fp8", stream_interval=_MINIMAX_STREAMS)


_INFERENCEX: Final[Mapping[str, Callable[[Run], Recipe]]] = {"sglang": _sglang, "trtllm": _trtllm}


def _inferencex(run: Run) -> Recipe:
    return _INFERENCEX.get(run.engine, _vllm)(run)


#: `--max-num-batched-tokens` of ATOM's nightly runs and its default, and SGLang's on these GPUs.
_ATOM_TOKENS: Final = 16384
#: `--gpu-memory-utilization` for gpt-oss and `--mem-fraction-static`, else 0.9
#: (.github/benchmark/oot_benchmark_models.json, sglang_benchmark_models.json).
_ATOM_GPT_OSS_MEMORY: Final = 0.8
_ATOM_SGLANG_MEMORY: Final = 0.85


def _atom(run: Run) -> Recipe:
    """Return the settings of ATOM's nightly runs. With all engines the KV cache is fp8
    (.github/scripts/atom_oot_test.sh, atom_sglang_test.sh). No script says whether the plugin runs
    prompts as graphs. With vLLM, those of gpt-oss hold decodes up for about 25 ms whether a step
    has fewer or more than vLLM's 1,024 tokens for graphs, so they are taken to be launched."""
    share = _ATOM_SGLANG_MEMORY if run.engine == "sglang" else None
    if (run.engine, run.model) == ("vllm", "gpt-oss-120b"):
        share = _ATOM_GPT_OSS_MEMORY
    return Recipe(
        FixedLimits(None, _ATOM_TOKENS, gpu_memory_utilization=share),
        kv_dtype="fp8",
        graph_tokens=0.0,
    )


#: Recipe by a part of the source's name.
_SOURCES: Final[Mapping[str, Callable[[Run], Recipe]]] = {
    "inferencex": _inferencex,
    "rocm_atom_dashboard": _atom,
    "aic_silicon_other": _aiconfigurator,
    "sgl_cookbook": lambda _: _COOKBOOK,
    "trtllm_perf": _trtllm_perf,
    "vllm_recipes": lambda run: Recipe(
        waves=_VLLM_RECIPES_REQUESTS / run.concurrency, length_cv=0.0
    ),
    "gpustack_performance_lab": _gpustack,
}
