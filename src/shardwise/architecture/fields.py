"""Typed, bounded access to the fields of a config.json; what is wrong is an InputError."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shardwise.errors import InputError

#: Far above any model, low enough that no product of sizes overflows a float.
MAX_SIZE: Final = 100_000_000


@dataclass(frozen=True)
class Fields:
    """The object `values`, read from `where` (named in each error)."""

    values: Mapping[str, Any]
    where: str

    def bad(self, name: str, allowed: str) -> InputError:
        if name not in self.values:
            return InputError(
                f"{self.where}: no {name!r}", f"allowed: {allowed}", "give the model's config.json"
            )
        shown = repr(self.values[name])[:60]
        return InputError(f"{self.where}: {name} is {shown}", f"allowed: {allowed}")

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def size(self, name: str, default: int | None = None, lo: int = 1, hi: int = MAX_SIZE) -> int:
        """A whole number from `lo` to `hi`; absent or null gives `default`, if there is one."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not lo <= value <= hi:
            raise self.bad(name, f"a whole number from {lo} to {hi}")
        return value

    def number(self, name: str) -> float:
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise self.bad(name, "a number above 0 and below 1000000")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise self.bad(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.bad(name, "a text")
        return value

    def items(self, name: str, kind: type) -> list[Any]:
        """A list of `kind`; absent or null is empty."""
        value = self.values.get(name)
        value = [] if value is None else value
        if not isinstance(value, list) or any(
            not isinstance(item, kind) or isinstance(item, bool) for item in value
        ):
            raise self.bad(name, f"a list of {'texts' if kind is str else 'whole numbers'}")
        return value

    def object(self, name: str) -> Fields:
        """A nested object; absent or null is empty."""
        value = self.values.get(name)
        value = {} if value is None else value
        if not isinstance(value, dict):
            raise self.bad(name, "an object")
        return Fields(value, f"{self.where}: {name}")
