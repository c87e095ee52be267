"""Prompts from files in ShareGPT format."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from shardwise.errors import InputError
from shardwise.files import read_utf8

_ALLOWED: Final = (
    'allowed: [{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}]'
    ", or such objects a line each"
)


class Turn(msgspec.Struct, frozen=True):
    """The first question of a person in a conversation, and its reply ("" if there is none)."""

    prompt: str
    reply: str


def read_sharegpt(path: Path) -> list[Turn]:
    """Return the first turn of each conversation that begins with a person. Raises InputError."""
    try:
        text = read_utf8(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    try:
        if text.lstrip().startswith("["):
            entries = json.loads(text)
        else:
            entries = [json.loads(line) for line in text.splitlines() if line.strip()]
        turns = [_first_turn(entry["conversations"]) for entry in entries]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a ShareGPT file: {error!r}", _ALLOWED) from None
    found = [turn for turn in turns if turn is not None]
    if not found:
        raise InputError(f"{path} has no first turn by a person", _ALLOWED)
    return found


def _first_turn(said: list[dict[str, Any]]) -> Turn | None:
    if not said or said[0].get("from") not in {"human", "user"} or not said[0]["value"].strip():
        return None
    reply = (
        said[1]["value"] if len(said) > 1 and said[1].get("from") in {"gpt", "assistant"} else ""
    )
    return Turn(said[0]["value"], reply)


def sharegpt_prompts(
    turns: list[Turn],
    number: int,
    seed: int,
    osl: int = 0,
    count: Callable[[str], int] | None = None,
) -> list[tuple[str, int]]:
    """Return `number` prompts with their output tokens, in random order, repeated if necessary.

    The number of output tokens is `osl`, or if that is 0, the length of the reply by `count`; turns
    without a reply are then skipped. Raises InputError if neither is given.
    """
    if not osl and count is None:
        raise InputError(
            "the length of replies is unknown",
            remedy="pass --osl, or a tokenizer to count the file's replies",
        )
    shuffled = random.Random(seed).sample(turns, len(turns))
    sized = ((turn.prompt, osl or _tokens(turn.reply, count)) for turn in shuffled)
    chosen = list(islice((pair for pair in sized if pair[1]), number))
    if not chosen:
        raise InputError("no conversation has a reply", remedy="give an osl")
    return [chosen[i % len(chosen)] for i in range(number)]


def _tokens(reply: str, count: Callable[[str], int] | None) -> int:
    return count(reply) if reply and count is not None else 0
