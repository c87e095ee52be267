"""Read a file of any known format, detected by content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from shardwise.bench.importers.about import About, Found, evidence
from shardwise.bench.importers.aiperf import is_aiperf, read_aiperf
from shardwise.bench.importers.guidellm import is_guidellm, read_guidellm
from shardwise.bench.importers.inferencex import is_inferencex, read_inferencex
from shardwise.bench.importers.rows import read_rows
from shardwise.bench.importers.vllm import is_vllm, read_vllm
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence
from shardwise.files import read_limited
from shardwise.perfmodel.rows import Problem

FORMS: Final = (
    "vllm bench serve --save-result, sglang.bench_serving JSONL, aiperf's "
    "profile_export_aiperf.json, guidellm's JSON, InferenceX agg_*.json, or a CSV of rows"
)
MAX_BYTES: Final = 500_000_000
#: errors raised by fields of unexpected types
_OF_ANOTHER_FORM: Final = (
    *(TypeError, ValueError, AttributeError, KeyError, IndexError, ArithmeticError),
    RecursionError,
)


def read_file(path: Path, about: About) -> tuple[list[Evidence], list[Problem]]:
    """Return the results in `path`, and the unreadable parts. Raises InputError if the format is
    unknown or a field is missing."""
    if path.suffix.lower() == ".csv":
        return read_rows(path)
    try:
        return [evidence(f, about) for document in _documents(path) for f in _read(document)], []
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except _OF_ANOTHER_FORM as error:
        raise InputError(f"{path}: a value of another form: {error}"[:300]) from None


def _documents(path: Path) -> list[Mapping[str, Any]]:
    """Return one JSON document, or one per line."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"larger than {MAX_BYTES / 1e6:g} MB")
        text = read_limited(path).decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError("is no text", f"allowed: {FORMS}") from None
    try:
        found = [json.loads(text)]
    except (ValueError, RecursionError):
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise InputError(f"is no JSON: {error}", f"allowed: {FORMS}") from None
    if not found or not all(isinstance(document, dict) for document in found):
        raise InputError("has an unknown format", f"allowed: {FORMS}")
    return found


def _read(document: Mapping[str, Any]) -> list[Found]:
    if is_guidellm(document):
        return read_guidellm(document)
    if is_aiperf(document):
        return [read_aiperf(document)]
    if is_inferencex(document):
        return [read_inferencex(document)]
    if is_vllm(document):
        return [read_vllm(document)]
    raise InputError("has an unknown format", f"allowed: {FORMS}")
