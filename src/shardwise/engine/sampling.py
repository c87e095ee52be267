"""Sample tokens from logits."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch

from shardwise.engine.scheduler import Sequence

MIN_TEMPERATURE = 1e-6  #: below it fp32 cannot tell the draw from greedy


def sample(logits: torch.Tensor, sequences: Seq[Sequence]) -> list[int]:
    """One token for each row of `logits` [len(sequences), vocab_size], as its sequence asks.

    A seeded sequence draws from its own seed and position, so it does not depend on the batch.
    """
    tokens: list[int] = logits.argmax(-1).tolist()
    for row, sequence in enumerate(sequences):
        if sequence.params.temperature > 0:
            tokens[row] = _draw(logits[row].float().cpu(), sequence)
    return tokens


def _draw(logits: torch.Tensor, sequence: Sequence) -> int:
    params = sequence.params
    # the largest logit taken off first, so that no temperature however small divides to infinity
    scaled = (logits - logits.max()) / max(params.temperature, MIN_TEMPERATURE)
    probabilities = torch.softmax(scaled, -1)
    ranked, order = probabilities.sort(descending=True)
    if params.top_k:
        ranked[params.top_k :] = 0
    # nucleus (Holtzman et al. 2020): the fewest tokens whose mass reaches top_p
    dropped = ranked.cumsum(-1) - ranked >= params.top_p
    dropped[0] = False  # fp32 reads the smallest top_p as 0
    ranked[dropped] = 0
    generator = None
    if params.seed is not None:
        generator = torch.Generator().manual_seed(params.seed + len(sequence.output))
    return int(order[torch.multinomial(ranked, 1, generator=generator)])
