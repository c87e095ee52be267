"""The coefficients of the performance model: what each means, its prior, and how far GPUs differ.

Factors multiply the measured time of a class of kernels, and are 1 where the tables are right;
overheads are seconds. The prior median is where an uncalibrated GPU starts; `spread` is the
standard deviation (of the logarithm) between GPUs and engines, and so sets how strongly
calibration pulls towards shared values.
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
    Coefficient("gemm", 1.0, 0.06, "factor", "on products that wait for their weights"),
    Coefficient("matrix", 1.0, 0.06, "factor", "on products that wait for their arithmetic"),
    Coefficient("experts", 1.0, 0.1, "factor", "on experts that wait for their weights"),
    Coefficient("matrix_experts", 1.0, 0.125, "factor", "on experts that wait for arithmetic"),
    Coefficient("attention_decode", 1.0, 0.1, "factor", "on decoding attention"),
    Coefficient("attention", 1.0, 0.125, "factor", "on prompts' attention"),
    Coefficient("collective", 1.0, 0.1, "factor", "on collectives"),
    Coefficient("elementwise", 1.0, 0.30, "factor", "on the traffic of norms and activations"),
    Coefficient("launch", 1.3e-6, 0.15, "s", "each kernel too small to be timed by itself"),
    Coefficient("eager_layer", 90e-6, 0.60, "s", "host time to launch a layer of a prefill step"),
    Coefficient("skew", 0.5e-6, 0.50, "s", "waiting for each other rank at a collective"),
    Coefficient("step", 500e-6, 0.2, "s", "host and sampling time of a step", "engine"),
    Coefficient("sequence", 10e-6, 0.2, "s", "host time of a sequence in a step", "engine"),
    Coefficient("request", 20e-3, 0.80, "s", "API, tokenizer and stream time", "engine"),
    Coefficient(
        "wait_steps",
        2.0,
        0.80,
        "steps",
        "steps before a request is seen, of one in a closed loop",
        "engine",
    ),
    Coefficient("ahead", 1.0, 1.0, "prompts", "that come in step before a request's own", "engine"),
    Coefficient("handle", 1e-3, 0.60, "s", "server time of a request, serial", "engine"),
    Coefficient("stream", 20e-6, 0.60, "s", "server time of a streamed token, serial", "engine"),
)
COEFFICIENTS: Final[Mapping[str, Coefficient]] = {c.name: c for c in _ALL}
PRIOR: Final[Mapping[str, float]] = {c.name: c.prior for c in _ALL}
