"""Disaggregated serving: a pool of prefill instances and a pool of decode instances on one kind of
GPU.

A prefill instance computes the prompt and sends its KV cache over the link between the GPUs to a
decode instance, which generates the answer. No step has both prompts and decodes. vLLM, SGLang and
NVIDIA Dynamo serve this way (Zhong et al., "DistServe", arXiv:2401.09670).

This model was not calibrated: steps are those of `serving_steps`; waiting times are queueing
formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import EngineLimits, Layout
from shardwise.perfmodel.estimate import Subject
from shardwise.perfmodel.loads import Load, Offered, make_load
from shardwise.perfmodel.loop import decode_steps
from shardwise.perfmodel.memory import sequence_bytes
from shardwise.perfmodel.serving import received_s
from shardwise.perfmodel.serving_steps import (
    chunk,
    decode_step,
    fullest_chunk,
    mean_context,
    prefill_step,
    tokens_per_step,
)
from shardwise.perfmodel.work import Array

#: Fixed seconds to transfer a request between instances, without its bytes: assumed. Doubling it
#: adds 2 ms to TTFT and changes nothing else.
HAND_OVER_S: Final = 2e-3
#: Share of the link rate that the transfer of cache blocks reaches: assumed. Halving it doubles the
#: transfer time.
TRANSFER_SHARE: Final = 0.7
MAX_SEQS: Final = 1024.0  #: of a decode instance
#: Mean sequences of a decode instance; below 1, it is idle part of the time.
BATCHES: Final = np.concatenate(
    [np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.75]), np.geomspace(1.0, MAX_SEQS, 120)]
)


class Pools(msgspec.Struct, frozen=True):
    """Instances of each kind and their layouts."""

    prefill: Layout
    prefill_instances: int
    decode: Layout
    decode_instances: int

    @property
    def gpus(self) -> int:
        """GPUs of both pools."""
        prefill = self.prefill_instances * self.prefill.replica_gpus
        return prefill + self.decode_instances * self.decode.replica_gpus

    @property
    def name(self) -> str:
        """Text such as "2 x TP1 prefill + 3 x TP2 decode"."""
        return (
            f"{self.prefill_instances} x {self.prefill.name} prefill + "
            f"{self.decode_instances} x {self.decode.name} decode"
        )


class Requests(msgspec.Struct, frozen=True):
    """Requests of `isl` + `osl` tokens, of which `cached_tokens` are in each prefill instance's
    prefix cache."""

    isl: float
    osl: float
    cached_tokens: float = 0.0


class Times(msgspec.Struct, frozen=True):
    """Times of one instance of each layout; arrays over layouts.

    Attributes:
        prompt_s: Seconds per prompt on a saturated prefill instance.
        own_s: Seconds to prefill a prompt on an idle instance.
        decoding_s: Seconds from a request's first token to its last, (layouts, `BATCHES`).
        held: Sequences that fit in a decode instance's cache.
        cache_bytes: KV cache of a prompt on one rank, in bytes.
    """

    layouts: tuple[Layout, ...]
    prompt_s: Array
    own_s: Array
    decoding_s: Array
    held: Array
    cache_bytes: Array
    tokens_per_step: float


def times(
    subject: Subject, layouts: Sequence[Layout], requests: Requests, limits: EngineLimits
) -> Times:
    """Return the times of instances of `subject` for `requests`, for each of `layouts`.

    Layouts have one pipeline stage.
    """
    setting = subject.setting
    load = _load(subject, layouts, requests, limits, 1)
    nothing = np.zeros(len(layouts))
    full = fullest_chunk(load, nothing)
    alone = chunk(load, nothing, np.ones(len(layouts)))
    wide = _load(subject, layouts, requests, limits, len(BATCHES))
    batches = np.tile(np.maximum(BATCHES, 1.0), len(layouts))
    step = decode_step(setting, wide, batches).total
    return Times(
        layouts=tuple(layouts),
        prompt_s=prefill_step(setting, load, full).total * load.new_tokens / full,
        own_s=prefill_step(setting, load, alone).total * np.ceil(load.new_tokens / alone),
        decoding_s=(step * decode_steps(setting, wide)).reshape(len(layouts), -1),
        held=load.kv_capacity_tokens / mean_context(load),
        cache_bytes=sequence_bytes(
            subject.arch, requests.isl, load.layouts, setting.kv_dtype, subject.draft
        ).max(axis=0),
        tokens_per_step=tokens_per_step(setting),
    )


def _load(
    subject: Subject,
    layouts: Sequence[Layout],
    requests: Requests,
    limits: EngineLimits,
    repeats: int,
) -> Load:
    """Return the load of every layout, repeated `repeats` times."""
    shape = len(layouts) * repeats
    deployments = Deployments(
        Layouts.of(layout for layout in layouts for _ in range(repeats)),
        max_num_seqs=np.full(shape, MAX_SEQS),
        max_num_batched_tokens=np.full(shape, float(limits.max_num_batched_tokens)),
        gpu_memory_utilization=np.full(shape, limits.gpu_memory_utilization),
    )
    offered = Offered(
        np.ones(shape),
        np.full(shape, float(requests.isl)),
        np.full(shape, float(requests.osl)),
        np.full(shape, 10.0),
        cached_tokens=float(requests.cached_tokens),
    )
    kv_dtype = subject.setting.kv_dtype
    return make_load(subject.arch, subject.platform, kv_dtype, deployments, offered, subject.draft)


def transfer_s(subject: Subject, prefill: Layout, decode: Layout, bytes_per_rank: float) -> float:
    """Return the seconds to send a prompt's KV cache from a prefill to a decode instance.

    Each decode rank receives its own part, `bytes_per_rank`. With fewer prefill ranks, one rank
    sends to several. The transfer starts after the last prefill step. Engines that send finished
    layers during the prefill are faster.
    """
    fan_out = max(1.0, decode.replica_gpus / prefill.replica_gpus)
    rate = TRANSFER_SHARE * subject.gpu.interconnect.peer_bandwidth(2)
    return HAND_OVER_S + bytes_per_rank * fan_out / rate


class Served(msgspec.Struct, frozen=True):
    """Predictions for two pools; arrays over the feasible batches of a decode instance.

    Attributes:
        in_flight: Requests in both pools.
        prefill_busy: Utilization of the prefill instances, 0 to 1.
    """

    batch: Array
    in_flight: Array
    ttft_s: Array
    tpot_s: Array
    e2e_latency_s: Array
    output_tok_s: Array
    prefill_busy: Array
    transfer_s: float


def serve(
    subject: Subject, found: Times, pools: Pools, requests: Requests, first_share: float
) -> Served:
    """Predict two pools for each decode batch that memory and the prefill pool allow.

    The decode batch determines the request rate (Little's law over decoding). The rate determines
    how long prompts wait for a prefill instance (M/D/1). Both determine the requests in flight.

    Args:
        subject: Model, GPU and engine.
        found: Result of `times` for the layouts of both pools.
        pools: Instances and layouts.
        requests: Lengths.
        first_share: Share of the requests that are sent at once at the start of the run.
    """
    p, d = found.layouts.index(pools.prefill), found.layouts.index(pools.decode)
    c = subject.setting.coefficients
    decoding = found.decoding_s[d]
    rate = pools.decode_instances * BATCHES / decoding
    busy = rate * found.prompt_s[p] / pools.prefill_instances
    front = rate * (c["handle"] + c["stream"] * requests.osl) / pools.decode_instances
    gains = np.diff(np.maximum.accumulate(rate), prepend=0.0) > 0  # else a smaller batch is better
    possible = gains & (busy < 1.0) & (front < 1.0) & (max(found.held[d], 1.0) >= BATCHES)
    batch, decoding, rate, busy = (x[possible] for x in (BATCHES, decoding, rate, busy))
    waiting = found.prompt_s[p] * busy / (2.0 * (1.0 - busy))
    sent = transfer_s(subject, pools.prefill, pools.decode, float(found.cache_bytes[d]))
    steps = max(requests.osl - 1.0, 1e-6) / found.tokens_per_step
    # a request passes two servers, and a decode step returns its first token
    ttft = (
        2.0 * received_s(subject.setting, requests.isl)
        + waiting
        + found.own_s[p]
        + sent
        + decoding / steps
    )
    in_flight = rate * (ttft + decoding)
    ahead = np.maximum(in_flight / pools.prefill_instances - 1.0, 0.0) / 2.0
    ttft = ttft + first_share * ahead * found.prompt_s[p]
    return Served(
        batch=batch,
        in_flight=rate * (ttft + decoding),
        ttft_s=ttft,
        tpot_s=decoding / max(requests.osl - 1.0, 1e-6),
        e2e_latency_s=ttft + decoding,
        output_tok_s=rate * requests.osl,
        prefill_busy=busy,
        transfer_s=sent,
    )
