"""From step times to what a client sees, in the three ways work is offered.

All arguments are float arrays of one shape (or scalars) and lengths are means. The scheduler is
continuous batching with chunked prefill: decodes go first, prompts fill the step's token budget.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shardwise.perfmodel.step import Setting, StepTime, smooth_maximum, step_time
from shardwise.perfmodel.work import Array

FRONT_KNEE: Final = 8.0  #: how sharply the server takes over from the engine as what limits


@dataclass(frozen=True)
class Load:
    """What is offered and what the engine allows, one element a configuration."""

    tp_size: Array
    pp_size: Array
    concurrency: Array
    isl: Array
    osl: Array
    requests: Array  #: in the whole run, the first `concurrency` of them sent at once
    max_num_seqs: Array
    max_num_batched_tokens: Array
    kv_capacity_tokens: Array  #: of one replica
    expert_ranks: Array  #: that whole experts are spread over; 1 where TP cuts them


@dataclass(frozen=True)
class Served:
    """What one replica gives: seconds, tokens/s of the replica, and the causes of E2E latency."""

    ttft_s: Array
    tpot_s: Array
    e2e_latency_s: Array
    output_tok_s: Array
    total_tok_s: Array
    batch: Array  #: sequences resident together
    kv_limited: NDArray[np.bool_]  #: memory admits fewer than were asked
    breakdown: StepTime  #: seconds of E2E latency by cause; queueing is the rest


def _mean_context(load: Load) -> Array:
    return load.isl + load.osl / 2.0


def _resident(load: Load) -> tuple[Array, NDArray[np.bool_]]:
    """Sequences resident together, and whether the KV cache is what limits them."""
    fit = np.maximum(1.0, load.kv_capacity_tokens / _mean_context(load))
    wanted = np.minimum(load.concurrency, load.max_num_seqs)
    return np.minimum(wanted, fit), fit < wanted


def through_stages(
    setting: Setting, pp_size: Array | float, tokens: Array, step: StepTime
) -> StepTime:
    """A step that passes pp_size stages: each further stage has its own host time, and receives
    the hidden vectors of `tokens` tokens over one link."""
    more = pp_size - 1.0
    return replace(
        step,
        overhead=step.overhead + more * setting.coefficients["step"],
        communication=step.communication + more * tokens * hop_s(setting),
    )


def hop_s(setting: Setting) -> float:
    """Seconds to send one token's hidden vector, 16 bits an element, over one link."""
    return 2.0 * setting.arch.hidden_size / setting.gpu.interconnect.peer_bandwidth(2)


def _decode(setting: Setting, load: Load, batch: Array) -> StepTime:
    """A decode step of `batch` sequences; PP runs pp_size micro-batches that follow each other."""
    zero = np.zeros_like(load.isl)
    return _mixed(setting, load, batch, zero)


def _mixed(setting: Setting, load: Load, batch: Array, prompt_tokens: Array) -> StepTime:
    """The same step when `prompt_tokens` are prefilled beside the decodes."""
    sequences = batch / load.pp_size
    step = step_time(
        setting,
        setting.work(load.tp_size),
        load.tp_size,
        sequences,
        _mean_context(load),
        prompt_tokens,
        load.isl / 2.0,
        load.expert_ranks,
    )
    return through_stages(setting, load.pp_size, sequences + prompt_tokens, step)


def _chunk(load: Load, batch: Array, together: Array) -> Array:
    """Prompt tokens of one step when `together` prompts are waiting."""
    room = np.maximum(load.max_num_batched_tokens - batch, 256.0)
    return np.minimum(load.isl * together, room)


