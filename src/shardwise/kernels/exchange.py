"""Expert exchange: send tokens to the ranks of their experts (dispatch) and back (combine)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from shardwise.errors import UnknownNameError
from shardwise.hardware.gpu import Gpu
from shardwise.kernels.evaluate import between_ranks
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array, Sizes, Times
from shardwise.kernels.roofline import Rates

#: DeepEP's high-throughput and low-latency kernels, of its first and second version.
MODES: Final = ("ht", "ll", "v2_ht", "v2_ll")
#: Bytes per element on the wire, scales included.
WIRE_BYTES: Final = {"bf16": 2.0, "fp8": 1.03125, "nvfp4": 0.5625}


def _ideal(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
    """Expected time: a token is sent once to each rank that holds one of its experts."""
    _, top_k, _, ep_size = shape
    reached = ep_size * (1.0 - (1.0 - 1.0 / ep_size) ** top_k)
    return _time(rates, variant, shape, work, reached)


def _bound(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
    return _time(rates, variant, shape, work, np.ones(1))  # all experts of a token on one rank


def _time(
    rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array], reached: Array
) -> Array:
    hidden, _, _, ep_size = shape
    _, dtype = variant.split("/")
    sent = work[0] * reached * (ep_size - 1.0) / ep_size * hidden * WIRE_BYTES[dtype]
    return np.asarray(sent / rates.peers(ep_size))


def _relatives(variant: str) -> list[str]:
    mode, dtype = variant.split("/")
    like = (mode, *(m for m in MODES if m != mode and m[-2:] == mode[-2:]))
    others = tuple(m for m in MODES if m not in like)
    kinds = (dtype, *(d for d in WIRE_BYTES if d != dtype))
    return [f"{m}/{d}" for m in (*like, *others) for d in kinds]


def _operator(name: str) -> Operator:
    return Operator(
        name=name,
        shape=("hidden", "top_k", "experts", "ep_size"),
        weights=(1.0, 0.5, 0.25, 1.0),
        work=("tokens",),
        ideal=_ideal,
        bound=_bound,
        relatives=_relatives,
    )


DISPATCH: Final = _operator("expert_dispatch")
COMBINE: Final = _operator("expert_combine")


def expert_dispatch(
    gpu: Gpu,
    engine: str,
    tokens: Sizes,
    hidden: Sizes,
    top_k: Sizes,
    num_experts: Sizes,
    ep_size: Sizes,
    dtype: str = "bf16",
    mode: str = "ht",
) -> Times:
    """Time to send each rank's tokens to the ranks that hold their experts.

    Measured within one node or NVLink domain only, 4 or 8 ranks.

    Args:
        gpu: A GPU of the catalogue.
        engine: Whose kernels: "vllm" or "trtllm", both DeepEP's.
        tokens: Tokens of each rank.
        hidden: Model width.
        top_k: Experts of each token.
        num_experts: Routed experts of a layer.
        ep_size: Ranks; 1 takes no time.
        dtype: On the wire: "bf16", "fp8" or "nvfp4".
        mode: One of `MODES`: "ll" for decode (measured to 256 tokens), "ht" for prefill.

    Raises:
        UnknownNameError: The dtype or mode is unknown.
        InputError: A size is not positive.
    """
    sizes = ((hidden, top_k, num_experts), ep_size)
    return between_ranks(DISPATCH, gpu, engine, _variant(mode, dtype), sizes, tokens)


def expert_combine(
    gpu: Gpu,
    engine: str,
    tokens: Sizes,
    hidden: Sizes,
    top_k: Sizes,
    num_experts: Sizes,
    ep_size: Sizes,
    dtype: str = "bf16",
    mode: str = "ht",
) -> Times:
    """Time to return the experts' results; arguments and errors as in `expert_dispatch`."""
    sizes = ((hidden, top_k, num_experts), ep_size)
    return between_ranks(COMBINE, gpu, engine, _variant(mode, dtype), sizes, tokens)


def _variant(mode: str, dtype: str) -> str:
    if mode not in MODES:
        raise UnknownNameError("expert exchange mode", mode, MODES)
    if dtype not in WIRE_BYTES:
        raise UnknownNameError("expert exchange dtype", dtype, WIRE_BYTES)
    return f"{mode}/{dtype}"
