"""Errors a user can cause or meet, each one line: what was given, what is allowed, what to do.

    ShardwiseError            exit code 2
    ├── InputError            a value, file or option that cannot be used
    │   └── UnknownNameError  a GPU, model, profile … that the catalogue does not hold
    ├── DoesNotFitError       the model or workload needs more memory than there is
    └── NothingMeetsError     every candidate misses the SLO; exit code 3

Broken invariants of our own are `assert`, never one of these.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


class ShardwiseError(Exception):
    """Base class of errors that are printed as one line on stderr."""

    exit_code = 2


class InputError(ShardwiseError):
    """An input is invalid.

    `what` names the input and its value, `allowed` the accepted values, `remedy` what to do.
    `field` is the name of the invalid argument or column, "" if there is no single one.
    """

    def __init__(self, what: str, allowed: str = "", remedy: str = "", field: str = "") -> None:
        parts = [what, allowed, remedy]
        self.field = field
        super().__init__("; ".join(" ".join(part.split()) for part in parts if part))


class UnknownNameError(InputError):
    """A name is not in the catalogue; the message lists the nearest known names."""

    def __init__(
        self, kind: str, given: str, known: Iterable[str], remedy: str = "", field: str = ""
    ) -> None:
        names = sorted(known)
        import difflib

        near = difflib.get_close_matches(given.lower(), names, n=3, cutoff=0.4)
        allowed = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names)}"
        super().__init__(f"unknown {kind} {given[:80]!r}", allowed, remedy, field or kind.lower())


class DoesNotFitError(ShardwiseError):
    """The model or workload needs more memory than the GPUs have."""


class NothingMeetsError(ShardwiseError):
    """There are candidates, but none meets the SLO."""

    exit_code = 3


def printable(text: str, most: int = 0) -> str:
    """Escape control, bidirectional and invisible characters.

    Shorten to `most` characters, if given, with an ellipsis.
    """
    shown = "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _OBEYED else c
        for c in (text[: most + 1] if most else text)
    )
    return f"{shown[: most - 1]}…" if most and len(shown) > most else shown


#: Unicode categories of characters that act instead of being seen
_OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
