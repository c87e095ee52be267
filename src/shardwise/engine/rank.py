"""One rank: its model shard, KV cache and collectives."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import torch

from shardwise.engine import sharding
from shardwise.engine.attention import LayerCache, StepInputs, prepare
from shardwise.engine.checkpoint import open_checkpoint
from shardwise.engine.collectives import AloneCollectives, Collectives
from shardwise.engine.decode_graphs import DecodeGraphs, Recorder, record_cuda
from shardwise.engine.model import ShardedModel, ShardReader
from shardwise.engine.scheduler import StepPlan

AllReduce = Literal["auto", "shared_memory", "torch"]
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: glibc's parameters for the memory that malloc returns to the kernel, and for the size from which
#: it maps each allocation separately; 32 MB is the maximum of the second
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES, PIECE_BYTES = 2**28, 2**25
T = TypeVar("T")


class GroupSpec(msgspec.Struct, frozen=True):
    """A set of ranks, before any model is loaded."""

    tp_size: int
    device: Literal["cpu", "cuda"] = "cpu"
    all_reduce: AllReduce = "auto"
    threads_per_rank: int = 0  #: 0: the available cores divided by the ranks
    slot_bytes: int = 64 * 2**20  #: largest message through shared memory


class LoadSpec(msgspec.Struct, frozen=True):
    """A model to load on every rank."""

    path: Path
    dtype: str
    num_blocks: int
    block_size: int
    max_model_len: int
    random_weights: bool = False
    emulate_tp_size: int = 0  #: load only rank 0's shard of this tp_size, without peers


class Rank:
    """State of one process: model shard, KV cache and collectives."""

    def __init__(self, spec: GroupSpec, tp_rank: int, collectives: Collectives) -> None:
        self.spec, self.tp_rank, self.collectives = spec, tp_rank, collectives
        self.device = torch.device("cpu")
        self._graphs: DecodeGraphs | None = None
        self.record: Recorder = record_cuda
        if spec.device == "cuda":
            self.device = torch.device("cuda", tp_rank)
            torch.cuda.set_device(self.device)
        torch.set_num_threads(threads_per_rank(spec))
        # by default oneDNN and its wrapper cache code for 1024 row counts: 600 MB per rank
        for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
            os.environ.setdefault(cache, "256")

    def load(self, spec: LoadSpec) -> None:
        """Load this rank's shard and allocate its KV cache."""
        tp_size = spec.emulate_tp_size or self.spec.tp_size
        checkpoint = open_checkpoint(spec.path, spec.random_weights)
        dtype = TORCH_DTYPES[spec.dtype]
        read = ShardReader(checkpoint, tp_size, self.tp_rank, dtype, self.device)
        self._graphs = None
        self.model = ShardedModel(read, spec.max_model_len, self.collectives)
        first, last = sharding.kv_head_range(read.config.num_kv_heads, tp_size, self.tp_rank)
        shape = (spec.block_size, last - first, read.config.head_dim)
        alone = isinstance(self.collectives, AloneCollectives)
        graphs = self.device.type == "cuda" and alone and not read.config.num_experts
        self.caches = [
            LayerCache(spec.num_blocks + graphs, shape, dtype, self.device)
            for _ in range(read.config.num_layers)
        ]
        self.block_size = spec.block_size
        if self.device.type == "cpu":
            _keep_freed_memory()
        if graphs:
            self._scratch_block = spec.num_blocks
            self._graphs = self.graphs(self.record)

    def _logits(self, inputs: StepInputs) -> torch.Tensor:
        logits = self.model.forward(inputs, self.caches)
        assert logits is not None
        return logits

    def graphs(self, record: Recorder) -> DecodeGraphs:
        """Return graphs of decode steps that `record` captures, none of them recorded yet."""
        return DecodeGraphs(
            self._logits,
            self.block_size,
            self._scratch_block,
            self.model.dtype,
            self.device,
            record,
        )

    def replays(self, plan: StepPlan) -> bool:
        """Return whether `plan` runs as a CUDA graph."""
        return self._graphs is not None and self._graphs.fits(plan)

    def forward(self, plan: StepPlan) -> torch.Tensor | None:
        """Return the logits of the plan's wanted rows on rank 0."""
        if self._graphs and self._graphs.fits(plan):
            with torch.inference_mode():
                return self._graphs.run(plan)
        return self.call_by_call(plan)

    def call_by_call(self, plan: StepPlan) -> torch.Tensor | None:
        """Do the same without CUDA graphs, so that each call can be timed."""
        with torch.inference_mode():
            inputs = prepare(plan, self.block_size, self.model.dtype, self.device)
            return self.model.forward(inputs, self.caches)

    def call(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        """Run `work` with this rank in this process."""
        return work(self, *args)


def _keep_freed_memory() -> None:
    """Make malloc keep freed memory for the next step.

    By default glibc returns blocks of many MB to the kernel in each layer, and the kernel clears
    every page of the next block. Keeping them takes 36 instead of 43 ms for a step of 32 sequences
    at 180 tokens of context each (51M parameters, fp32, one Zen 5 core).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, PIECE_BYTES)


def threads_per_rank(spec: GroupSpec) -> int:
    """Return the threads of one rank: as given, else its share of the available cores."""
    return spec.threads_per_rank or max(1, len(os.sched_getaffinity(0)) // spec.tp_size)
