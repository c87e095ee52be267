"""What differs between a kernel that was timed alone and the same kernel within an engine's step.

The tables' kernels were timed by replaying a CUDA graph several times (ai-dynamo/aiconfigurator,
collector/: vllm/collect_attn.py, trtllm/collect_attn.py, sglang/collect_attn.py,
vllm/collect_moe.py, helper.py). That has two effects which a step does not have:

- A graph of decode attention has a single call, and one of experts has five, so that a call
  includes all or a fifth of a graph's launch. An engine launches one graph for the whole step.
- Decode attention reads the same keys and values in each replay. If they fit in the L2 cache, they
  come from there. In a step, every layer reads a cache of its own, and the weights of all layers
  are read in between, so that keys and values always come from memory.

GEMMs have six calls in a graph, each with its own weights, and are left as they are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec.structs import replace

from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.gpu import Gpu
from shardwise.kernels.provenance import Array, Provenance, Times
from shardwise.perfmodel.coefficients import PRIOR

#: Seconds of a graph's launch in a call of decode attention. Chosen among 0, 2, 3, 4, 5 and 6 us by
#: the errors of left-out families, GPUs and engines, which hardly change between 3 and 6. The
#: fastest calls of the H100's tables take 5.4 us in all.
ATTENTION_LAUNCH_S: Final = 4e-6
#: The same for tables of one GPU and engine. FlashAttention 3 in vLLM's steps on an H100, profiled,
#: takes as long as SGLang's table says, and 3 to 5 us less than vLLM's (docs/step-by-kernel.md).
OWN_LAUNCH_S: Final = {"h100 sglang": 1e-6, "h200 sglang": 1e-6}
#: The same for a call of experts, chosen among 0, 2 and 4 us. Their graph is replayed only once.
EXPERTS_LAUNCH_S: Final = 2e-6
#: Seconds of kernels around GEMMs that the engines' tables include (collectors: vllm, sglang and
#: trtllm/collect_gemm.py) and tuning results do not: the quantization of inputs; sort, activation
#: and sum of experts. Each is as long as any small kernel (`coefficients`).
QUANTIZATION_S: Final = PRIOR["launch"]
AROUND_EXPERTS_S: Final = 3 * PRIOR["launch"]
#: Largest share of a call that is taken for the launch.
LARGEST_SHARE: Final = 0.5
#: Bytes that a call reads, as shares of the L2 cache, up to which all of them and from which none
#: come from the cache. On an H100 (50 MB) all come from it at 34 MB and none at 67.
ALL_CACHED: Final = 0.7
NONE_CACHED: Final = 1.3
#: Tables of these sources are tuning results without launches.
WITHOUT_LAUNCH: Final = ("aiter",)


def alone(times: Times) -> bool:
    """Return whether times are tuning results of single kernels, without launches."""
    return any(name in times.source for name in WITHOUT_LAUNCH)


def whole_product(times: Times, quantized: bool) -> Times:
    """Return times of GEMMs with the quantization of their inputs, if they are `quantized`."""
    if quantized and alone(times):
        return replace(times, seconds=np.asarray(times.seconds + QUANTIZATION_S))
    return times


def whole_experts(times: Times) -> Times:
    """Return times of experts' calls with all kernels of a call, and without the launch."""
    if alone(times):
        return replace(times, seconds=np.asarray(times.seconds + AROUND_EXPERTS_S))
    return without_launch(times, EXPERTS_LAUNCH_S)


def attention_launch_s(times: Times) -> float:
    """Return the seconds of a graph's launch in a call of decode attention."""
    table = " ".join(times.source.split(" ")[:2])
    return OWN_LAUNCH_S.get(table, ATTENTION_LAUNCH_S)


def without_launch(times: Times, launch_s: float) -> Times:
    """Return times without the share of a graph's launch that each call includes.

    Args:
        times: Of a call, from the tables. Times from another GPU's table or from datasheet rates
            are not changed, because nothing is known of launches on the GPU itself.
        launch_s: Seconds of the launch in a call.
    """
    if alone(times):
        return times
    launch = np.minimum(launch_s, LARGEST_SHARE * times.seconds)
    launch = np.where(times.provenance >= Provenance.OTHER_GPU, 0.0, launch)
    return replace(times, seconds=np.asarray(times.seconds - launch))


def from_memory(times: Times, gpu: Gpu, read: Array) -> Times:
    """Return times with reads from memory where the tables' came from the L2 cache.

    Args:
        times: Of calls over sequences and contexts, both increasing: (sequences, contexts).
        gpu: The GPU of the step. The cache is that of the GPU in the table.
        read: Bytes of keys and values that each call reads.
    """
    cache = _cache_bytes(times.source)
    if not cache:
        return times
    cached = np.clip((NONE_CACHED - read / cache) / (NONE_CACHED - ALL_CACHED), 0.0, 1.0)
    seconds = times.seconds + cached * read / gpu.memory_bandwidth
    # where tables rise less at the cache's size than `cached` falls
    for axis in (0, 1):
        seconds = np.maximum.accumulate(seconds, axis)
    return replace(times, seconds=np.asarray(seconds))


def _cache_bytes(source: str) -> float:
    """Return the L2 cache of the GPU of a table; 0 if it is unknown, and without a table."""
    known = default_catalogue().by_id.get(source.partition(" ")[0])
    return known.l2_cache_bytes if known else 0.0
