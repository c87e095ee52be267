"""Prompts with an exact number of tokens, built before a run.

Three methods are exact: token ids, if the server accepts them; a tokenizer, if available; else
words whose token count the server reported in `usage`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from shardwise.bench.http import ask, refuse_redirect
from shardwise.bench.target import Target
from shardwise.bench.tokenizer import Tokenizer
from shardwise.bench.words import Words, measure, vocabulary
from shardwise.errors import InputError

Prompt = str | list[int]

#: ids that vocabularies use for ordinary text; the second for the smallest of them
_ID_RANGES: Final = ((100, 1000), (10, 200), (10, 100))
_TRIAL_TOKENS: Final = 64


class PromptSource(msgspec.Struct, frozen=True):
    """A method of making prompts, and its name in results."""

    name: str
    words: Words | None = None
    ids: tuple[int, int] = (0, 0)  #: lowest, and one above the highest, where there are no words

    def make(self, rng: random.Random, tokens: int, prefix: Prompt | None = None) -> Prompt:
        """Make a prompt of exactly `tokens` tokens in total.

        `prefix`, from `make`, is its beginning where given. Raises InputError where no text has
        that length.
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
        """Tokens of a prompt that `make` made."""
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
    """Words whose cost is found by asking `target`; no tokenizer needed. Raises InputError."""
    words = measure(lambda text: prompt_tokens(target, text))
    if words is None:
        raise InputError(
            f"{target.url}: its usage gives no prompt length to go by",
            remedy="pass a tokenizer.json",
        )
    return _tried(target, PromptSource("words by usage feedback", words))


def tokenizer_source(target: Target, tokenizer: Tokenizer) -> PromptSource:
    """Words of the vocabulary; what `target` adds, a template say, is found by asking it once."""
    words = measure(tokenizer.count, vocabulary(tokenizer))
    if words is None:
        raise InputError(f"the tokenizer {tokenizer.name} gives no words of a known length")
    sample = words.text([])
    added = max(prompt_tokens(target, sample) - tokenizer.count(sample), 0)
    with_added = Words(words.costs, words.overhead + added)
    return _tried(target, PromptSource(f"tokenizer {tokenizer.name}", with_added))


def _tried(target: Target, source: PromptSource) -> PromptSource:
    """`source`, once a prompt of its making has the length it should. Raises InputError."""
    assert source.words is not None
    wanted = source.words.overhead + _TRIAL_TOKENS
    found = prompt_tokens(target, source.make(random.Random(0), wanted))
    if found != wanted:
        raise InputError(
            f"{target.url} counts {found} tokens in a prompt made to have {wanted} ({source.name})",
            remedy="pass the tokenizer.json of the served model",
        )
    return source


def prompt_tokens(target: Target, prompt: Prompt) -> int:
    """What the server's `usage` counts for `prompt`; 0 where it does not take it.

    Raises InputError where it redirects.
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


def make_prompts(
    source: PromptSource, isl: Sequence[int], seed: int, shared_prefix: int = 0
) -> list[Prompt]:
    """A prompt for each length in `isl`, all different but for their first `shared_prefix` tokens.

    Raises InputError for a prefix that leaves a prompt nothing of its own.
    """
    if shared_prefix < 0 or (shared_prefix and shared_prefix >= min(isl)):
        raise InputError(f"shared prefix is {shared_prefix}", f"allowed: 0 to {min(isl) - 1}")
    rng = random.Random(seed)
    prefix = source.make(rng, shared_prefix) if shared_prefix else None
    return [source.make(rng, tokens, prefix) for tokens in isl]
