"""Use the KV cache of a start-up log: its difference from the prediction."""

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

#: If weights differ by more than this percentage, the log is of another model or dtype.
_SAME_WEIGHTS_PCT: Final = 10.0


class LoggedCache(msgspec.Struct, frozen=True):
    """The cache of one start and its prediction with the same flags, in bytes per GPU."""

    flags: Flags
    logged_bytes: float
    predicted_bytes: float

    @property
    def shortfall_bytes(self) -> float:
        """Predicted minus logged cache; negative if the logged one is larger."""
        return self.predicted_bytes - self.logged_bytes

    @property
    def note(self) -> str:
        """Describe what was taken from the log."""
        gap = self.shortfall_bytes / GIB
        return (
            f"KV cache from a start-up log: {self.logged_bytes / GIB:.2f} GiB per GPU at "
            f"TP={self.flags.tp_size}, {abs(gap):.2f} GiB {'less' if gap > 0 else 'more'} than "
            "predicted; the same difference applies to every layout"
        )


def logged_cache(
    starts: Sequence[Startup],
    model: Model,
    gpu: Gpu,
    engine: str,
    weight_dtype: str = "auto",
    version: str = "",
) -> LoggedCache:
    """Return the cache of the last start that states one, for `model` on `gpu`.

    A log that counts tokens is taken by them, so that a plan with its flags holds as many.
    `weight_dtype` is what the log's model was loaded in, `version` the engine's where the log does
    not say it. Raises InputError where no start of
    `engine` states a cache, or where its weights are not those of the model.
    """
    stating = [s for s in starts if tokens_held(s) or s.kv_bytes]
    if not stating:
        raise InputError(
            "the start-up log does not state the KV cache",
            "needed: the lines 'GPU KV cache size' or 'Available KV cache memory'",
        )
    start = stating[-1]
    if start.engine != engine:
        raise InputError(
            f"the start-up log is from {start.engine}, but the plan uses {engine}",
            remedy=f"pass --engine {start.engine}",
        )
    flags = flags_of(start, weight_dtype=weight_dtype, version=version)
    made = memory_of(model, gpu, flags)
    if start.weights_bytes:
        off = 100 * (made.weights_bytes / start.weights_bytes - 1)
        if abs(off) > _SAME_WEIGHTS_PCT:
            raise InputError(
                f"the start-up log loaded {start.weights_bytes / GIB:.2f} GiB of weights per GPU; "
                f"{model.id} in {weight_dtype} at TP={flags.tp_size} has "
                f"{made.weights_bytes / GIB:.2f}",
                remedy="pass the log's model and --dtype",
            )
    tokens = tokens_held(start)
    logged = tokens * made.bytes_per_token if tokens else float(start.kv_bytes or 0.0)
    return LoggedCache(flags, logged, made.kv_bytes)
