"""JSON documents of the commands and the Python API: a kind, a version, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: Increased when a field changes its meaning or is removed, not when one is added.
SCHEMA_VERSION: Final = 1


def document(kind: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return `answer` preceded by `kind` (the command's name) and `schema_version`."""
    return {"kind": kind, "schema_version": SCHEMA_VERSION, **answer}


def as_json(found: Any, *, indent: int = 2) -> str:
    """Return a document, or any record in one, as JSON text; `indent` 0 writes one line."""
    import msgspec

    encoded = msgspec.json.encode(found)
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
