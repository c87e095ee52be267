"""The shipped tables: an index of all, and one compressed file per operator class and GPU."""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from shardwise.kernels.grid import Grid, refined
from shardwise.kernels.provenance import Array
from shardwise.kernels.roofline import Rates

DATA: Final = Path(__file__).parent / "data"
#: Codes per octave of latency: stored times are within 0.07 % of the measured ones.
STEPS_PER_OCTAVE: Final = 512
MISSING: Final = -32768

Codes16 = npt.NDArray[np.int16]


class Entry(msgspec.Struct, frozen=True):
    """One table of the index.

    Attributes:
        operator: Operator class.
        gpu: GPU it was measured on.
        engine: Whose kernels.
        variant: Dtype or kernel, under the names of the operator class.
        versions: Engine versions of its rows.
        points: Number of measurements.
        launch_s: Seconds of its fastest calls, a minimum for any size.
        memory_share: Share of the datasheet's bandwidth that its largest memory-bound calls reach.
            Smaller calls that exceed it ran from cache, which does not occur in a real step.
        slowness: Median ratio to the fastest engine's times at common points, 1 or more.
        error: Median relative error of a held-out shape.
        point_error: Median relative error of a held-out amount of work.
        offset: Where its arrays start in the file of its class and GPU, counted in tables.
    """

    operator: str
    gpu: str
    engine: str
    variant: str
    versions: tuple[str, ...]
    points: int
    launch_s: float
    memory_share: float
    slowness: float
    error: float
    point_error: float
    offset: int

    @property
    def label(self) -> str:
        """GPU, engine, versions and variant, for a table."""
        return " ".join((self.gpu, self.engine, "/".join(self.versions), self.variant))


class Table(msgspec.Struct, frozen=True, dict=True):
    """Measured times of one entry.

    Attributes:
        shapes: One row per measured shape, with the columns of the operator class.
        axes: Grid of each work axis, ascending.
        log2_seconds: (shapes, *grid); nan where nothing was measured.
    """

    shapes: Array
    axes: tuple[Array, ...]
    log2_seconds: Array

    @cached_property
    def grid(self) -> Grid:
        """The axes, refined."""
        return refined(self.axes)


class Index(msgspec.Struct, frozen=True):
    """All tables.

    Attributes:
        entries: One per table.
        rates: Datasheet rates of the GPUs of the tables.
        carried: Median relative error of times transferred from another table, by class and
            lower-case `Provenance` name.
    """

    entries: tuple[Entry, ...]
    rates: Mapping[str, Rates]
    carried: Mapping[str, Mapping[str, float]]


@cache
def index() -> Index:
    """Return the bundled index."""
    return read_index(DATA / "index.json")


def read_index(path: Path) -> Index:
    """Read an index from its file."""
    raw = msgspec.json.decode(path.read_bytes(), type=_IndexFile)
    rates = {
        name: msgspec.convert({"gpu_id": name, **row}, Rates) for name, row in raw.rates.items()
    }
    return Index(raw.tables, rates, raw.carried)


class _IndexFile(msgspec.Struct):
    tables: tuple[Entry, ...]
    rates: dict[str, dict[str, Any]]
    carried: dict[str, dict[str, float]]


@cache
def table(entry: Entry) -> Table:
    """Return the measurements of one entry of the bundled index."""
    return _file(entry.operator, entry.gpu)[entry.offset].table


@cache
def shapes(entry: Entry) -> Array:
    """Return the measured shapes of one entry of the bundled index, without decoding its times."""
    return _file(entry.operator, entry.gpu)[entry.offset].shapes


@cache
def _file(operator: str, gpu: str) -> tuple[_Stored, ...]:
    return _read(DATA / f"{operator}.{gpu}.xz")


class _Stored(msgspec.Struct, frozen=True):
    """One table of a file. Its times are decoded on demand, since few tables are used."""

    head: dict[str, Any]
    codes: memoryview

    @property
    def shapes(self) -> Array:
        return np.asarray(self.head["shapes"], dtype=np.float64)

    @property
    def table(self) -> Table:
        return Table(
            self.shapes,
            tuple(np.asarray(axis, dtype=np.float64) for axis in self.head["axes"]),
            decode(unpack(self.codes, tuple(self.head["dims"]))),
        )


def read_file(path: Path) -> tuple[Table, ...]:
    """Read the tables of one file, in the order in which they were written."""
    return tuple(stored.table for stored in _read(path))


def _read(path: Path) -> tuple[_Stored, ...]:
    raw = memoryview(lzma.decompress(path.read_bytes()))
    (size,) = np.frombuffer(raw[:4], "<u4")
    at = 4 + int(size)
    found = []
    for head in msgspec.json.decode(raw[4:at]):
        end = at + 2 * math.prod(head["dims"])
        found.append(_Stored(head, raw[at:end]))
        at = end
    return tuple(found)


def write_file(path: Path, tables: list[Table]) -> None:
    """Write the tables of one operator class and GPU."""
    heads = [
        {
            "dims": table.log2_seconds.shape,
            "shapes": table.shapes.tolist(),
            "axes": [axis.tolist() for axis in table.axes],
        }
        for table in tables
    ]
    head = json.dumps(heads, separators=(",", ":")).encode()
    body = b"".join(pack(encode(table.log2_seconds)) for table in tables)
    path.write_bytes(
        lzma.compress(np.uint32(len(head)).tobytes() + head + body, preset=9 | lzma.PRESET_EXTREME)
    )


def encode(log2_seconds: Array) -> Codes16:
    """Quantise log2 seconds; nan becomes `MISSING`."""
    steps = np.round((log2_seconds + 20.0) * STEPS_PER_OCTAVE)
    assert np.nanmax(np.abs(steps)) < 32767
    return np.where(np.isnan(steps), MISSING, steps).astype(np.int16)


def decode(codes: Codes16) -> Array:
    """Undo `encode`."""
    values = codes.astype(np.float64) / STEPS_PER_OCTAVE - 20.0
    return np.where(codes == MISSING, np.nan, values)


def pack(codes: Codes16) -> bytes:
    """Encode differences along the last axis, low bytes first, then high bytes, which compresses
    well."""
    differences = np.diff(codes, axis=-1, prepend=np.int16(0)).astype("<i2")
    return differences.reshape(-1).view(np.uint8).reshape(-1, 2).T.tobytes()


def unpack(raw: bytes | memoryview, dims: tuple[int, ...]) -> Codes16:
    """Undo `pack`."""
    planes = np.frombuffer(raw, np.uint8).reshape(2, -1).T
    differences = np.ascontiguousarray(planes).view("<i2").reshape(dims)
    return np.cumsum(differences, axis=-1, dtype=np.int16)
