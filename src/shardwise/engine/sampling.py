"""Sample tokens from logits."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch

from shardwise.engine.scheduler import Sequence

MIN_TEMPERATURE = 1e-6  #: below it, sampling in fp32 equals greedy decoding


def sample(logits: torch.Tensor, sequences: Seq[Sequence]) -> list[int]:
    """Sample one token for each row of `logits` [len(sequences), vocab_size].

    A seeded sequence samples from its own seed and position, independent of the batch.
    """
    tokens: list[int] = logits.argmax(-1).tolist()
    for row, sequence in enumerate(sequences):
        if sequence.params.temperature > 0:
            tokens[row] = _draw(logits[row].float().cpu(), sequence)
    return tokens


def _draw(logits: torch.Tensor, sequence: Sequence) -> int:
    params = sequence.params
    # subtract the largest logit first, so that a very small temperature does not overflow
    scaled = (logits - logits.max()) / max(params.temperature, MIN_TEMPERATURE)
    probabilities = torch.softmax(scaled, -1)
    ranked, order = probabilities.sort(descending=True)
    if params.top_k:
        ranked[params.top_k :] = 0
    # nucleus sampling (Holtzman et al. 2020): the fewest tokens whose probabilities reach top_p
    dropped = ranked.cumsum(-1) - ranked >= params.top_p
    dropped[0] = False  # the smallest top_p is 0 in fp32
    ranked[dropped] = 0
    generator = None
    if params.seed is not None:
        generator = torch.Generator().manual_seed(params.seed + len(sequence.output))
    return int(order[torch.multinomial(ranked, 1, generator=generator)])
