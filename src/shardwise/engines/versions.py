"""Engine versions: parsing, ordering, and values that depend on the version."""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

_NUMBERS: Final = re.compile(r"(?:^|[^\d.])v?(\d+(?:\.\d+)+)")


class Version(msgspec.Struct, frozen=True, order=True):
    """A release number: 0.11.0 is (0, 11, 0). Suffixes such as rc1, .post1 and +git are dropped."""

    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, self.numbers))


def parse(text: str) -> Version | None:
    """Return the first release number in `text`; None if there is none.

    Examples: "vllm 0.11.0", "v0.8.5.post1", "vLLM 0.9.1 (AMD rocm/vllm-dev:main)", "1.2.0rc4".
    Trailing zeros are ignored: 0.11 equals 0.11.0.
    """
    found = _NUMBERS.search(text)
    return release(found[1]) if found else None


def release(numbers: str) -> Version:
    """Return the version of text such as "0.11" or "0"."""
    parts = [int(part) for part in numbers.split(".")]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return Version(tuple(parts))


class Known(msgspec.Struct, frozen=True):
    """The oldest and newest version whose sources were read for an engine."""

    oldest: str
    newest: str

    def holds(self, version: Version | None) -> bool:
        """Return whether `version` is between the oldest and the newest; False for None."""
        if version is None:
            return False
        return release(self.oldest) <= version and version.numbers[:2] <= _pair(self.newest)


def _pair(numbers: str) -> tuple[int, ...]:
    return release(numbers).numbers[:2]


def since(version: Version | None, changes: tuple[tuple[str, T], ...]) -> T:
    """Return the value for `version` from (first version, value) pairs in ascending order.

    None (unknown version) returns the newest value. A version before the first entry returns the
    oldest.
    """
    value = changes[0][1]
    for start, then in changes:
        if version is None or version >= release(start):
            value = then
    return value
