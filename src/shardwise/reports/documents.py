"""JSON documents that commands and the Python API hand out: a kind, a version, and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: Raised when a field changes its meaning or goes away; new fields do not raise it.
SCHEMA_VERSION: Final = 1


def document(kind: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """`answer` with `kind` (the command's name) and `schema_version` before it."""
    return {"kind": kind, "schema_version": SCHEMA_VERSION, **answer}


def as_json(found: Any, *, indent: int = 2) -> str:
    """A document, or any record in one, as JSON text; `indent` 0 puts it on one line."""
    import msgspec

    encoded = msgspec.json.encode(found)
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
