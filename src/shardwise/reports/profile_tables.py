"""Tables of `shardwise profile`: time of a step by part and rank, GEMMs, all-reduces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shardwise.reports.numbers import MISSING, number
from shardwise.reports.table import Cell, Column, Table, text_cell
from shardwise.units import MS, US

if TYPE_CHECKING:
    from shardwise.engine.profiling import Profile
    from shardwise.engine.step_timer import Product, RankProfile

PARTS = ("attention", "mlp", "all_reduce", "other", "total")
STEP = Column("step", "step", align="left")


def profile_tables(found: Profile) -> list[Table]:
    """Return the time by part of each rank, and GEMMs and all-reduces of rank 0."""
    return [_parts(found), _products(found), *([_messages(found)] if _has_messages(found) else [])]


def _steps(found: Profile) -> Iterator[tuple[str, list[RankProfile]]]:
    yield "prefill", found.prefill
    yield "decode", found.decode


def _parts(found: Profile) -> Table:
    limit = found.peak_rates[0]
    kind = "one rank's shard only" if found.emulated else "all ranks"
    return Table(
        "parts",
        f"TP={found.tp_size}, batch {found.batch} ({kind}, {found.dtype}, {found.device})",
        (
            STEP,
            Column("rank", "tp_rank"),
            *(Column(part.replace("_", "-"), f"{part}_s", "ms") for part in PARTS),
        ),
        tuple(
            tuple(
                (
                    text_cell(step),
                    text_cell(rank.tp_rank),
                    *(Cell(f"{rank.seconds[p] / MS:.3f}", rank.seconds[p]) for p in PARTS),
                )
                for rank in ranks
            )
            for step, ranks in _steps(found)
        ),
        (
            f"measured peak of a rank: memory copy {limit.copy_bytes_per_s / 1e9:.1f} GB/s, "
            f"GEMM {limit.matrix_flops / 1e9:.0f} GFLOP/s",
        ),
    )


def _products(found: Profile) -> Table:
    return Table(
        "products",
        "GEMMs of rank 0",
        (
            STEP,
            Column("product", "product", align="left"),
            Column("input", "input_shape", optional=1),
            Column("weight", "weight_shape"),
            Column("calls", "calls", "a step"),
            Column("call", "seconds", "µs"),
            Column("rate", "flops_per_s", "GFLOP/s"),
            Column("of limit", "flops_share_pct", "%"),
            Column("traffic", "bytes_per_s", "GB/s", optional=1),
            Column("of limit", "bytes_share_pct", "%", optional=1),
        ),
        tuple(
            tuple(_product(found, step, product) for product in ranks[0].products)
            for step, ranks in _steps(found)
        ),
    )


def _product(found: Profile, step: str, p: Product) -> tuple[Cell, ...]:
    limit = found.peak_rates[0]
    matrix, copy = p.flops_per_s / limit.matrix_flops, p.bytes_per_s / limit.copy_bytes_per_s
    return (
        text_cell(step),
        text_cell(p.name),
        text_cell(f"{p.rows}x{p.inputs}"),
        text_cell(f"{p.outputs}x{p.inputs}"),
        text_cell(p.calls),
        Cell(number(p.seconds / US), p.seconds),
        Cell(number(p.flops_per_s / 1e9), p.flops_per_s),
        Cell(f"{100 * matrix:.0f}", 100 * matrix),
        Cell(number(p.bytes_per_s / 1e9), p.bytes_per_s),
        Cell(f"{100 * copy:.0f}", 100 * copy),
    )


def _has_messages(found: Profile) -> bool:
    return any(ranks[0].messages for _, ranks in _steps(found))


def _messages(found: Profile) -> Table:
    alone = found.tp_size == 1 or found.emulated
    return Table(
        "messages",
        "All-reduces of rank 0",
        (
            STEP,
            Column("size", "bytes", "bytes"),
            Column("calls", "calls", "a step"),
            Column("call", "seconds", "µs"),
        ),
        tuple(
            tuple(
                (
                    text_cell(step),
                    Cell(f"{message.bytes:,}", float(message.bytes)),
                    text_cell(message.calls),
                    Cell(MISSING) if alone else Cell(number(message.seconds / US), message.seconds),
                )
                for message in ranks[0].messages
            )
            for step, ranks in _steps(found)
        ),
    )
