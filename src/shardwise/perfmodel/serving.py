"""From step times to TTFT, TPOT, E2E latency and throughput, in three load modes.

All arguments are float arrays of one shape (or scalars). Lengths are means, in tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shardwise.perfmodel.emptying import emptying_s
from shardwise.perfmodel.in_step import in_step, share_in_step
from shardwise.perfmodel.loads import Load
from shardwise.perfmodel.loop import Loop, decode_steps, decoded, settled
from shardwise.perfmodel.residency import resident_in_loop, resident_in_queue
from shardwise.perfmodel.serving_steps import (
    chunk,
    decode_step,
    fullest_chunk,
    prefill_step,
    tokens_per_step,
)
from shardwise.perfmodel.step import Steps, StepTime, smooth_maximum
from shardwise.perfmodel.work import Array

FRONT_KNEE: Final = 8.0  #: sharpness of the transition from engine-bound to API-server-bound


class Served(msgspec.Struct, frozen=True):
    """Predictions for one replica: seconds, tokens/s, and the causes of E2E latency."""

    ttft_s: Array
    tpot_s: Array
    e2e_latency_s: Array
    output_tok_s: Array
    total_tok_s: Array
    batch: Array  #: sequences resident at the same time
    kv_limited: NDArray[np.bool_]  #: the KV cache holds fewer sequences than requested
    in_step: NDArray[np.bool_]  #: several requests of equal length start and end together
    breakdown: StepTime  #: seconds of E2E latency by cause; queueing is the rest

    def part(self, chosen: slice) -> Served:
        """Return a slice of the configurations."""
        cut = {name: getattr(self, name) for name in self.__struct_fields__ if name != "breakdown"}
        causes = StepTime(
            *(getattr(self.breakdown, name)[chosen] for name in StepTime.__struct_fields__)
        )
        return Served(**{name: values[chosen] for name, values in cut.items()}, breakdown=causes)


def closed_loop(setting: Steps, load: Load) -> Served:
    """Predict a closed loop with `concurrency` requests in flight.

    - A request is sent when its predecessor ends. It waits for the step that has just begun, then
      its prompt shares steps with the decodes of others. Later its decodes wait for their prompts.
    - The first `concurrency` requests arrive together and are prefilled one after the other. Their
      mean wait is half the burst and has weight concurrency / requests in the mean. If lengths are
      equal, so are those of every later wave (`in_step`).
    - One API process handles all requests and tokens. If it is slower than the engine, it limits
      the loop.
    - Requests beyond the KV cache wait by Little's law: (C - n) / n service times, for concurrency
      C and n resident sequences. Some of them wait between two tokens, because they were preempted.
    """
    c = setting.coefficients
    held = resident_in_loop(load)
    resident = held.sequences
    share = share_in_step(load)
    outside = received_s(setting, load.isl) + _ahead_s(setting, load, resident)
    # a lone request finds no running step; the wait is relative to its own decode steps
    steps = c["wait_steps"] + load.gather_wait + load.steps_ahead
    waiting = steps * (1.0 - 1.0 / resident) / decode_steps(setting, load)
    loop = settled(setting, load, resident, outside, waiting, recomputed=held.recomputed)
    decoding, token, causes = loop.decoding_s, loop.token.total, _causes(load, loop)
    ttft = outside + loop.turn.prefill.total + waiting * decoding + loop.backlog_s
    if np.any(share > 0.0):
        wave = in_step(setting, load, resident, received_s(setting, load.isl))
        ttft = ttft + share * (wave.ttft_s - ttft)
        decoding = decoding + share * (wave.decoding_s - decoding)
        token = token + share * (wave.decoding_s / decoded(load) - token)
        causes = causes.scaled(1.0 - share).plus(wave.causes.scaled(share))
    service = ttft + decoding
    between = service * held.waiting_between(load.concurrency)
    ttft = ttft + service * (load.concurrency / resident - 1.0) - between
    decoding, token = decoding + between, token + between / decoded(load)
    # one process receives requests and streams tokens; if it is slower than the engine, every token
    # is delayed equally, which increases TTFT but not TPOT
    streamed = np.where(load.merges_output, 0.0, load.osl / load.stream_interval)
    front = (c["handle"] + c["stream"] * streamed) * load.concurrency
    e2e = smooth_maximum(ttft + decoding, front, FRONT_KNEE)
    served = _served(load, token, causes, (resident, held.limited), e2e - decoding, e2e)
    return replace(served, in_step=(share == 1.0) & (load.concurrency > 1.0))


def received_s(setting: Steps, prompt_tokens: Array | float) -> Array:
    """Return the seconds per request in the API server: a fixed time, and tokenization of the whole
    prompt including cached tokens."""
    c = setting.coefficients
    return np.asarray(c["request"] + c["tokenize"] * prompt_tokens)


def _ahead_s(setting: Steps, load: Load, resident: Array) -> Array:
    """Return the mean seconds that a request waits for earlier prompts.

    The first requests are sent at once and are weighted by their share of the run. If a source does
    not state how its lengths vary, some requests may stay in step after that; how many is fitted.
    """
    full = fullest_chunk(load, np.zeros_like(resident))
    prompt = prefill_step(setting, load, full).total * load.new_tokens / full
    others = resident - 1.0
    first = np.minimum(1.0, load.concurrency / load.requests)
    burst = first * others / 2.0 * (prompt + setting.coefficients["handle"])
    ahead = setting.coefficients["ahead"]
    waits = np.where(load.lengths_told, 0.0, ahead * others / (others + ahead))
    return np.asarray(burst + waits * prompt)


def _causes(load: Load, loop: Loop) -> StepTime:
    """Return the steps of a request: its own prompt, and its tokens with others' prompts."""
    return loop.turn.prefill.plus(loop.token.scaled(load.osl - 1.0))


