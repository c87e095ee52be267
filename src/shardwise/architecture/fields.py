"""Typed, bounded access to the fields of a config.json. Invalid values raise InputError."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shardwise.errors import InputError

#: Far above any model, and small enough that products of sizes do not overflow a float.
MAX_SIZE: Final = 100_000_000
MAX_LAYERS: Final = 10_000
MAX_EXPERTS: Final = 1_000_000


@dataclass(frozen=True)
class Fields:
    """Fields of a config.json.

    Attributes:
        values: The JSON object.
        where: Its file or name, shown in errors.
        read: Names that were read, to detect unread fields.
        assumed: Names that are missing in the file and have a default.
    """

    values: Mapping[str, Any]
    where: str
    read: set[str] = field(default_factory=set, compare=False)
    assumed: frozenset[str] = frozenset()

    def bad(self, name: str, allowed: str) -> InputError:
        """Return the error for a missing or invalid value of `name`; `allowed` describes valid
        values."""
        if self.values.get(name) is None:
            return InputError(
                f"{self.where}: no {name!r}", f"allowed: {allowed}", "give the model's config.json"
            )
        shown = repr(self.values[name])[:60]
        if name in self.assumed:
            shown += ", the default of transformers"
        return InputError(f"{self.where}: {name} is {shown}", f"allowed: {allowed}")

    def with_defaults(self, **values: Any) -> Fields:
        """Return the same fields, with `values` for those missing in the file."""
        new = frozenset(values) - set(self.values)
        return Fields({**values, **self.values}, self.where, self.read, self.assumed | new)

    def get(self, name: str) -> Any:
        """Return the value of `name`, or None, and mark the field as read."""
        self.read.add(name)
        return self.values.get(name)

    def has(self, name: str) -> bool:
        """Whether `name` is given and not null."""
        return self.get(name) is not None

    def name_of(self, *names: str) -> str:
        """Return the first of `names` that is given, else the first one."""
        return next((name for name in names if self.has(name)), names[0])

    def size(self, name: str, default: int | None = None, lo: int = 1, hi: int = MAX_SIZE) -> int:
        """Return a whole number from `lo` to `hi`; absent or null returns `default`, if any."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # some published files write 64.0
        if isinstance(value, bool) or not isinstance(value, int) or not lo <= value <= hi:
            raise self.bad(name, f"a whole number from {lo} to {hi}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Number between 0 and 1e6, both excluded. Raises InputError otherwise."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise self.bad(name, "a number above 0 and below 1000000")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false. Raises InputError for any other value."""
        value = self.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.bad(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """String. Raises InputError for any other value."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.bad(name, "a string")
        return value

    def items(self, name: str, kind: type) -> list[Any]:
        """A list of `kind`; absent or null is empty."""
        value = self.get(name)
        value = [] if value is None else value
        if not isinstance(value, list) or any(
            not isinstance(item, kind) or (isinstance(item, bool) and kind is not bool)
            for item in value
        ):
            names = {str: "strings", int: "whole numbers", dict: "objects"}
            raise self.bad(name, f"a list of {names.get(kind, kind.__name__)}")
        return value

    def object(self, name: str) -> Fields:
        """A nested object; absent or null is empty."""
        value = self.get(name)
        value = {} if value is None else value
        if not isinstance(value, dict):
            raise self.bad(name, "an object")
        return Fields(value, f"{self.where}: {name[:60]}")

    def per_layer(self, name: str, layers: int, default: int | None = None) -> tuple[int, ...]:
        """A size for each layer: a list of `layers` sizes, or one size for all."""
        value = self.get(name)
        if not isinstance(value, list):
            return (self.size(name, default, lo=0),) * layers
        sizes = self.items(name, int)
        if len(sizes) != layers or any(not 0 <= size <= MAX_SIZE for size in sizes):
            raise self.bad(name, f"{layers} whole numbers, one per layer")
        return tuple(sizes)
