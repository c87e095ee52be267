"""Raw timings of one operator class as columns."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from shardwise.kernels.provenance import Array

Names = npt.NDArray[np.str_]
Columns = dict[str, Names]


class Rows(msgspec.Struct, frozen=True):
    """Timings, one per element.

    Attributes:
        gpu, engine, version, variant: Names; `variant` under the names of the operator class.
        shape: (rows, shape columns). work: (rows, work axes).
        seconds: Time of one call.
    """

    gpu: Names
    engine: Names
    version: Names
    variant: Names
    shape: Array
    work: Array
    seconds: Array

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Rows:
        """Return the rows selected by a mask or by indices."""
        return Rows(
            self.gpu[chosen],
            self.engine[chosen],
            self.version[chosen],
            self.variant[chosen],
            self.shape[chosen],
            self.work[chosen],
            self.seconds[chosen],
        )

    def tables(self) -> Iterator[tuple[tuple[str, str, str], Rows]]:
        """Yield the rows of each (gpu, engine, variant), sorted by name."""
        keys = np.char.add(np.char.add(self.gpu, "|"), np.char.add(self.engine, "|"))
        names, which = np.unique(np.char.add(keys, self.variant), return_inverse=True)
        for n, name in enumerate(names):
            gpu, engine, variant = str(name).split("|")
            yield (gpu, engine, variant), self.take(which == n)


def read_columns(path: Path) -> Columns:
    """Read a CSV file, gzipped or not, as one array of strings per column."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    reader = csv.reader(io.StringIO(text))
    head = next(reader)
    columns = list(zip(*reader, strict=True))
    return {name: np.array(column) for name, column in zip(head, columns, strict=True)}


def numbers(column: Names, empty: float = 0.0) -> Array:
    """Return a column as numbers, with `empty` for empty cells."""
    return np.where(column == "", str(empty), column).astype(np.float64)


def concatenate(parts: list[Rows]) -> Rows:
    """Concatenate the rows of several sources."""
    return Rows(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("gpu", "engine", "version", "variant", "shape", "work", "seconds")
        )
    )
