"""Attention over a paged KV cache, with torch's scaled_dot_product_attention.

K and V of a layer are one tensor each, [num_blocks * block_size, num_kv_heads, head_dim]. A token's
slot is block * block_size + offset. Decodes of a step with contexts of similar length are batched
in one call over gathered blocks. Long sequences in consecutive blocks are read in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from shardwise.engine.scheduler import Segment, StepPlan

#: tokens of context from which a call per sequence in place is faster than one over a copy
#: (fp32, 16 sequences, 2-core Zen 5: 561 against 609 us at 256, 3.2 against 4.2 ms at 1024)
IN_PLACE_CONTEXT = 256
#: Blocks that the longest sequence of a batched call may have beyond the shortest: as a share, and
#: at least this number. Padding is copied and read too; another call costs as much as four blocks.
PADDING, PADDING_BLOCKS = 0.25, 4


class Span(msgspec.Struct, frozen=True):
    """One segment's rows in the step, and the slots of its context."""

    rows: slice
    past: int  #: tokens of context before the segment
    slots: slice | torch.Tensor  #: a slice if the blocks are consecutive
    mask: torch.Tensor | None  #: [length, context], added to the scores; None: plain causal


class Gathered(msgspec.Struct, frozen=True):
    """Decodes whose attention is one batch, padded to the longest."""

    rows: slice
    blocks: torch.Tensor  #: [rows * blocks of the longest]
    mask: torch.Tensor  #: [rows, 1, 1, context of the longest]


class StepInputs(msgspec.Struct, frozen=True):
    """A StepPlan as tensors on the rank's device, built once per step for all layers."""

    tokens: torch.Tensor  #: [num_tokens]
    positions: torch.Tensor
    slots: torch.Tensor  #: slot of each token's K and V
    spans: list[Span]  #: segments whose attention is computed one by one
    gathered: list[Gathered]
    logit_rows: torch.Tensor


