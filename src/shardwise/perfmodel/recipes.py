"""How public sources started their engines and clients, where their rows do not say.

InferenceX: github.com/SemiAnalysisAI/InferenceX, benchmarks/, one script a model, GPU and engine.
What is not named here ran with its engine's defaults or with what the script passes for the load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from shardwise.layout.deployment import FixedLimits, Layout


class Run(msgspec.Struct, frozen=True):
    """What is asked about: a row's source and configuration; lengths are means."""

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
        limits: Of the engine, as started.
        gather_steps: Decode steps over which the scheduler gathers new requests.
        gather_wait: Steps that a request waits for that, on average.
        extra_in_flight: Requests that the client kept in flight beyond the engine's slots.
        waves: Requests that the client sent, over those in flight; 0: not known.
        whole_experts: Whether experts were kept whole, whatever the row says.
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
#: Steps that TensorRT-LLM holds prompts back for more of them, with 1,024 tokens in and out:
#: `batch_wait_timeout_iters` of 70b_fp8_h200_trt_slurm.sh below TP=8, of dsr1_fp8_b200_trt.sh from
#: 64 to 255 requests in flight; `timeout_iters` of attention_dp_config, whatever the lengths.
_SHORT: Final = 1024.0
_HELD_70B: Final = 20.0
_HELD_DSR1: Final = 40.0
_HELD_DSR1_FROM_TO: Final = (64.0, 256.0)
_HELD_ATTENTION_DP: Final = 60.0
#: minimaxm2.5_fp8_b200.sh and _h200.sh: 0.95, and until April 2026 (vLLM 0.19) the test for expert
#: parallelism was EP_SIZE -ge 1 (B200's; assumed of H200's), which every row passes. At TP=8 no
#: other way starts: 1536 / 8 is no multiple of the fp8 block of 128.
_MINIMAX: Final = FixedLimits(gpu_memory_utilization=0.95)
_MINIMAX_ALWAYS_EP: Final = ("0.16", "0.17", "0.18")


def recipe_of(run: Run) -> Recipe:
    """How a source's row was measured, as far as its scripts or its numbers tell."""
    if "inferencex" in run.source:
        return _INFERENCEX.get(run.engine, _vllm)(run)
    if run.source == "aic_silicon_other" and run.engine == "trtllm":
        # Its TTFT shows no burst at any load. Llama 8B's falls as load rises from 8 to 32 streams
        # and grows with the answers' length: at each of 160 loads it holds one E2E latency over
        # the number of streams, a queue of one.
        return Recipe(extra_in_flight=float(run.model == "llama-3.1-8b"), waves=STEADY)
    return _DEFAULT


#: Requests a stream of a run whose first burst does not show.
STEADY: Final = 30.0


def _polled(steps: float, limits: FixedLimits) -> Recipe:
    """A look for requests every so many steps: one waits for half of them."""
    return Recipe(limits, steps, (steps - 1.0) / 2.0)


def _held(steps: float, run: Run, limits: FixedLimits) -> Recipe:
    """Prompts held back for so many steps after the first of them has come: it waits for all
    steps, those that come meanwhile for half of them."""
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
