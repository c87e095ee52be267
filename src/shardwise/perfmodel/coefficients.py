"""The coefficients of the performance model: what each means, its prior, and how far GPUs differ.

Efficiencies are shares of a datasheet rate and so carry over from one GPU to another; overheads
are seconds. The prior median is where an uncalibrated GPU starts; `spread` is the standard
deviation (of the logarithm) between GPUs and engines, and so sets both how strongly calibration
pulls towards shared values and how wide the interval of an uncalibrated GPU is.

bandwidth_kv_fp8: what FlashAttention and FlashInfer read of an fp8 cache in the time of a bf16 one
(github.com/vllm-project/vllm/pull/43232; tests/perfmodel/test_hierarchy.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Coefficient:
    """One positive coefficient: prior median, log spread, unit and meaning."""

    name: str
    prior: float
    spread: float
    unit: str
    meaning: str
    varies_by: str = "gpu"  #: "gpu": hardware and kernels; "engine": host code and scheduling


_ALL: Final = (
    Coefficient("bandwidth", 0.78, 0.12, "share", "memory bandwidth reached by bf16 weights"),
    Coefficient("bandwidth_fp8", 0.95, 0.08, "share", "of that, reached by fp8 weights"),
    Coefficient("bandwidth_fp4", 0.85, 0.15, "share", "of that, reached by 4-bit weights"),
    Coefficient("bandwidth_experts", 0.90, 0.25, "share", "of those, reached by MoE experts"),
    Coefficient("bandwidth_kv", 0.70, 0.20, "share", "memory bandwidth reached by the KV cache"),
    Coefficient("bandwidth_kv_fp8", 0.70, 0.15, "share", "of that, reached by an fp8 cache"),
    Coefficient("tile_fp8", 0.02, 1.0, "share", "extra fp8 weight time above 16 tokens a step"),
    Coefficient("matrix", 0.72, 0.12, "share", "matrix rate reached in bf16"),
    Coefficient("matrix_fp8", 0.88, 0.10, "share", "of that share, reached in fp8"),
    Coefficient("matrix_fp4", 0.75, 0.20, "share", "of that share, reached in fp4"),
    Coefficient("matrix_experts", 0.40, 0.40, "share", "of those, reached by MoE experts"),
    Coefficient("small_batch", 0.60, 0.60, "share", "extra matrix time when tokens are few"),
    Coefficient("attention", 0.45, 0.25, "share", "bf16 matrix rate reached by prefill attention"),
    Coefficient("elementwise", 6.0, 0.40, "passes", "activation traffic of one layer"),
    Coefficient("layer", 20e-6, 0.40, "s", "launch gaps of a layer"),
    Coefficient("eager_layer", 90e-6, 0.60, "s", "host time to launch a layer of a prefill step"),
    Coefficient("collective", 1.0, 0.10, "share", "of a small all-reduce's measured time"),
    Coefficient("bulk", 1.0, 0.20, "share", "of a large all-reduce's measured time"),
    Coefficient("skew", 0.5e-6, 0.50, "s", "waiting for each other rank at a collective"),
    Coefficient("step", 900e-6, 0.40, "s", "host and sampling time of a step", "engine"),
    Coefficient("sequence", 10e-6, 0.40, "s", "host time of a sequence in a step", "engine"),
    Coefficient("request", 20e-3, 0.50, "s", "API, tokenizer and stream time", "engine"),
    Coefficient(
        "wait_steps",
        2.0,
        0.40,
        "steps",
        "steps before a request is seen, of one in a closed loop",
        "engine",
    ),
    Coefficient("handle", 1e-3, 0.40, "s", "server time of a request, serial", "engine"),
    Coefficient("stream", 20e-6, 0.40, "s", "server time of a streamed token, serial", "engine"),
    Coefficient("held_slots", 0.5, 0.80, "slots", "batch slots a wave leaves unused", "engine"),
)
COEFFICIENTS: Final[Mapping[str, Coefficient]] = {c.name: c for c in _ALL}
PRIOR: Final[Mapping[str, float]] = {c.name: c.prior for c in _ALL}
