"""The KV cache of a start-up log as a fact: what a GPU has less of than predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from shardwise.architecture.model import Model
from shardwise.doctor.startup_check import Flags, flags_of, memory_of, tokens_held
from shardwise.errors import InputError
from shardwise.hardware.gpu import Gpu
from shardwise.node.reading.startup import Startup
from shardwise.units import GIB

#: Weights further apart than this, in percent, are those of another model or dtype.
_SAME_WEIGHTS_PCT: Final = 10.0


class LoggedCache(msgspec.Struct, frozen=True):
    """The cache of one start beside the one predicted with its flags, of one GPU in bytes."""

    flags: Flags
    logged_bytes: float
    predicted_bytes: float

    @property
    def shortfall_bytes(self) -> float:
        """What the log's cache lacks of the predicted; below 0: it is larger."""
        return self.predicted_bytes - self.logged_bytes

    @property
    def note(self) -> str:
        """What was taken from the log, in words."""
        gap = self.shortfall_bytes / GIB
        return (
            f"KV cache from a start-up log: {self.logged_bytes / GIB:.2f} GiB a GPU at "
            f"TP={self.flags.tp_size}, {abs(gap):.2f} GiB {'less' if gap > 0 else 'more'} than "
            "predicted; every layout is given the same difference"
        )


def logged_cache(
    starts: Sequence[Startup],
    model: Model,
    gpu: Gpu,
    engine: str,
    weight_dtype: str = "auto",
    version: str = "",
) -> LoggedCache:
    """The cache of the last start that states one, as `model` on `gpu` keeps its tokens.

    A log that counts tokens is taken by them, so that a plan with its flags holds as many.
    `weight_dtype` is what the log's model was loaded in, `version` the engine's where the log does
    not say it. Raises InputError where no start of
    `engine` states a cache, or where its weights are not those of the model.
    """
    stating = [s for s in starts if tokens_held(s) or s.kv_bytes]
    if not stating:
        raise InputError(
            "the start-up log states no KV cache",
            "wanted: the lines 'GPU KV cache size' or 'Available KV cache memory'",
        )
    start = stating[-1]
    if start.engine != engine:
        raise InputError(
            f"the start-up log is of {start.engine}, the plan of {engine}",
            remedy=f"give --engine {start.engine}",
        )
    flags = flags_of(start, weight_dtype=weight_dtype, version=version)
    made = memory_of(model, gpu, flags)
    if start.weights_bytes:
        off = 100 * (made.weights_bytes / start.weights_bytes - 1)
        if abs(off) > _SAME_WEIGHTS_PCT:
            raise InputError(
                f"the start-up log loaded {start.weights_bytes / GIB:.2f} GiB of weights a GPU; "
                f"{model.id} in {weight_dtype} at TP={flags.tp_size} has "
                f"{made.weights_bytes / GIB:.2f}",
                remedy="give the log's own model and --dtype",
            )
    tokens = tokens_held(start)
    logged = tokens * made.bytes_per_token if tokens else float(start.kv_bytes or 0.0)
    return LoggedCache(flags, logged, made.kv_bytes)
