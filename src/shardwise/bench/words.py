"""Words with known token counts, and prompts of an exact length built from them.

The tokenizers of LLMs do not merge across the space before a word, so the token counts of words add
up; `measure` checks this on a whole text first. Counts come from a tokenizer, or without one from
the `usage` of the server's answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from shardwise.bench.tokenizer import Tokenizer

Count = Callable[[str], int]  #: returns the tokens of a text, 0 if unknown

#: Short common words, one token each in most vocabularies; numbers; letters for small vocabularies.
CANDIDATES: Final = tuple(
    """the of and to in is for on that by with from at are this be as was it not or have an will
    can all one two new time people world water light house river stone green field night day
    car road city tree book music paper glass table door window garden summer winter north south
    a b c d e f g h i j k l m n 1 2 3 4 5 6 7 8 9 10 20 30 40 50 60 70 80 90""".split()  # noqa: SIM905
)
_FIRST: Final = "the"
_ENOUGH: Final = 8  #: number of different words, so that prompts differ early
_TRIED_IDS: Final = 4096  #: entries of a vocabulary searched for words


class Words(msgspec.Struct, frozen=True):
    """Builds text of an exact number of tokens. `costs` maps a word after a space to its tokens."""

    costs: tuple[tuple[str, int], ...]
    overhead: int  #: tokens added by the server, plus the first word

    def fill(self, rng: random.Random, tokens: int) -> list[str] | None:
        """Return random words with `tokens` tokens in total; None if there are none."""
        reachable = _reachable(frozenset(cost for _, cost in self.costs), tokens)
        if not reachable[tokens]:
            return None
        chosen = []
        while tokens:
            word, cost = rng.choice(self.costs)
            if cost <= tokens and reachable[tokens - cost]:
                chosen.append(word)
                tokens -= cost
        return chosen

    def text(self, words: Sequence[str]) -> str:
        """Return the prompt of `words`."""
        return " ".join([_FIRST, *words])


def _reachable(costs: frozenset[int], tokens: int) -> bytearray:
    """Return, for each total from 0 to at least `tokens`, whether words can add up to it."""
    return _sums(costs, 1 << tokens.bit_length())  # round up, so that few sizes are cached


@lru_cache(maxsize=8)
def _sums(costs: frozenset[int], up_to: int) -> bytearray:
    sums = bytearray([1]) + bytearray(up_to)
    for total in range(1, up_to + 1):
        sums[total] = any(cost <= total and sums[total - cost] for cost in costs)
    return sums


def measure(count: Count, candidates: Sequence[str] = CANDIDATES) -> Words | None:
    """Return the token count of each candidate by `count`; None if counts do not add up.

    Uses one request if every word is one token, else one per word.
    """
    base, whole = count(_FIRST), count(" ".join([_FIRST, *candidates]))
    if base < 1 or whole <= base:
        return None
    if whole == base + len(candidates):
        return Words(tuple((word, 1) for word in candidates), base)
    costs = [(word, count(f"{_FIRST} {word}") - base) for word in candidates]
    costs = [(word, cost) for word, cost in costs if cost > 0]
    text = " ".join([_FIRST, *(word for word, _ in costs)])
    if len(costs) < _ENOUGH or count(text) != base + sum(cost for _, cost in costs):
        return None
    singles = [(word, cost) for word, cost in costs if cost == 1]
    return Words(tuple(singles if len(singles) >= _ENOUGH else costs), base)


def vocabulary(tokenizer: Tokenizer, seed: int = 0) -> list[str]:
    """Return words that are one token after a space, spread over the vocabulary."""
    rng = random.Random(seed)
    ids = rng.sample(range(tokenizer.size), min(_TRIED_IDS, tokenizer.size))
    words = {tokenizer.decode([token]).strip() for token in ids}
    base = tokenizer.count(_FIRST)
    found = [
        word
        for word in sorted(words)
        if word.isascii() and word.isalpha() and tokenizer.count(f"{_FIRST} {word}") == base + 1
    ]
    return found if len(found) >= _ENOUGH else list(CANDIDATES)