def _served(
    load: Load,
    token: Array,
    causes: StepTime,
    batch: tuple[Array, NDArray[np.bool_]],
    ttft: Array,
    e2e: Array,
) -> Served:
    """Return the predictions of a loop that serves `concurrency` requests every `e2e` seconds."""
    output = load.concurrency * load.osl / e2e
    total = output * (1 + load.isl / load.osl)
    return Served(ttft, token, e2e, output, total, *batch, np.zeros_like(batch[1]), causes)


def static_batch(setting: Steps, load: Load) -> Served:
    """Predict `concurrency` equal requests that start together. E2E latency is the time to the last
    token of the last request."""
    load = replace(load, length_cv=0.0)
    held = resident_in_queue(load)
    resident, limited = held.sequences, held.limited
    waves = load.concurrency / resident
    decode = decode_step(setting, load, resident)
    tokens = chunk(load, np.zeros_like(resident), resident)
    prefill_steps = load.concurrency * load.new_tokens / tokens
    prefill = prefill_step(setting, load, tokens).scaled(prefill_steps)
    steps = (load.osl - 1.0) / tokens_per_step(setting)
    causes = prefill.plus(decode.scaled(steps * waves))
    ttft = prefill.total
    e2e = causes.total
    tpot = (e2e - ttft) / np.maximum(load.osl - 1.0, 1.0)
    output = load.concurrency * load.osl / e2e
    total = output * (1 + load.isl / load.osl)
    together = np.zeros_like(limited)
    return Served(ttft, tpot, e2e, output, total, resident, limited, together, causes)


def max_throughput(setting: Steps, load: Load) -> Served:
    """Predict requests that are all queued at once. Memory and max_num_seqs limit the batch. On
    average, a request waits for half of those beyond the batch. Requests of equal length that were
    admitted together end together, in every replica of attention, so that their successors'
    prompts fill steps. Throughput is that of the whole run, whose last sequences run in an ever
    smaller batch."""
    held = resident_in_queue(load)
    resident, limited = held.sequences, held.limited
    share = share_in_step(load)
    loop = settled(setting, load, resident, grouped=share, recomputed=held.recomputed)
    own = loop.turn.prefill.total + loop.backlog_s
    service = own + loop.decoding_s
    queue = np.maximum(load.concurrency / resident - 1.0, 0.0) * service / 2.0
    batch, causes = (resident, limited), _causes(load, loop)
    served = _served(load, loop.token.total, causes, batch, own + queue, service + queue)
    run = load.concurrency * service / resident + emptying_s(setting, load, resident)
    if np.any(share > 0.0):
        run = run + share * (_waves_s(setting, load, resident, service) - run)
    output = load.concurrency * load.osl / run
    return replace(served, output_tok_s=output, total_tok_s=output * (1 + load.isl / load.osl))


def _waves_s(setting: Steps, load: Load, resident: Array, service: Array) -> Array:
    """Return the seconds of a run whose requests are of equal length and all queued at once: whole
    waves of `resident` requests that take `service` seconds each, and a last one of the rest."""
    whole = np.floor(load.concurrency / resident * (1.0 + 1e-9))
    rest = np.clip(load.concurrency - whole * resident, 0.0, resident)
    last = settled(setting, load, np.maximum(rest, 1.0), grouped=1.0)
    last_s = last.turn.prefill.total + last.backlog_s + last.decoding_s
    return np.asarray(whole * service + np.where(rest >= 1.0, last_s, 0.0))


#: Prediction function by load mode.
SERVE: Final[Mapping[str, Callable[[Steps, Load], Served]]] = {
    "closed_loop": closed_loop,
    "static_batch": static_batch,
    "max_throughput": max_throughput,
}
