"""Output of a tool or an engine, pasted into a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from shardwise.errors import InputError

MAX_BYTES: Final = 16 * 2**20  #: limit for one file; a start-up is at the beginning of a log


def pasted(source: str) -> str:
    """Read the text of a file; - is stdin. Raises InputError if it is unreadable or too large."""
    try:
        if source == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(source).open("rb") as handle:
                data = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{source} is larger than 16 MiB", remedy="keep only the start of the log")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    return data.decode(encoding, errors="replace")
