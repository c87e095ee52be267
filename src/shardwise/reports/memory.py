"""Memory of one GPU, and whether the model fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from shardwise.reports.cells import TP, at_least_one, scaled_column
from shardwise.reports.numbers import number
from shardwise.reports.table import Cell, Column, Table, text_cell
from shardwise.units import GB


class MemoryUse(msgspec.Struct, frozen=True):
    """Memory use of one GPU, in bytes by part (`weights`, `kv_cache`, …)."""

    gpu: str
    tp_size: int
    weight_dtype: str
    parts: Mapping[str, float]
    capacity_bytes: float
    nameplate_gb: float = 0.0  #: nominal memory; 0 if unknown

    @property
    def short_bytes(self) -> float:
        """Missing bytes; negative if there is room."""
        return sum(self.parts.values()) - self.capacity_bytes


def memory_table(uses: Sequence[MemoryUse], title: str) -> Table:
    """Return memory per GPU by part, the capacity, and the free or missing memory."""
    uses = at_least_one(uses, "GPUs")
    parts = list(dict.fromkeys(part for use in uses for part in use.parts))
    columns = [
        scaled_column(
            Column(
                part.replace("_", " ").replace("kv", "KV"),
                f"{part}_bytes",
                "bytes",
                optional=int(part not in ("weights", "kv_cache")),
            ),
            [use.parts.get(part) for use in uses],
        )
        for part in parts
    ]
    capacity, capacities = scaled_column(
        Column("capacity", "capacity_bytes", "bytes"), [use.capacity_bytes for use in uses]
    )
    rows = tuple(
        (
            text_cell(use.gpu, "strong"),
            text_cell(use.tp_size),
            text_cell(use.weight_dtype),
            *(cells[i] for _, cells in columns),
            capacities[i],
            fit_cell(use),
        )
        for i, use in enumerate(uses)
    )
    return Table(
        name="memory",
        title=title,
        columns=(
            Column("GPU", "gpu", align="left"),
            TP,
            Column("dtype", "weight_dtype", align="left"),
            *(column for column, _ in columns),
            capacity,
            Column("fits", "short_bytes", align="left"),
        ),
        sections=(rows,),
    )


def fit_cell(use: MemoryUse) -> Cell:
    """Say whether it fits, with the free or missing GB."""
    if use.short_bytes > 0:
        return Cell(f"✗ {fit_words(use)}", use.short_bytes, "worse")
    return Cell(f"✓ {fit_words(use)}", use.short_bytes, "better")


def fit_words(use: MemoryUse) -> str:
    """`2.00 GB short` or `25.0 GB free`."""
    return f"{number(abs(use.short_bytes) / GB)} GB {'short' if use.short_bytes > 0 else 'free'}"
