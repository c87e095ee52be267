"""Parameters of the OpenAI API and vLLM's extensions.

A parameter is supported (a field of the request), ignored because it cannot change the answer, or
refused unless its value has no effect. Unknown parameters are refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from shardwise.errors import InputError

#: Ignored: they describe the user, or how the request is billed, stored, cached or scheduled.
IGNORED: Final = frozenset(
    {
        "cache_salt",
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)

#: Refused, except null and these values, which have no effect.
REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1, 1.0),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "presence_penalty": (0, 0.0),
    "prompt_logprobs": (),
    "reasoning_effort": (),
    "repetition_penalty": (1, 1.0),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "verbosity": (),
    "web_search_options": (),
}


def check(fields: Mapping[str, msgspec.Raw], honoured: Collection[str]) -> None:
    """Raise InputError for the first field with an unsupported value."""
    for name, raw in fields.items():
        value = bytes(raw) if len(raw) <= 64 else b""
        if name in honoured or name in IGNORED or value == b"null":
            continue
        if name not in REFUSED:
            near = difflib.get_close_matches(name, [*honoured, *REFUSED, *IGNORED], n=1)
            allowed = f"did you mean {near[0]!r}?" if near else ""
            raise InputError(f"unknown parameter {name[:80]!r}", allowed, "leave it out")
        neutral = REFUSED[name]
        if not value or not _asks_for_nothing(value, neutral):
            shown = bytes(raw)[:40].decode(errors="replace")
            listed = ", ".join(msgspec.json.encode(value).decode() for value in neutral[:1])
            allowed = f"allowed: {listed}" if listed else ""
            raise InputError(f"{name} is {shown}, which is not supported", allowed, "leave it out")


def _asks_for_nothing(value: bytes, neutral: tuple[Any, ...]) -> bool:
    given = msgspec.json.decode(value)
    return any(type(given) is type(one) and given == one for one in neutral)
