"""Prompts with an exact number of tokens, built before a run.

Three methods are exact: token ids, if the server accepts them; a tokenizer, if available; else
words whose token count the server reported in `usage`.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from shardwise.bench.http import ask, refuse_redirect
from shardwise.bench.target import Target
from shardwise.bench.tokenizer import Tokenizer
from shardwise.bench.words import Words, measure, vocabulary
from shardwise.errors import InputError

Prompt = str | list[int]

#: ranges of token ids of ordinary text; the second is for very small vocabularies
_ID_RANGES: Final = ((100, 1000), (10, 200), (10, 100))
_TRIAL_TOKENS: Final = 64
_SEED_BITS: Final = 53  #: every reader of JSON keeps such an integer exact


class PromptSource(msgspec.Struct, frozen=True):
    """A method of building prompts, and its name in results."""

    name: str
    words: Words | None = None
    ids: tuple[int, int] = (0, 0)  #: lowest id and one above the highest, if there are no words

    def make(self, rng: random.Random, tokens: int, prefix: Prompt | None = None) -> Prompt:
        """Build a prompt of exactly `tokens` tokens in total.

        It begins with `prefix`, a result of `make`, if given. Raises InputError if no text has that
        length.
        """
        words = self.words
        if words is None:
            begin = prefix if isinstance(prefix, list) else []
            return begin + [rng.randrange(*self.ids) for _ in range(tokens - len(begin))]
        missing = tokens - (self.length(prefix) if prefix is not None else words.overhead)
        chosen = words.fill(rng, missing) if missing >= 0 else None
        if chosen is None:
            raise InputError(
                f"isl is {tokens}",
                f"no text of that length by {self.name}; the shortest has {words.overhead}",
            )
        begin_text = words.text([]) if prefix is None else str(prefix)
        return " ".join([begin_text, *chosen])

    def length(self, prompt: Prompt) -> int:
        """Return the number of tokens of a prompt built by `make`."""
        if self.words is None or isinstance(prompt, list):
            return len(prompt)
        costs = dict(self.words.costs)
        return self.words.overhead + sum(costs[word] for word in prompt.split(" ")[1:])


def choose_source(target: Target, tokenizer: Tokenizer | None = None) -> PromptSource:
    """Return the most exact method that the running `target` supports. Raises InputError if
    none."""
    if tokenizer is not None:
        return tokenizer_source(target, tokenizer)
    if target.api == "completions":
        for low, high in _ID_RANGES:
            if prompt_tokens(target, [low, high - 1, low, high - 1]) == 4:
                return PromptSource("token ids", ids=(low, high))
    return feedback_source(target)


def feedback_source(target: Target) -> PromptSource:
    """Find words and their token counts from answers of `target`, without a tokenizer.

    Raises InputError.
    """
    words = measure(lambda text: prompt_tokens(target, text))
    if words is None:
        raise InputError(
            f"{target.url}: its usage has no prompt length",
            remedy="pass a tokenizer.json",
        )
    return _tried(target, PromptSource("words by usage feedback", words))


def tokenizer_source(target: Target, tokenizer: Tokenizer) -> PromptSource:
    """Use words of the vocabulary. One request to `target` finds the tokens it adds (template)."""
    words = measure(tokenizer.count, vocabulary(tokenizer))
    if words is None:
        raise InputError(f"the tokenizer {tokenizer.name} gives no words of a known length")
    sample = words.text([])
    added = max(prompt_tokens(target, sample) - tokenizer.count(sample), 0)
    with_added = Words(words.costs, words.overhead + added)
    return _tried(target, PromptSource(f"tokenizer {tokenizer.name}", with_added))


def _tried(target: Target, source: PromptSource) -> PromptSource:
    """Return `source` if the server confirms the length of a prompt. Raises InputError."""
    assert source.words is not None
    wanted = source.words.overhead + _TRIAL_TOKENS
    found = prompt_tokens(target, source.make(random.Random(draw_prompt_seed()), wanted))
    if found != wanted:
        raise InputError(
            f"{target.url} counts {found} tokens in a prompt made to have {wanted} ({source.name})",
            remedy="pass the tokenizer.json of the served model",
        )
    return source


def prompt_tokens(target: Target, prompt: Prompt) -> int:
    """Return the length of `prompt` in the server's `usage`; 0 if the server refuses it.

    Raises InputError if it redirects.
    """
    body: dict[str, Any] = {"model": target.model, "max_tokens": 1, "temperature": 0}
    if target.api == "chat":
        path, said = "/v1/chat/completions", [{"role": "user", "content": prompt}]
        answer = ask(target, path, body | {"messages": said})
    else:
        path = "/v1/completions"
        answer = ask(target, path, body | {"prompt": prompt})
    refuse_redirect(target, path, answer)
    found = answer.json()
    if answer.status != 200 or not isinstance(found, dict):
        return 0
    return int((found.get("usage") or {}).get("prompt_tokens") or 0)


def draw_prompt_seed() -> int:
    """Return a new random seed for the words of prompts.

    Servers cache the prefixes of prompts. A prompt that was sent before, even by an earlier
    command, is not computed again, so its TTFT is too low.
    """
    return secrets.randbits(_SEED_BITS)


def make_prompts(
    source: PromptSource,
    isl: Sequence[int],
    seed: int,
    shared_prefix: int = 0,
    prefix_seed: int = 0,
) -> list[Prompt]:
    """Return a prompt for each length in `isl`, all different after `shared_prefix` tokens.

    The prefix depends on `prefix_seed` and not on `seed`, so prompts of several seeds can share it.
    Raises InputError if the prefix is as long as a prompt.
    """
    if shared_prefix < 0 or (shared_prefix and shared_prefix >= min(isl)):
        raise InputError(f"shared prefix is {shared_prefix}", f"allowed: 0 to {min(isl) - 1}")
    rng = random.Random(seed)
    prefix = source.make(random.Random(prefix_seed), shared_prefix) if shared_prefix else None
    return [source.make(rng, tokens, prefix) for tokens in isl]
