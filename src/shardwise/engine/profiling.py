"""Time steps for several TP sizes and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from shardwise.engine import sharding, step_timer
from shardwise.engine.checkpoint import open_checkpoint
from shardwise.engine.engine import Engine
from shardwise.engine.options import EngineOptions
from shardwise.engine.peak_rates import PeakRates
from shardwise.engine.step_timer import RankProfile
from shardwise.errors import InputError


class Question(msgspec.Struct, frozen=True):
    """What to profile: each batch of equal requests at each tp_size."""

    tp_sizes: Sequence[int]
    batches: Sequence[int]
    isl: int
    osl: int
    repeats: int = 10
    emulate: bool = False  #: time one rank's shard without its peers

    def __post_init__(self) -> None:
        for name in ("tp_sizes", "batches"):
            if not getattr(self, name):
                raise InputError(f"0 {name}", "needed: at least 1", field=name)
        for name, value, least in (("isl", self.isl, 1), ("osl", self.osl, 2),
                                   ("repeats", self.repeats, 1),
                                   ("batch", min(self.batches), 1)):  # fmt: skip
            if value < least:
                raise InputError(f"{name} is {value}", f"allowed: {least} or more", field=name)


class Profile(msgspec.Struct, frozen=True):
    """One tp_size and batch: prefill and decode step of every rank, and the ranks' peak rates."""

    tp_size: int
    batch: int
    dtype: str
    device: str
    emulated: bool
    peak_rates: list[PeakRates]
    prefill: list[RankProfile]
    decode: list[RankProfile]


def profile(
    path: Path, question: Question, options: EngineOptions, done: Callable[[str], None]
) -> Iterator[Profile]:
    """Yield a Profile for each tp_size and batch; `done` is called with the name of each.

    A prefill is one step of batch * isl tokens. A decode step is timed in the middle of the answer,
    at a context of isl + osl / 2. Raises InputError before anything is loaded.
    """
    config = open_checkpoint(path, options.random_weights).config
    for tp_size in question.tp_sizes:
        sharding.check_tp_size(config, tp_size)
    if question.isl + question.osl > config.max_context:
        raise InputError(
            f"isl {question.isl} and osl {question.osl}",
            f"together at most {config.max_context} tokens, {config.context_limit}",
        )
    widest, block = max(question.batches), options.block_size
    context = -(-(question.isl + question.osl) // block) * block
    for tp_size in question.tp_sizes:
        emulated = question.emulate and tp_size > 1
        asked = msgspec.structs.replace(
            options,
            tp_size=1 if emulated else tp_size,
            emulate_tp_size=tp_size if emulated else 0,
            kv_cache_tokens=widest * context,
            max_num_batched_tokens=widest * question.isl,
            max_num_seqs=widest,
        )
        with Engine(path, asked) as engine:
            limits = engine.group.collect(step_timer.measure_peak_rates)
            for batch in question.batches:
                done(f"TP={tp_size} batch {batch}")
                prefill = step_timer.prefill_plan(batch, question.isl, block)
                decode = step_timer.decode_plan(batch, question.isl + question.osl // 2, block)
                run = engine.group.collect
                yield Profile(
                    tp_size=tp_size,
                    batch=batch,
                    dtype=engine.dtype,
                    device=str(engine.options.device),
                    emulated=emulated,
                    peak_rates=limits,
                    prefill=run(step_timer.profile_rank, prefill, question.repeats),
                    decode=run(step_timer.profile_rank, decode, question.repeats),
                )
