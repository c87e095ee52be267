"""Tables of `explain`: the shard of each rank, and the sums over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from shardwise.reports.numbers import MISSING
from shardwise.reports.table import Cell, Column, Row, Table, text_cell

if TYPE_CHECKING:
    from shardwise.engine.teaching import Cut, Explanation, Sum


def weights_table(found: Explanation) -> Table:
    """Return a row per weight, with the rows or columns of each rank."""
    ranks = range(found.tp_size)
    return Table(
        "weights",
        "The weights are sharded. A matrix is stored as (outputs, inputs).",
        (
            Column("weight", "weight", align="left"),
            Column("shape", "shape"),
            Column("sharded by", "how", align="left"),
            *(Column(f"rank {r}", f"rank_{r}", optional=r, align="left") for r in ranks),
        ),
        (tuple(_weight(name, cut) for name, cut in collapsed(found.cuts)),),
        (f"{found.heads_per_rank} query heads per rank; KV heads {kv_heads(found)}",),
    )


def kv_heads(found: Explanation) -> str:
    """Return the KV heads of each rank as text."""
    return ", ".join(f"rank {r}: {held(kv)}" for r, kv in enumerate(found.kv_heads))


def collapsed(cuts: Sequence[Cut]) -> Iterator[tuple[str, Cut]]:
    """Yield each weight with its short name. Experts are sharded alike: only the first is kept."""
    for cut in cuts:
        if "experts." not in cut.name or "experts.0." in cut.name:
            yield cut.name.replace("experts.0.", "experts.*.").removesuffix(".weight"), cut


def held(part: tuple[int, int]) -> str:
    """Return a half-open range as text, with the last number included."""
    return f"{part[0]}-{part[1] - 1}" if part[1] - part[0] > 1 else str(part[0])


def shape_of(cut: Cut) -> str:
    """Return the shape of a weight as text."""
    return "x".join(map(str, cut.shape))


def _weight(name: str, cut: Cut) -> Row:
    parts = ("all" if cut.how == "whole" else held(part) for part in cut.ranges)
    return (
        text_cell(name, "strong"),
        text_cell(shape_of(cut)),
        text_cell(MISSING if cut.how == "whole" else cut.how),
        *map(text_cell, parts),
    )


def sums_table(found: Explanation) -> Table:
    """Return the first values of each rank's partial output, their sum, and the unsharded output,
    of attention and MLP."""
    shown = len(found.sums[0].total)
    return Table(
        "sums",
        "Last token's output: the ranks' partial outputs add up to the unsharded one",
        (
            Column("part", "part", align="left"),
            Column("output", "output", align="left"),
            *(Column(f"value {i}", f"value_{i}", optional=i) for i in range(shown)),
        ),
        tuple(tuple(_sums(part)) for part in found.sums),
        tuple(
            f"{part.part}: an all-reduce of {part.shape[0]}x{part.shape[1]} values; largest "
            f"difference anywhere {part.relative_error:.1e} of the largest value"
            for part in found.sums
        ),
    )


def _sums(part: Sum) -> Iterator[Row]:
    outputs = [(f"rank {rank}", values) for rank, values in enumerate(part.partials)]
    for name, values in (*outputs, ("sum", part.total), ("unsharded", part.unsharded)):
        numbers = (Cell(f"{value:+.5f}", value) for value in values)
        yield (text_cell(part.part), text_cell(name), *numbers)
