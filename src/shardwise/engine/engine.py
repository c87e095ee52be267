"""The engine: requests in, tokens out, one `step()` at a time."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from shardwise.engine import sharding
from shardwise.engine.checkpoint import open_checkpoint
from shardwise.engine.config import ModelConfig
from shardwise.engine.ranks import AllReduce, GroupSpec, LoadSpec, RankGroup
from shardwise.engine.sampling import sample
from shardwise.engine.scheduler import SamplingParams, Scheduler, Segment, Sequence, StepPlan
from shardwise.errors import DoesNotFitError, InputError

FinishReason = Literal["stop", "length"]
DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
#: resident size of a rank process before any weight: Python, torch and its threads, measured
RANK_PROCESS_BYTES = 350e6


@dataclass(frozen=True)
class EngineOptions:
    """How a model is run on one replica."""

    tp_size: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    all_reduce: AllReduce = "auto"
    threads_per_rank: int = 0  #: 0: this machine's cores, shared out
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 1024
    max_model_len: int = 0  #: tokens; 0: the model's own, as far as the KV cache holds it
    kv_cache_tokens: int = 32768
    block_size: int = 16
    random_weights: bool = False
    emulate_tp_size: int = 0  #: one rank's shard of a TP this machine does not have


@dataclass(frozen=True)
class Output:
    """One token of a request; the last one says why it is the last."""

    request_id: str
    token: int
    finish_reason: FinishReason | None = None


class Engine:
    """One replica of a model, sharded over `options.tp_size` ranks.

    Raises InputError for a model or option that cannot be used, DoesNotFitError for too little
    memory, both before any process starts. Use as a context manager, or call close().
    """

    def __init__(
        self,
        path: Path,
        options: EngineOptions | None = None,
        group: RankGroup | None = None,
        on_death: Callable[[str], None] | None = None,
    ) -> None:
        self.options = options = _resolved(options or EngineOptions())
        checkpoint = open_checkpoint(path, options.random_weights)
        self.config: ModelConfig = checkpoint.config
        sharding.check_tp_size(self.config, options.emulate_tp_size or options.tp_size)
        checkpoint.check()
        self.dtype = _auto_dtype(self.config, options) if options.dtype == "auto" else options.dtype
        limit = min(self.config.max_context, options.kv_cache_tokens)
        self.max_model_len = min(options.max_model_len or limit, limit)
        spec = LoadSpec(
            path=path,
            dtype=self.dtype,
            num_blocks=options.kv_cache_tokens // options.block_size,
            block_size=options.block_size,
            max_model_len=self.max_model_len,
            random_weights=options.random_weights,
            emulate_tp_size=options.emulate_tp_size,
        )
        check_memory(self.config, options, self.dtype)
        self._own_group = group is None
        self.group = group or RankGroup(group_spec(self.config, options), on_death)
        try:
            self.group.run("load", spec)
        except BaseException:
            self.close()
            raise
        self.scheduler = Scheduler(
            spec.num_blocks,
            options.block_size,
            options.max_num_seqs,
            options.max_num_batched_tokens,
        )
        self._sequences: dict[str, Sequence] = {}

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._own_group:
            self.group.close()

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def add(self, request_id: str, prompt: list[int], params: SamplingParams) -> None:
        """Queues a request. Raises InputError where it can never run."""
        if not prompt or not all(0 <= t < self.config.vocab_size for t in prompt):
            raise InputError(
                "the prompt is empty or holds a token id outside the vocabulary",
                f"allowed: 1 or more ids from 0 to {self.config.vocab_size - 1}",
            )
        if params.max_tokens < 1 or len(prompt) + params.max_tokens > self.max_model_len:
            raise InputError(
                f"a prompt of {len(prompt)} tokens and max_tokens {params.max_tokens}",
                f"allowed: max_tokens of 1 or more, together at most {self.max_model_len}",
            )
        sequence = Sequence(request_id, prompt, params)
        self.scheduler.add(sequence)
        self._sequences[request_id] = sequence

    def cancel(self, request_id: str) -> None:
        """Forgets a request and frees its KV blocks; one that has ended is no error."""
        sequence = self._sequences.pop(request_id, None)
        if sequence:
            self.scheduler.remove(sequence)

    def step(self) -> list[Output]:
        """Plan a batch, run it on every rank, sample, hand out the tokens."""
        scheduled = self.scheduler.schedule()
        if scheduled is None:
            return []
        plan, sequences = scheduled
        logits = self.group.run("forward", plan)
        ready = [s for s, part in zip(sequences, plan.segments, strict=True) if part.logits]
        tokens = sample(logits, ready) if ready else []
        return [self._accept(s, token) for s, token in zip(ready, tokens, strict=True)]

    def _accept(self, sequence: Sequence, token: int) -> Output:
        params = sequence.params
        sequence.output.append(token)
        ends = () if params.ignore_eos else (*self.config.eos_token_ids, *params.stop_token_ids)
        reason: FinishReason | None = None
        if token in ends:
            reason = "stop"
        elif len(sequence.output) >= params.max_tokens:
            reason = "length"
        if reason:
            self.cancel(sequence.request_id)
        return Output(sequence.request_id, token, reason)

    def generate(self, prompts: Iterable[list[int]], params: SamplingParams) -> list[list[int]]:
        """The output tokens of each prompt, all run as one batch."""
        outputs: dict[str, list[int]] = {}
        for index, prompt in enumerate(prompts):
            outputs[str(index)] = []
            self.add(str(index), prompt, params)
        while self.has_work:
            for output in self.step():
                outputs[output.request_id].append(output.token)
        return list(outputs.values())

    def logits(self, prompt: list[int]) -> torch.Tensor:
        """Logits after each token of `prompt`, [len(prompt), vocab_size], on an idle engine."""
        assert not self.has_work, "logits() borrows the KV cache of running requests"
        blocks = tuple(range(-(-len(prompt) // self.options.block_size)))
        segment = Segment(len(prompt), len(prompt), blocks, True)
        logits: torch.Tensor = self.group.run("forward", StepPlan(prompt, [segment], True))
        return logits


def _resolved(options: EngineOptions) -> EngineOptions:
    """`options` with the device chosen. Raises InputError for values no machine could use."""
    for name in ("tp_size", "max_num_seqs", "max_num_batched_tokens", "block_size"):
        if getattr(options, name) < 1:
            raise InputError(f"{name} is {getattr(options, name)}", "allowed: 1 or more")
    if options.max_num_batched_tokens < options.max_num_seqs:
        raise InputError(
            f"max_num_batched_tokens is {options.max_num_batched_tokens}",
            f"allowed: max_num_seqs ({options.max_num_seqs}) or more",
        )
    if options.kv_cache_tokens < options.block_size:
        raise InputError(
            f"kv_cache_tokens is {options.kv_cache_tokens}",
            f"allowed: {options.block_size} or more",
        )
    gpus = torch.cuda.device_count()
    device = options.device
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda" and gpus < options.tp_size:
        raise InputError(
            f"tensor_parallel_size is {options.tp_size} and {gpus} GPUs are visible",
            remedy="lower it, pass --device cpu, or profile with --emulate",
        )
    return dataclasses.replace(options, device=device)


def _auto_dtype(config: ModelConfig, options: EngineOptions) -> str:
    """The checkpoint's dtype; on CPU a 16-bit one is bf16 where the cores multiply it, else fp32."""
    if options.device != "cpu" or config.dtype == "fp32":
        return config.dtype
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"


