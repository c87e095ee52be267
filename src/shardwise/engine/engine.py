"""The engine: processes requests in calls of `step()`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec
import torch

from shardwise.engine import sharding
from shardwise.engine.checkpoint import open_checkpoint
from shardwise.engine.config import ModelConfig
from shardwise.engine.options import (
    EngineOptions,
    auto_dtype,
    check_memory,
    group_spec,
    resolved,
)
from shardwise.engine.rank import LoadSpec
from shardwise.engine.ranks import RankGroup
from shardwise.engine.sampling import sample
from shardwise.engine.scheduler import SamplingParams, Scheduler, Segment, Sequence, StepPlan
from shardwise.errors import InputError

FinishReason = Literal["stop", "length"]


class Output(msgspec.Struct, frozen=True):
    """One token of a request; the last one has a finish reason."""

    request_id: str
    token: int
    finish_reason: FinishReason | None = None


class Engine:
    """One replica of a model, sharded over `options.tp_size` ranks.

    Raises InputError for an unsupported model or option, and DoesNotFitError for too little memory,
    both before any process starts. Use as a context manager, or call close().
    """

    def __init__(
        self,
        path: Path,
        options: EngineOptions | None = None,
        group: RankGroup | None = None,
        on_death: Callable[[str], None] | None = None,
    ) -> None:
        self.options = options = resolved(options or EngineOptions())
        checkpoint = open_checkpoint(path, options.random_weights)
        self.config: ModelConfig = checkpoint.config
        sharding.check_tp_size(self.config, options.emulate_tp_size or options.tp_size)
        checkpoint.check()
        self.dtype = auto_dtype(self.config, options) if options.dtype == "auto" else options.dtype
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
        """Stop the ranks started by this engine."""
        if self._own_group:
            self.group.close()

    @property
    def has_work(self) -> bool:
        """Whether any sequence is unfinished."""
        return bool(self._sequences)

    def add(self, request_id: str, prompt: list[int], params: SamplingParams) -> None:
        """Queue a request. Raises InputError if it cannot be run at all."""
        if params.max_tokens < 1:
            raise InputError(f"max_tokens is {params.max_tokens}", "allowed: 1 or more")
        self._check_prompt(prompt, params.max_tokens)
        sequence = Sequence(request_id, prompt, params)
        self.scheduler.add(sequence)
        self._sequences[request_id] = sequence

    def _check_prompt(self, prompt: list[int], max_tokens: int) -> None:
        if not prompt or not all(0 <= t < self.config.vocab_size for t in prompt):
            raise InputError(
                "the prompt is empty or has a token id outside the vocabulary",
                f"allowed: 1 or more ids from 0 to {self.config.vocab_size - 1}",
            )
        limit = self.max_model_len
        if len(prompt) + max_tokens > limit:
            why = f", {self.config.context_limit}" if limit == self.config.max_context else ""
            raise InputError(
                f"a prompt of {len(prompt)} tokens and max_tokens {max_tokens}",
                f"allowed: together at most {limit} tokens{why}",
            )

    def cancel(self, request_id: str) -> None:
        """Remove a request and free its KV blocks; a finished one is ignored."""
        sequence = self._sequences.pop(request_id, None)
        if sequence:
            self.scheduler.remove(sequence)

    def step(self) -> list[Output]:
        """Schedule a batch, run it on every rank, sample, and return the tokens."""
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
        """Return the output tokens of each prompt, all run as one batch."""
        outputs: dict[str, list[int]] = {}
        for index, prompt in enumerate(prompts):
            outputs[str(index)] = []
            self.add(str(index), prompt, params)
        while self.has_work:
            for output in self.step():
                outputs[output.request_id].append(output.token)
        return list(outputs.values())

    def logits(self, prompt: list[int]) -> torch.Tensor:
        """Return logits after each token of `prompt`, [len(prompt), vocab_size], if idle."""
        assert not self.has_work, "logits() borrows the KV cache of running requests"
        self._check_prompt(prompt, 0)
        blocks = tuple(range(-(-len(prompt) // self.options.block_size)))
        # the message buffer between ranks has room for logits of max_num_seqs rows
        rows, parts = self.options.max_num_seqs, []
        for start in range(0, len(prompt), rows):
            chunk = prompt[start : start + rows]
            segment = Segment(len(chunk), start + len(chunk), blocks, True)
            parts.append(self.group.run("forward", StepPlan(chunk, [segment], True)))
        return torch.cat(parts)
