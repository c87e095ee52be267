"""Scheduling rules of engines: block size, order of prompts and decodes, graphs, API server."""

from __future__ import annotations

import msgspec
import numpy as np
from msgspec.structs import replace

from shardwise.simulator.trace import Floats

#: vLLM's default capture sizes: 1, 2, 4, every 8 to 256, every 16 to 512 (vllm/config, 0.15).
VLLM_GRAPHS = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
#: SGLang's with padding: 1, 2, 4, 8, every 8 to 160 (cuda_graph_runner.py, 0.5).
SGLANG_GRAPHS = (1, 2, 4, *range(8, 161, 8))


class Scheduling(msgspec.Struct, frozen=True):
    """Rules of one engine. The default has no rounding and no API server."""

    block_tokens: int = 1
    mixed: bool = True  #: prompts run with decodes; else before them, in separate steps
    prefix_caching: bool = True
    #: share of the remaining tokens of running requests that admission keeps free
    reserve: float = 0.0
    graph_sizes: tuple[int, ...] = ()  #: tokens that a step is padded to; above: as it is
    #: seconds of the one API server process per request (HTTP, chat template, tokenizer), and per
    #: output token (detokenizer, one event of the stream)
    request_s: float = 0.0
    token_s: float = 0.0

    def slower(self, factor: float) -> Scheduling:
        """Return the same limits with host times multiplied by `factor`."""
        return replace(self, request_s=self.request_s * factor, token_s=self.token_s * factor)


PLAIN = Scheduling()
#: By engine. vLLM V1: blocks of 16 tokens, decodes and chunks of prompts in one step. SGLang:
#: pages of one token, prompts first, and room for 0.098 of what may still come
#: (SGLANG_INIT_NEW_TOKEN_RATIO 0.7 decayed by SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR 0.14).
#: TensorRT-LLM: blocks of 32 tokens (KvCacheConfig.tokens_per_block).
BY_ENGINE = {
    "vllm": Scheduling(16, graph_sizes=VLLM_GRAPHS),
    "sglang": Scheduling(1, mixed=False, reserve=0.098, graph_sizes=SGLANG_GRAPHS),
    "trtllm": Scheduling(32),
}


def scheduling_of(engine: str, request_s: float = 0.0, token_s: float = 0.0) -> Scheduling:
    """Return the rules of `engine` with these seconds of its API server; for unknown engines, the
    default rules without a server."""
    known = BY_ENGINE.get(engine)
    return replace(known, request_s=request_s, token_s=token_s) if known else PLAIN


def padded(seconds: Floats, sizes: tuple[int, ...], tokens: float = 1.0) -> Floats:
    """`seconds` by number of sequences of so many `tokens` each, read at the next of `sizes` in
    tokens (at itself above them)."""
    at = np.arange(len(seconds))
    if not sizes:
        return seconds
    known = np.array(sizes)
    asked = np.ceil(at * tokens)
    upto = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    fuller = np.maximum(np.floor(known[upto] / tokens).astype(np.int64), at)
    use = np.where((at > 0) & (asked <= known[-1]), fuller, at)
    return np.asarray(seconds[np.minimum(use, len(seconds) - 1)])