def group_spec(config: ModelConfig, options: EngineOptions) -> GroupSpec:
    """The ranks that `options` ask for, with shared slots for the largest message of the model."""
    assert options.device != "auto"
    rows = max(options.max_num_batched_tokens, options.max_num_seqs)
    widest = -(-config.vocab_size // options.tp_size)  # logits of max_num_seqs rows
    largest = 4 * max(rows * config.hidden_size, options.max_num_seqs * widest)
    return GroupSpec(
        options.tp_size, options.device, options.all_reduce, options.threads_per_rank, largest
    )


def rank_bytes(config: ModelConfig, options: EngineOptions, dtype: str) -> float:
    """Bytes of the fullest rank: weights, KV cache, and on CPU the process itself."""
    tp_size = options.emulate_tp_size or options.tp_size
    elements = sharding.elements_per_rank(config, tp_size)
    if config.tie_embeddings:  # the packed head is a second copy of the embedding
        elements += -(-config.vocab_size // tp_size) * config.hidden_size
    elements += options.kv_cache_tokens * sharding.kv_elements_per_token(config, tp_size)
    process = RANK_PROCESS_BYTES if options.device == "cpu" else 0.0
    return elements * DTYPE_BYTES[dtype] + process


def check_memory(config: ModelConfig, options: EngineOptions, dtype: str) -> None:
    """Raises DoesNotFitError where the ranks need more memory than is free."""
    need = rank_bytes(config, options, dtype)
    if options.device == "cuda":
        free, where = float(torch.cuda.mem_get_info()[0]), "on the GPU"
    else:
        need *= options.tp_size
        free, where = _available_bytes(), "in memory"
    if need > free:
        raise DoesNotFitError(
            f"tensor_parallel_size {options.tp_size} with {options.kv_cache_tokens} KV cache tokens "
            f"needs {need / 1e9:.1f} GB {where}, {free / 1e9:.1f} GB are free; "
            "lower --kv-cache-tokens or --tensor-parallel-size, or take a smaller model"
        )


def _available_bytes() -> float:
    """Memory a process could take now: what Linux says, or all there is."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
