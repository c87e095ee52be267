"""Parse an engine's arguments: command line, vLLM's argument dictionary, printed configuration.

Only the arguments below are kept, so keys, tokens and addresses in a pasted log are dropped.
"""

from __future__ import annotations

import ast
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Final

Value = str | int | float | bool
Args = Mapping[str, Value]

#: Name of the argument here -> its names in vLLM and SGLang, as a flag, a field or a key.
_NAMES: Final = {
    "model": ("model", "model_path", "model_tag"),
    "tensor_parallel_size": ("tensor_parallel_size", "tp", "tp_size"),
    "pipeline_parallel_size": ("pipeline_parallel_size", "pp", "pp_size"),
    "data_parallel_size": ("data_parallel_size", "dp", "dp_size"),
    "decode_context_parallel_size": ("decode_context_parallel_size", "dcp", "dcp_size"),
    "max_model_len": ("max_model_len", "max_seq_len", "context_length"),
    "gpu_memory_utilization": ("gpu_memory_utilization",),
    "mem_fraction_static": ("mem_fraction_static",),
    "kv_cache_dtype": ("kv_cache_dtype",),
    "quantization": ("quantization",),
    "dtype": ("dtype",),
    "max_num_batched_tokens": ("max_num_batched_tokens",),
    "chunked_prefill_size": ("chunked_prefill_size",),
    "max_num_seqs": ("max_num_seqs",),
    "max_running_requests": ("max_running_requests",),
    "max_total_tokens": ("max_total_tokens",),
    "block_size": ("block_size",),
    "page_size": ("page_size",),
    "nnodes": ("nnodes",),
    "max_cudagraph_capture_size": ("max_cudagraph_capture_size",),
    "enforce_eager": ("enforce_eager", "disable_cuda_graph"),
    "disable_custom_all_reduce": ("disable_custom_all_reduce",),
    "enable_expert_parallel": ("enable_expert_parallel",),
    "enable_dp_attention": ("enable_dp_attention",),
}
_WORDS: Final = ("model", "kv_cache_dtype", "quantization", "dtype")
_SWITCHES: Final = (
    "enforce_eager",
    "disable_custom_all_reduce",
    "enable_expert_parallel",
    "enable_dp_attention",
)
#: vLLM's `human_readable_int` (utils/argparse_utils.py): 32k is 32,000, 32K is 32,768.
_MULTIPLES: Final = {"k": 1e3, "m": 1e6, "g": 1e9, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30}
_KEPT: Final = {spelling: name for name, spellings in _NAMES.items() for spelling in spellings}
_FIELD: Final = re.compile(
    r"['\"]?\b(?P<key>[a-z_]+)['\"]?\s*[:=]\s*(?P<value>'[^']*'|\"[^\"]*\"|-?[\w./-]+)"
)
_DICTIONARY: Final = re.compile(r"non-default args:\s*(\{.*\})")
_COMMAND: Final = re.compile(
    r"(?:^|[\s$#'\"`/])(?:(vllm)\s+serve\b|\S*(vllm)\.entrypoints\.\S+|(sglang)\s+serve\b"
    r"|\S*(sglang)\.launch_server\b)(.*)$"
)


def from_dictionary(text: str) -> Args:
    """Return the known arguments of a `non-default args: {...}` line; empty if there are none."""
    found = _DICTIONARY.search(text)
    if found is None:
        return from_fields(text.split("non-default args:", 1)[-1])
    try:
        given = ast.literal_eval(found[1])
    except (ValueError, SyntaxError):  # the repr of an object, or a truncated line
        return from_fields(found[1])
    if not isinstance(given, dict):
        return {}
    named = ((_KEPT[key], value) for key, value in given.items() if key in _KEPT)
    return _usable((k, v) for k, v in named if isinstance(v, (str, int, float, bool)))


def from_fields(text: str) -> Args:
    """Return the known arguments of a printed configuration: `name=value, name='value'`."""
    given: list[tuple[str, Value]] = []
    for found in _FIELD.finditer(text):
        name = _KEPT.get(found["key"])
        value = found["value"].strip("'\"")
        if name and value not in ("None", "auto", "null", ""):
            given.append((name, _typed(value)))
    return _usable(given)


def from_command(text: str) -> tuple[str, Args] | None:
    """Return engine and known arguments of a shell command that starts one; None otherwise."""
    found = _COMMAND.search(text)
    if found is None:
        return None
    engine = next(g for g in found.groups()[:4] if g)
    try:
        words = shlex.split(found[5])
    except ValueError:  # an open quote in a truncated line
        words = found[5].split()
    return engine, _from_words(words)


def _from_words(words: list[str]) -> Args:
    given: list[tuple[str, Value]] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if not word.startswith("-"):
            if at == 1:
                given.append(("model", word))
            continue
        flag, has_value, value = word.partition("=")
        name = _KEPT.get(flag.lstrip("-").replace("-", "_"))
        if not has_value and at < len(words) and not words[at].startswith("-"):
            value, at = words[at], at + 1
        if name:
            given.append((name, _typed(value) if value else True))
    return _usable(given)


def _usable(given: Iterable[tuple[str, Value]]) -> Args:
    """Return the first value of each argument that its engine could have meant.

    A size that is not a number above 0 ("auto", -1, a truncated flag) leaves the choice to the
    engine.
    """
    kept: dict[str, Value] = {}
    for name, value in given:
        sized = name not in (*_WORDS, *_SWITCHES)
        if not sized or (_is_number(value) and 0 < float(value) < math.inf):
            kept.setdefault(name, value)
    return kept


def _is_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _typed(text: str) -> Value:
    if text in ("True", "False", "true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return int(float(text[:-1]) * _MULTIPLES[text[-1:]])
    except (ValueError, KeyError, OverflowError):
        return text
