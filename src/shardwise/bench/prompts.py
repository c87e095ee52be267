"""Prompts of an exact number of tokens, built before a run.

Three ways to be exact: token ids, where the server takes them; a tokenizer, where one is at hand;
else words which the server itself, by its `usage`, has shown to be one token each.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shardwise.bench.http import ask
from shardwise.bench.target import Target
from shardwise.errors import InputError

Prompt = str | list[int]
Maker = Callable[[random.Random, int], Prompt]  #: (random numbers, tokens) -> a prompt

_WORDS: Final = ["the", "of", "and", "to", "in", "is", "for", "on", "that", "by", "with", "from", "at", "are", "this", "be", "as", "was", "it", "not", "or", "have", "an", "will", "can", "all", "one", "two", "new", "time", "people", "world", "water", "light", "house", "river", "stone", "green", "field", "night", "day", "car", "road", "city", "tree", "book", "music", "paper", "glass", "table", "door", "window", "garden", "summer", "winter", "north", "south"]
_NUMBERS: Final = [str(n) for n in range(10, 74)]
_ID_RANGES: Final = ((100, 1000), (10, 200))
_MIN_WORDS: Final = 8


@dataclass(frozen=True)
class PromptSource:
    """How prompts are made, and how it is called in a result."""

    name: str
    make: Maker


def choose_source(target: Target, tokenizer: Path | None = None) -> PromptSource:
    """The most exact way that `target` allows. Raises InputError where there is none."""
    if tokenizer is not None:
        return tokenizer_source(tokenizer, target)
    if target.api == "completions":
        for low, high in _ID_RANGES:
            if prompt_tokens(target, [low, high - 1, low, high - 1]) == 4:
                return PromptSource("token ids", _ids(low, high))
    return feedback_source(target)


def prompt_tokens(target: Target, prompt: Prompt) -> int:
    """What the server's `usage` counts for `prompt`; 0 where it does not take it."""
    body: dict[str, Any] = {"model": target.model, "max_tokens": 1, "temperature": 0}
    if target.api == "chat":
        messages = [{"role": "user", "content": prompt}]
        answer = ask(target, "/v1/chat/completions", body | {"messages": messages})
    else:
        answer = ask(target, "/v1/completions", body | {"prompt": prompt})
    found = answer.json()
    if answer.status != 200 or not isinstance(found, dict):
        return 0
    return int((found.get("usage") or {}).get("prompt_tokens") or 0)


def _ids(low: int, high: int) -> Maker:
    return lambda rng, tokens: [rng.randrange(low, high) for _ in range(tokens)]


def feedback_source(target: Target) -> PromptSource:
    """Words that cost one token each after another, found by asking; no tokenizer needed."""
    for words in (_WORDS, _NUMBERS):
        one, two = (prompt_tokens(target, " ".join(words[:k])) for k in (1, 2))
        if two - one != 1:
            continue
        overhead = one - 1  # a template, a token for the beginning
        single = _single_token_words(target, list(words), overhead)
        if len(single) >= _MIN_WORDS:
            return PromptSource("words by usage feedback", _words(single, overhead))
    raise InputError(
        f"{target.url}: its usage gives no prompt length to go by",
        remedy="give --tokenizer, a tokenizer.json",
    )


def _single_token_words(target: Target, words: list[str], overhead: int) -> list[str]:
    """Those of `words` that add one token each, by halving groups that do not add up."""
    if prompt_tokens(target, " ".join(words)) == len(words) + overhead:
        return words
    if len(words) == 1:
        return []
    half = len(words) // 2
    return [
        word
        for part in (words[:half], words[half:])
        for word in _single_token_words(target, part, overhead)
    ]


def _words(words: Sequence[str], overhead: int) -> Maker:
    def make(rng: random.Random, tokens: int) -> Prompt:
        if tokens <= overhead:
            raise InputError(f"isl is {tokens}", f"allowed: more than the template's {overhead}")
        return " ".join(rng.choice(words) for _ in range(tokens - overhead))

    return make


def tokenizer_source(path: Path, target: Target) -> PromptSource:
    """Text that the tokenizer at `path` makes into exactly the tokens wanted.

    What the server adds (a template, a first token) is found by asking it once.
    """
    encode, decode, size = _load_tokenizer(path)
    sample = decode(list(range(min(100, size), min(108, size))))
    overhead = max(prompt_tokens(target, sample) - len(encode(sample)), 0)

    def make(rng: random.Random, tokens: int) -> Prompt:
        wanted = tokens - overhead
        for _ in range(50):
            ids = [rng.randrange(size) for _ in range(wanted)]
            for _ in range(20):
                ids = encode(decode(ids))
                if len(ids) == wanted:
                    return decode(ids)
                short = max(wanted - len(ids), 0)
                ids = ids[:wanted] + [rng.randrange(size) for _ in range(short)]
        raise InputError(f"no text of exactly {tokens} tokens was found with {path}")

    return PromptSource(f"tokenizer {path.name}", make)


def _load_tokenizer(
    path: Path,
) -> tuple[Callable[[str], list[int]], Callable[[list[int]], str], int]:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError(
            "--tokenizer needs tokenizers", remedy="run: pip install tokenizers"
        ) from None
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"no tokenizer at {file}", "allowed: a tokenizer.json or its folder")
    loaded = Tokenizer.from_file(str(file))
    return (
        lambda text: list(loaded.encode(text, add_special_tokens=False).ids),
        lambda ids: str(loaded.decode(ids)),
        int(loaded.get_vocab_size()),
    )


def make_prompts(
    source: PromptSource, isl: int, number: int, seed: int, shared_prefix: int = 0
) -> list[Prompt]:
    """`number` prompts of `isl` tokens, different but for the first `shared_prefix` tokens.

    Joined pieces of text may merge a token where they meet; the results say what the server
    counted.
    """
    rng = random.Random(seed)
    if not shared_prefix:
        return [source.make(rng, isl) for _ in range(number)]
    if not 0 < shared_prefix < isl:
        raise InputError(f"shared prefix is {shared_prefix}", f"allowed: 1 to {isl - 1}")
    whole = [source.make(rng, isl) for _ in range(number)]
    first = whole[0]
    if isinstance(first, list):
        return [
            first[:shared_prefix] + ids[shared_prefix:] for ids in whole if isinstance(ids, list)
        ]
    words = first.split(" ")[:shared_prefix]
    return [" ".join(words + str(text).split(" ")[shared_prefix:]) for text in whole]


def sharegpt_prompts(path: Path, number: int, seed: int) -> list[Prompt]:
    """First human turns of a ShareGPT-style file, in random order, repeated if need be.

    Raises InputError where `path` is no list of {"conversations": [{"from", "value"}]}.
    """
    try:
        entries = json.loads(path.read_text())
        turns = [
            str(entry["conversations"][0]["value"])
            for entry in entries
            if entry["conversations"] and entry["conversations"][0].get("from") in ("human", "user")
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is no ShareGPT file: {error}",
            'allowed: [{"conversations": [{"from": "human", "value": "…"}]}]',
        ) from None
    turns = [turn for turn in turns if turn.strip()]
    if not turns:
        raise InputError(f"{path} holds no first turn by a human")
    random.Random(seed).shuffle(turns)
    return [turns[i % len(turns)] for i in range(number)]