def prepare(
    plan: StepPlan, block_size: int, dtype: torch.dtype, device: torch.device
) -> StepInputs:
    """Build the tensors of `plan`."""
    positions, slots, spans = [], [], []
    logit_rows: list[int] = []
    gathered = _gathered(plan.segments[: plan.num_decodes], block_size, dtype, device)
    in_batches = {row for batch in gathered for row in range(batch.rows.start, batch.rows.stop)}
    row = 0
    for index, segment in enumerate(plan.segments):
        where = np.arange(segment.context - segment.length, segment.context)
        positions.append(where)
        slots.append(
            np.asarray(segment.blocks)[where // block_size] * block_size + where % block_size
        )
        rows = slice(row, row + segment.length)
        row = rows.stop
        if index not in in_batches:
            spans.append(_span(segment, rows, block_size, dtype, device))
        if plan.all_logits:
            logit_rows += range(rows.start, rows.stop)
        elif segment.logits:
            logit_rows.append(row - 1)
    return StepInputs(
        tokens=torch.tensor(plan.tokens, device=device),
        positions=torch.from_numpy(np.concatenate(positions)).to(device),
        slots=torch.from_numpy(np.concatenate(slots)).to(device),
        spans=spans,
        gathered=gathered,
        logit_rows=torch.tensor(logit_rows, dtype=torch.int64, device=device),
    )


def _neighbours(blocks: tuple[int, ...]) -> bool:
    return blocks[-1] - blocks[0] == len(blocks) - 1 and all(
        b - a == 1 for a, b in pairwise(blocks)
    )


def _gathered(
    decodes: Sequence[Segment], block_size: int, dtype: torch.dtype, device: torch.device
) -> list[Gathered]:
    """Return batches of neighbouring rows of `decodes`, except those that are read in place.

    `decodes` are in order of their number of blocks.
    """
    found, start = [], 0
    while start < len(decodes):
        shortest = len(decodes[start].blocks)
        most = shortest + max(PADDING_BLOCKS, int(PADDING * shortest))
        stop = start + 1
        while stop < len(decodes) and shortest <= len(decodes[stop].blocks) <= most:
            stop += 1
        batch = decodes[start:stop]
        if not _in_place(batch):
            blocks, mask = gather_inputs(batch, block_size, dtype)
            found.append(Gathered(slice(start, stop), blocks.to(device), mask.to(device)))
        start = stop
    return found


def _in_place(decodes: Sequence[Segment]) -> bool:
    """Return whether each decode is read in place: alone, or a long context in one slice."""
    if len(decodes) < 2:
        return True
    mean = sum(segment.context for segment in decodes) / len(decodes)
    return mean >= IN_PLACE_CONTEXT and all(_neighbours(segment.blocks) for segment in decodes)


def _span(
    segment: Segment, rows: slice, block_size: int, dtype: torch.dtype, device: torch.device
) -> Span:
    past = segment.context - segment.length
    slots: slice | torch.Tensor
    if _neighbours(segment.blocks):
        first = segment.blocks[0] * block_size
        slots = slice(first, first + segment.context)
    else:
        where = np.arange(segment.context)
        ids = np.asarray(segment.blocks)[where // block_size] * block_size + where % block_size
        slots = torch.from_numpy(ids).to(device)
    mask = None
    if past and segment.length > 1:  # causal mask, shifted by the context before the segment
        mask = torch.full((segment.length, segment.context), float("-inf"), dtype=dtype)
        mask = mask.triu_(past + 1).to(device)
    return Span(rows, past, slots, mask)


def gather_inputs(
    decodes: Sequence[Segment], block_size: int, dtype: torch.dtype, width: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return block ids of each decode padded to the longest or `width`, and the padding mask."""
    width = width or max(-(-segment.context // block_size) for segment in decodes)
    ids = np.zeros((len(decodes), width), np.int64)
    for row, segment in enumerate(decodes):
        used = segment.blocks[:width]
        ids[row, : len(used)] = used
    context = np.array([segment.context for segment in decodes])
    hidden = np.arange(width * block_size)[None] >= context[:, None]
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(
        torch.from_numpy(hidden), float("-inf")
    )
    return torch.from_numpy(ids).view(-1), mask[:, None, None]


class LayerCache:
    """K and V of one layer on one rank. `block_shape` is (block_size, num_kv_heads, head_dim)."""

    def __init__(
        self,
        num_blocks: int,
        block_shape: tuple[int, int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.block_size, *heads = block_shape
        shape = (num_blocks * self.block_size, *heads)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)

    def write(self, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Store keys and values of shape (tokens, kv_heads, head_dim) in `slots`."""
        self.k.index_copy_(0, slots, k)
        self.v.index_copy_(0, slots, v)

    def gather(self, cache: torch.Tensor, blocks: torch.Tensor, rows: int) -> torch.Tensor:
        """Return a copy of the blocks, [rows, num_kv_heads, context, head_dim]."""
        _, heads, dim = cache.shape
        chosen = cache.view(-1, self.block_size * heads * dim).index_select(0, blocks)
        return chosen.view(rows, -1, heads, dim).transpose(1, 2)


def attend(q: torch.Tensor, cache: LayerCache, inputs: StepInputs) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(head_dim)) v per token, causal within its sequence.

    `q` is [num_tokens, heads, head_dim]; the result has that shape. The query heads of a decode
    that share a KV head are passed as several queries of that head, so K and V are not repeated.
    """
    _, heads, dim = q.shape
    kv_heads = cache.k.shape[1]
    out = torch.empty_like(q)
    for batch in inputs.gathered:
        n = batch.rows.stop - batch.rows.start
        out[batch.rows] = scaled_dot_product_attention(
            q[batch.rows].view(n, kv_heads, heads // kv_heads, dim),
            cache.gather(cache.k, batch.blocks, n),
            cache.gather(cache.v, batch.blocks, n),
            attn_mask=batch.mask,
        ).reshape(n, heads, dim)
    for span in inputs.spans:
        k = cache.k[span.slots].transpose(0, 1).unsqueeze(0)
        v = cache.v[span.slots].transpose(0, 1).unsqueeze(0)
        part = q[span.rows]
        if part.shape[0] == 1:
            one = scaled_dot_product_attention(part.view(1, kv_heads, -1, dim), k, v)
            out[span.rows] = one.reshape(1, heads, dim)
            continue
        many = scaled_dot_product_attention(
            part.transpose(0, 1).unsqueeze(0),
            k,
            v,
            attn_mask=span.mask,
            is_causal=span.mask is None,
            enable_gqa=kv_heads != heads,
        )
        out[span.rows] = many[0].transpose(0, 1)
    return out
