"""Remove local folders from texts and records that leave this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

#: an absolute, home or parent path with at least one folder; in URLs, a colon or slash precedes it
_PATH: Final = re.compile(
    r"""(?<![\w:/.~-])(?:~[\w.-]*/|\.\./|/)(?:[^\s"',:=/]+/+)*([^\s"',:=/]+)/?"""
)


def without_folders(text: str) -> str:
    """Reduce each absolute, home or parent path in `text` to its last part.

    `shardwise study /home/me/Llama -o ../out/x` becomes `shardwise study Llama -o x`. Paths within
    the working folder and URLs are unchanged.
    """
    return _PATH.sub(r"\1", text)


def portable(value: Any) -> Any:
    """Return `value` as plain JSON data with all local folders removed."""
    return _cleaned(msgspec.to_builtins(value))


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return without_folders(value)
    if isinstance(value, Mapping):
        return {without_folders(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_cleaned(item) for item in value]
    return value
