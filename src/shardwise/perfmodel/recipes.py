"""How public sources started their engines and clients, if their rows do not say.

InferenceX: github.com/SemiAnalysisAI/InferenceX, benchmarks/, one script per model, GPU and engine.
Settings not listed here were the engine's defaults, or followed from the load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from shardwise.layout.deployment import FixedLimits, Layout


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


class Recipe(msgspec.Struct, frozen=True):
    """How rows of a source were measured.

    Attributes:
        limits: Engine limits at startup.
        gather_steps: Decode steps over which the scheduler gathers new requests.
        gather_wait: Mean steps that a request waits because of this.
        extra_in_flight: Requests that the client kept in flight beyond the engine's slots.
        waves: Requests that the client sent per request in flight; 0: unknown.
        whole_experts: Whether the run used expert parallelism even if the row does not say so.
    """

    limits: FixedLimits = FixedLimits()
    gather_steps: float = 1.0
    gather_wait: float = 0.0
    extra_in_flight: float = 0.0
    waves: float = 0.0
    whole_experts: bool = False


_DEFAULT: Final = Recipe()
#: `--scheduler-recv-interval` of the SGLang scripts: 10 below 16 requests in flight, else 30
#: (dsr1_fp8_b200.sh, qwen3.5_fp8_b200.sh); DeepSeek-R1 at TP=4 always 10.
_POLLS: Final = (10.0, 30.0)
_POLLS_FROM: Final = 16.0
#: `--chunked-prefill-size` and `--mem-fraction-static` of the same scripts.
_SGLANG: Final = FixedLimits(max_num_batched_tokens=32768, gpu_memory_utilization=0.82)
_SGLANG_DSR1_TP4: Final = FixedLimits(max_num_batched_tokens=8192, gpu_memory_utilization=0.95)
#: `free_gpu_memory_fraction` and `--max_num_tokens` of TensorRT-LLM's scripts by model:
#: gptoss_fp4_h200_trt.sh, dsr1_fp8_b200_trt.sh (0.75 at TP=4 with prompts of 8,192).
_TRTLLM: Final[Mapping[str, FixedLimits]] = {
    "gpt-oss-120b": FixedLimits(max_num_batched_tokens=20000, gpu_memory_utilization=0.85),
    "deepseek-r1": FixedLimits(gpu_memory_utilization=0.8),
}
_TRTLLM_DSR1_TP4: Final = FixedLimits(gpu_memory_utilization=0.75)
#: Steps that TensorRT-LLM delays prompts to batch them. With 1,024 tokens in and out:
#: `batch_wait_timeout_iters` of 70b_fp8_h200_trt_slurm.sh below TP=8, and of dsr1_fp8_b200_trt.sh
#: from 64 to 255 requests in flight. With any lengths: `timeout_iters` of attention_dp_config.
_SHORT: Final = 1024.0
_HELD_70B: Final = 20.0
_HELD_DSR1: Final = 40.0
_HELD_DSR1_FROM_TO: Final = (64.0, 256.0)
_HELD_ATTENTION_DP: Final = 60.0
#: minimaxm2.5_fp8_b200.sh and _h200.sh: memory utilization 0.95. Until April 2026 (vLLM 0.19), the
#: B200 script enabled expert parallelism if EP_SIZE -ge 1, which holds for every row (assumed for
#: H200 too). At TP=8 the engine does not start without it: 1536 / 8 is not a multiple of the fp8
#: block of 128.
_MINIMAX: Final = FixedLimits(gpu_memory_utilization=0.95)
_MINIMAX_ALWAYS_EP: Final = ("0.16", "0.17", "0.18")


def recipe_of(run: Run) -> Recipe:
    """Return how a source's row was measured, from its scripts or its numbers."""
    if "inferencex" in run.source:
        return _INFERENCEX.get(run.engine, _vllm)(run)
    if run.source == "aic_silicon_other" and run.engine == "trtllm":
        # The TTFT of this source shows no burst at any load. For Llama 8B, it falls as the load
        # rises from 8 to 32 streams, and grows with the output length. At each of 160 loads it
        # includes the E2E latency divided by the number of streams, which is a queue of one.
        return Recipe(extra_in_flight=float(run.model == "llama-3.1-8b"), waves=STEADY)
    return _DEFAULT


#: Requests per stream of a run whose first burst is negligible.
STEADY: Final = 30.0


def _polled(steps: float, limits: FixedLimits) -> Recipe:
    """Poll for requests every `steps` steps; a request waits for half of them on average."""
    return Recipe(limits, steps, (steps - 1.0) / 2.0)


def _held(steps: float, run: Run, limits: FixedLimits) -> Recipe:
    """Delay prompts for `steps` steps after the first arrives. The first waits for all steps; those
    that arrive meanwhile wait for half of them on average."""
    others = steps * run.concurrency / run.osl
    return Recipe(limits, steps, steps * (1.0 + others / 2.0) / (1.0 + others))


def _sglang(run: Run) -> Recipe:
    if (run.model, run.layout.tp_size) == ("deepseek-r1", 4):
        return _polled(_POLLS[0], _SGLANG_DSR1_TP4)
    return _polled(_POLLS[run.concurrency >= _POLLS_FROM], _SGLANG)


def _trtllm(run: Run) -> Recipe:
    limits = _TRTLLM.get(run.model, FixedLimits())
    short = run.isl <= _SHORT and run.osl <= _SHORT
    if run.layout.attention_dp > 1:
        return _held(_HELD_ATTENTION_DP, run, limits)
    if run.model == "llama-3.1-70b" and short and run.layout.tp_size < 8:
        return _held(_HELD_70B, run, limits)
    if run.model == "deepseek-r1":
        low, high = _HELD_DSR1_FROM_TO
        if short and low <= run.concurrency < high:
            return _held(_HELD_DSR1, run, limits)
        if run.layout.tp_size == 4:
            return Recipe(_TRTLLM_DSR1_TP4)
    return Recipe(limits)


def _vllm(run: Run) -> Recipe:
    if run.model == "minimax-m2.5":
        return Recipe(_MINIMAX, whole_experts=run.version.startswith(_MINIMAX_ALWAYS_EP))
    return _DEFAULT


_INFERENCEX: Final[Mapping[str, Callable[[Run], Recipe]]] = {"sglang": _sglang, "trtllm": _trtllm}
