"""The coefficients of the performance model: meaning, prior, and spread between GPUs.

Factors multiply the measured time of a kernel class and are 1 if the tables are right; overheads
are in seconds. An uncalibrated GPU starts from the prior median. `spread` is the standard
deviation of the logarithm between GPUs and engines; it sets how strongly calibration pulls towards
shared values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec


class Coefficient(msgspec.Struct, frozen=True):
    """One positive coefficient: prior median, log spread, unit and meaning."""

    name: str
    prior: float
    spread: float
    unit: str
    meaning: str
    varies_by: str = "gpu"  #: "gpu": hardware and kernels; "engine": host code and scheduling


_ALL: Final = (
    Coefficient("gemm", 1.0, 0.06, "factor", "on GEMMs bound by reading weights"),
    Coefficient("matrix", 1.0, 0.06, "factor", "on GEMMs bound by arithmetic"),
    Coefficient("experts", 1.0, 0.1, "factor", "on experts bound by reading weights"),
    Coefficient("matrix_experts", 1.0, 0.125, "factor", "on experts bound by arithmetic"),
    Coefficient("attention_decode", 1.0, 0.1, "factor", "on decode attention"),
    Coefficient("attention", 1.0, 0.125, "factor", "on prefill attention"),
    Coefficient("collective", 1.0, 0.1, "factor", "on collectives"),
    Coefficient("elementwise", 1.0, 0.12, "factor", "on norms and activations of prompts"),
    # vLLM 0.20.2 on H100, profiled steps of one sequence: 2.2 to 2.8 us (docs/step-by-kernel.md).
    # Engines fuse them differently, so their number, and with it this time, varies
    Coefficient("launch", 2.2e-6, 0.4, "s", "each kernel that is too small to be timed separately"),
    # a host launched a kernel of a PyTorch model every 35 us (NVIDIA/TensorRT-LLM#12653); compiled
    # code takes less, a slow host more (docs/vllm-on-h100.md). Chosen among 7 to 20 us by left-out
    # families, GPUs and engines
    Coefficient("eager_kernel", 11e-6, 0.75, "s", "host time to launch a kernel of a prefill step"),
    Coefficient("skew", 0.5e-6, 0.50, "s", "waiting for each other rank at a collective"),
    # chosen among 200 to 500 us by left-out families, GPUs and engines. Of a step of 64
    # sequences, TensorRT-LLM leaves the GPU idle for 580 us (NVIDIA/TensorRT-LLM#13957), vLLM
    # 0.20.2 hardly at all (docs/step-by-kernel.md)
    Coefficient("step", 330e-6, 0.2, "s", "host and sampling time of a step", "engine"),
    # engines prepare the next step while the GPU computes, which hides most of the 10 us per
    # sequence of an engine that does not; chosen among 1 to 10 us by left-out families' throughput
    Coefficient("sequence", 3e-6, 0.2, "s", "host time per sequence in a step", "engine"),
    # of prompts of 550 tokens on an idle server, vLLM 0.20.2 on H100 takes 12 to 15 ms beyond the
    # computed time (docs/vllm-on-h100.md: 8B, 7B)
    Coefficient("request", 12e-3, 0.80, "s", "API and stream time of a request", "engine"),
    # assumed: a tokenizer splits 250,000 tokens/s; doubling the time adds 4 ms per 1,000 tokens
    Coefficient("tokenize", 4e-6, 0.80, "s", "API and tokenizer time per prompt token", "engine"),
    Coefficient(
        "wait_steps",
        2.0,
        0.80,
        "steps",
        "steps before a new request of a closed loop is noticed",
        "engine",
    ),
    Coefficient(
        "ahead",
        1.0,
        1.0,
        "prompts",
        "prompts before a request's own, if the source does not state how lengths vary",
        "engine",
    ),
    Coefficient("handle", 1e-3, 0.60, "s", "serial server time per request", "engine"),
    Coefficient("stream", 20e-6, 0.60, "s", "serial server time per streamed token", "engine"),
)
COEFFICIENTS: Final[Mapping[str, Coefficient]] = {c.name: c for c in _ALL}
PRIOR: Final[Mapping[str, float]] = {c.name: c.prior for c in _ALL}
