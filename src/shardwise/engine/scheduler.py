"""Scheduler: continuous batching with chunked prefill over a paged KV cache.

Paging follows vLLM (Kwon et al. 2023). Decodes and prefill chunks share one token budget, as in
Sarathi-Serve (Agrawal et al. 2024). Plain Python; every rank gets the same StepPlan.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from shardwise.errors import InputError


class SamplingParams(msgspec.Struct, frozen=True):
    """Sampling parameters and end of a request."""

    max_tokens: int = 16
    temperature: float = 0.0  #: 0: greedy
    top_p: float = 1.0
    top_k: int = 0  #: 0: all
    seed: int | None = None
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()


@dataclass(eq=False)
class Sequence:
    """One request: its tokens so far, and the number of them in the KV cache."""

    request_id: str
    prompt: list[int]
    params: SamplingParams
    output: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    num_computed: int = 0

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens so far."""
        return len(self.prompt) + len(self.output)


class Segment(msgspec.Struct, frozen=True):
    """`length` consecutive tokens of a sequence with `context` cached tokens after the step."""

    length: int
    context: int
    blocks: tuple[int, ...]
    logits: bool  #: return the last token's (`StepPlan.all_logits`: every token's)


class StepPlan(msgspec.Struct, frozen=True):
    """One forward pass. Segments of one token (decodes) come first; tokens follow their order."""

    tokens: list[int]
    segments: list[Segment]
    all_logits: bool = False

    @property
    def num_decodes(self) -> int:
        """Number of sequences that get one token in this step."""
        return sum(segment.length == 1 for segment in self.segments)


class BlockAllocator:
    """Free blocks of the KV cache. A sequence gets consecutive ones if possible: faster reads."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = set(range(num_blocks))
        self._heap = list(range(num_blocks))

    @property
    def num_free(self) -> int:
        """Number of free blocks."""
        return len(self._free)

    def allocate(self, after: int | None) -> int:
        """Take a free block: the one after `after`, else the lowest."""
        block = -1 if after is None else after + 1
        if block not in self._free:
            while (block := heapq.heappop(self._heap)) not in self._free:
                pass
        self._free.remove(block)
        return block

    def free(self, blocks: Iterable[int]) -> None:
        """Return blocks to the pool."""
        for block in blocks:
            assert block not in self._free, "block freed twice"
            self._free.add(block)
            heapq.heappush(self._heap, block)


class Scheduler:
    """Waiting and running sequences: at most max_num_seqs, and max_num_batched_tokens per step."""

    def __init__(
        self, num_blocks: int, block_size: int, max_num_seqs: int, max_num_batched_tokens: int
    ) -> None:
        self.allocator = BlockAllocator(num_blocks)
        self.block_size = block_size
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def capacity_tokens(self) -> int:
        """Capacity of the KV cache in tokens."""
        return self.allocator.num_blocks * self.block_size

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises InputError if it does not fit in the whole KV cache."""
        need = len(sequence.prompt) + sequence.params.max_tokens
        if need > self.capacity_tokens:
            raise InputError(
                f"prompt and max_tokens come to {need} tokens",
                f"the KV cache holds {self.capacity_tokens}",
            )
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Remove a finished or cancelled sequence, and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._release(sequence)

    def schedule(self) -> tuple[StepPlan, list[Sequence]] | None:
        """Return the next step and its sequences in segment order; None if there is no work.

        Running sequences come before waiting ones, so prefills never starve decodes. The rest of
        the token budget is used for prefill chunks.
        """
        budget = self.max_num_batched_tokens
        chosen: list[tuple[Sequence, int]] = []
        for sequence in list(self.running):
            length = min(sequence.num_tokens - sequence.num_computed, budget)
            if length and sequence in self.running and self._grow(sequence, length, preempt=True):
                chosen.append((sequence, length))
                budget -= length
        while self.waiting and budget and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[0]
            length = min(sequence.num_tokens, budget)
            if not self._grow(sequence, length, preempt=False):
                break
            self.running.append(self.waiting.popleft())
            chosen.append((sequence, length))
            budget -= length
        # a later sequence may have preempted one that was scheduled before
        chosen = [pair for pair in chosen if pair[0].blocks]
        if not chosen:
            return None
        # sort decodes by length, so that batched attention needs little padding
        chosen.sort(key=lambda pair: (pair[1] > 1, len(pair[0].blocks) if pair[1] == 1 else 0))
        return self._plan(chosen), [sequence for sequence, _ in chosen]

    def _plan(self, chosen: list[tuple[Sequence, int]]) -> StepPlan:
        tokens: list[int] = []
        segments = []
        for sequence, length in chosen:
            start = sequence.num_computed
            sequence.num_computed = start + length
            if start == sequence.num_tokens - 1:
                tokens.append(sequence.output[-1] if sequence.output else sequence.prompt[-1])
            else:
                tokens += (sequence.prompt + sequence.output)[start : start + length]
            wanted = sequence.num_computed == sequence.num_tokens
            segments.append(Segment(length, start + length, tuple(sequence.blocks), wanted))
        return StepPlan(tokens, segments)

    def _grow(self, sequence: Sequence, length: int, preempt: bool) -> bool:
        """Allocate blocks for `length` more tokens; `preempt`: evict the latest if none is free."""
        need = -(-(sequence.num_computed + length) // self.block_size) - len(sequence.blocks)
        while need > self.allocator.num_free:
            if not preempt:
                return False
            victim = self.running.pop()
            self._release(victim)
            victim.num_computed = 0  # its KV cache is recomputed later, including output tokens
            self.waiting.appendleft(victim)
            if victim is sequence:
                return False
        for _ in range(need):
            last = sequence.blocks[-1] if sequence.blocks else None
            sequence.blocks.append(self.allocator.allocate(last))
        return True

    def _release(self, sequence: Sequence) -> None:
        self.allocator.free(sequence.blocks)
        sequence.blocks = []