def closed_loop(setting: Setting, load: Load) -> Served:
    """`concurrency` requests kept in flight.

    Between two tokens of a request the others' prompts are prefilled: each of the other resident
    requests has one prompt per `osl` tokens, so TPOT = decode step + extra time of a prompt x
    (resident - 1) / osl. The first `concurrency` requests arrive together and are prefilled one
    after the other; their mean wait, half the burst, weighs concurrency / requests of the mean.
    One process handles all requests and tokens, and in no less time than the engine is fed.
    Requests that the KV cache cannot hold wait by Little's law: (C - n) / n service times.
    """
    resident, limited = _resident(load)
    arrivals = resident / load.osl  # prompts per step
    together = arrivals / -np.expm1(-arrivals)  # mean of a Poisson number given at least one
    chunk = _chunk(load, resident, together)
    steps_per_prompt = load.isl / chunk
    own_steps = np.maximum(1.0, steps_per_prompt)
    batch = resident * load.osl / (load.osl + own_steps)

    decode = _decode(setting, load, batch)
    mixed = _mixed(setting, load, batch, chunk)
    extra = mixed.plus(decode.scaled(-1.0)).scaled(steps_per_prompt / load.pp_size)
    per_token = (resident - 1.0) / load.osl
    token = decode.plus(extra.scaled(per_token))
    tpot = token.total

    c = setting.coefficients
    full = _chunk(load, np.zeros_like(resident), load.max_num_batched_tokens / load.isl)
    burst = _mixed(setting, load, np.zeros_like(resident), full).total * load.isl / full
    first_wave = np.minimum(1.0, load.concurrency / load.requests)
    ttft = (
        c["request"]
        + c["wait_steps"] * decode.total
        + mixed.total * own_steps
        + first_wave * (resident - 1.0) / 2.0 * (burst + c["handle"])
    )
    service = ttft + tpot * (load.osl - 1.0)
    ttft = ttft + service * (load.concurrency - resident) / resident
    ttft = ttft + c["held_slots"] * service / load.concurrency
    decoding = tpot * (load.osl - 1.0)
    # one process takes requests in and streams their tokens: where it is slower than the engine,
    # every token waits there for as long, which TTFT shows and TPOT does not
    front = (c["handle"] + c["stream"] * load.osl) * load.concurrency
    e2e = smooth_maximum(ttft + decoding, front, FRONT_KNEE)
    ttft = e2e - decoding
    output = load.concurrency * load.osl / e2e
    causes = mixed.scaled(own_steps).plus(token.scaled(load.osl - 1.0))
    return Served(
        ttft, tpot, e2e, output, output * (1 + load.isl / load.osl), resident, limited, causes
    )


def static_batch(setting: Setting, load: Load) -> Served:
    """`concurrency` equal requests start together; E2E is until the last token of the last one."""
    resident, limited = _resident(load)
    waves = load.concurrency / resident
    decode = _decode(setting, load, resident)
    chunk = _chunk(load, np.zeros_like(resident), resident)
    prefill_steps = load.concurrency * load.isl / chunk
    prefill = _mixed(setting, load, np.zeros_like(resident), chunk).scaled(prefill_steps)
    causes = prefill.plus(decode.scaled((load.osl - 1.0) * waves))
    ttft = prefill.total
    e2e = causes.total
    tpot = (e2e - ttft) / np.maximum(load.osl - 1.0, 1.0)
    output = load.concurrency * load.osl / e2e
    return Served(
        ttft, tpot, e2e, output, output * (1 + load.isl / load.osl), resident, limited, causes
    )


def max_throughput(setting: Setting, load: Load) -> Served:
    """All requests queued at once: the steady batch is what memory and max_num_seqs admit."""
    resident, limited = _resident(load)
    chunk = _chunk(load, resident, np.maximum(1.0, resident / load.osl))
    decode = _decode(setting, load, resident)
    mixed = _mixed(setting, load, resident, chunk)
    extra = mixed.plus(decode.scaled(-1.0)).scaled(load.isl / chunk / load.pp_size)
    token = decode.plus(extra.scaled(resident / load.osl))
    tpot = token.total
    output = resident / tpot
    service = mixed.total + tpot * (load.osl - 1.0)
    queue = np.maximum(load.concurrency / resident - 1.0, 0.0) * service / 2.0
    causes = mixed.plus(token.scaled(load.osl - 1.0))
    return Served(
        mixed.total + queue,
        tpot,
        service + queue,
        output,
        output * (1 + load.isl / load.osl),
        resident,
        limited,
        causes,
    )
