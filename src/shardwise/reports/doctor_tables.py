"""Tables of a node: GPUs, links, cost of TP, and start-up logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shardwise.doctor.diagnosis import (
    ALL_REDUCES,
    MESSAGES,
    TOKEN_BYTES,
    Diagnosis,
    Verdict,
)
from shardwise.node.generations import catalogue_gpu
from shardwise.node.node import Node
from shardwise.node.reading.startup import Startup
from shardwise.perfmodel.node_all_reduce import AllReduce
from shardwise.reports.numbers import MISSING, number
from shardwise.reports.table import Cell, Column, Row, Table, text_cell
from shardwise.units import GIB, KB, MS, US

_LIBRARY: Final = {"custom": "own kernel", "nccl": "NCCL", "rccl": "RCCL", "none": "none"}
_UNKNOWN: Final = "?"
_GRADES: Final = {
    "measured": "times measured",
    "stand-in": "times from other machines",
    "guess": "times estimated from",
}


def device_table(node: Node) -> Table:
    """Return one row per GPU, with the columns that have values."""
    columns = [Column("GPU", "index"), Column("name", "name", align="left")]
    optional = (
        (Column("memory", "memory_bytes", "GiB"), [_gib(d.memory_bytes) for d in node.devices]),
        (Column("usable", "usable_bytes", "GiB"), [_usable(d.name) for d in node.devices]),
        (Column("in use", "used_bytes", "GiB"), [_gib(d.used_bytes) for d in node.devices]),
        (
            Column("NUMA", "numa", align="left", optional=2),
            [_numa(node, d.index) for d in node.devices],
        ),
        (
            Column("CPUs", "cpus", align="left", optional=4),
            [text_cell(d.cpus) for d in node.devices],
        ),
        (
            Column("PCIe", "pcie", align="left", optional=1),
            [text_cell(_pcie(d.pcie_gen, d.pcie_width)) for d in node.devices],
        ),
        (
            Column("bus", "bus_id", align="left", optional=3),
            [text_cell(d.bus_id) for d in node.devices],
        ),
        (
            Column("partition", "partition", align="left", optional=3),
            [text_cell(d.partition) for d in node.devices],
        ),
    )
    shown = [(c, cells) for c, cells in optional if any(x.text not in ("", MISSING) for x in cells)]
    rows = [
        (
            text_cell(device.index, "strong"),
            text_cell(device.name or "not said"),
            *(cells[i] for _, cells in shown),
        )
        for i, device in enumerate(node.devices)
    ]
    host = node.host
    usable = any(column.name == "usable_bytes" for column, _ in shown)
    notes = [
        "usable: the total that CUDA or HIP reports to a program, from the catalogue; shares refer "
        "to it"
    ] * usable
    notes += [
        f"{label}: {value}"
        for label, value in (
            ("CPU", host.cpu_name),
            ("sockets", host.sockets),
            ("NUMA nodes", ", ".join(f"{n}: {c}" for n, c in sorted(host.numa_cpus.items()))),
            ("virtual machine", host.hypervisor),
        )
        if value
    ]
    return Table(
        "gpus",
        "1 GPU" if len(node.devices) == 1 else f"{len(node.devices)} GPUs",
        (*columns, *(c for c, _ in shown)),
        (tuple(rows),),
        tuple(notes),
    )


def link_table(node: Node) -> Table:
    """Return the link of each pair, as the tools write it; "?" if unknown."""
    columns = (
        Column("", "gpu", align="left"),
        *(Column(f"GPU{i}", f"gpu{i}", align="left") for i in node.indices),
    )
    rows = [
        (
            text_cell(f"GPU{a}", "strong"),
            *(
                text_cell("X" if a == b else link.code if (link := node.link(a, b)) else _UNKNOWN)
                for b in node.indices
            ),
        )
        for a in node.indices
    ]
    kinds = {link.kind for link in node.links.values()}
    legend = {
        "NVLINK": "NV#: number of NVLinks",
        "XGMI": "XGMI: a direct link; XGMI/2: two hops; XGMI/?: number of hops unknown",
        "PIX": "PIX: one PCIe switch",
        "PXB": "PXB: several PCIe switches",
        "PHB": "PHB: through the CPU's host bridge",
        "NODE": "NODE: between host bridges of one NUMA node",
        "PCIE": "PCIE: over PCIe, path unknown",
        "SYS": "SYS: between CPU sockets",
    }
    notes = "; ".join(text for kind, text in legend.items() if kind in kinds)
    return Table("links", "Links", columns, (tuple(rows),), (notes,))


def verdict_table(diagnosis: Diagnosis, engines: Sequence[str]) -> Table:
    """Return the GPUs, the all-reduce with its reason, and its cost per TP size and engine."""
    sections = tuple(_verdict_rows(verdict, engines) for verdict in diagnosis.verdicts)
    sources: dict[str, set[str]] = {}
    for verdict in diagnosis.verdicts:
        for cost in (cost for each in (*verdict.costs, *verdict.larger) for cost in each):
            sources.setdefault(cost.grade, set()).add(cost.source)
    notes = [
        f"a message is a step's hidden states: {TOKEN_BYTES / KB:.0f} KB per token (hidden size "
        f"8192, 16 bits); a decode step of 80 layers has {ALL_REDUCES} all-reduces",
        *(f"{_GRADES[grade]}: {'; '.join(sorted(sources[grade]))}" for grade in sorted(sources)),
    ]
    return Table(
        "verdicts",
        "Tensor parallelism on these GPUs",
        (
            Column("TP", "tp_size"),
            Column("GPUs, best group first", "gpus", align="left"),
            Column("slowest link", "slowest", align="left", optional=2),
            Column("engine", "engine", align="left"),
            Column("all-reduce", "library", align="left"),
            *(Column(name, f"all_reduce_{tokens}_tokens", "µs") for name, tokens in MESSAGES),
            Column("step of 32", "decode_all_reduce", "ms"),
            Column("why", "why", align="left", optional=4),
        ),
        sections,
        tuple(notes) if sections else (),
    )


def startup_table(starts: Sequence[Startup]) -> Table:
    """Return one row per start: memory by purpose, tokens, and the outcome."""
    rows = tuple(_startup_row(start) for start in starts)
    loose = any(start.tokens_follow_concurrency is False for start in starts)
    notes = (
        *(("per GPU; GB in both engines' logs is GiB",) if rows else ()),
        *(
            ("for models with windows or states, tokens cannot be converted to concurrency",)
            if loose
            else ()
        ),
    )
    return Table(
        "startups",
        "Start-up logs",
        (
            Column("engine", "engine", align="left"),
            Column("model", "model", align="left"),
            Column("TP", "tp_size"),
            Column("weights", "weights_bytes", "GiB"),
            Column("KV cache", "kv_bytes", "GiB"),
            Column("KV tokens", "kv_tokens", optional=1),
            Column("concurrency", "concurrency", align="left", optional=2),
            Column("graphs", "graph_bytes", "GiB", optional=3),
            Column("outcome", "outcome", align="left"),
        ),
        (rows,),
        notes,
    )


def _verdict_rows(verdict: Verdict, engines: Sequence[str]) -> tuple[Row, ...]:
    """Return one row per engine; engines with equal results share a row."""
    rows: dict[tuple[str, ...], tuple[list[str], Row]] = {}
    for i, engine in enumerate(engines):
        row = _verdict_row(verdict, i)
        key = tuple(cell.text for cell in row)
        rows.setdefault(key, ([], row))[0].append(engine)
    return tuple((*row[:3], text_cell(", ".join(who)), *row[3:]) for who, row in rows.values())


def _verdict_row(verdict: Verdict, i: int) -> Row:
    """Return a row without the engine's name."""
    taken = verdict.all_reduces[i]
    groups = "  ".join(",".join(map(str, group.devices)) for group in verdict.groups)
    slowest = verdict.best.slowest
    decode = verdict.seconds(i, MESSAGES[1][1])
    return (
        text_cell(verdict.tp_size, "strong"),
        text_cell(groups),
        text_cell(slowest.code if slowest else _UNKNOWN),
        text_cell(_all_reduce(taken)),
        *(_span(verdict.seconds(i, tokens), US) for _, tokens in MESSAGES),
        _span((decode[0] * ALL_REDUCES, decode[1] * ALL_REDUCES) if decode else None, MS),
        text_cell(taken.why),
    )


def _all_reduce(taken: AllReduce) -> str:
    """Describe an all-reduce, e.g. "own kernel below 8 MiB, then NCCL"."""
    name = _LIBRARY[taken.library]
    if taken.library == "custom":
        limit = f"{name} below {_size(taken.below_bytes or 0)}, then {taken.larger}"
        return limit if taken.certain else f"{limit}; else {taken.otherwise}"
    through = {"host memory": " through host memory", "peer to peer": " GPU to GPU over PCIe"}
    return f"{name}{through.get(taken.transport, '')}"


def _size(size: int) -> str:
    return f"{size // 2**20} MiB" if size >= 2**20 else f"{size // 2**10} KiB"


def _span(seconds: tuple[float, float] | None, unit: float) -> Cell:
    if seconds is None:
        return Cell(MISSING)
    least, most = (number(value / unit) for value in seconds)
    return Cell(least if least == most else f"{least} to {most}", seconds[1])


def _startup_row(start: Startup) -> Row:
    ended = f"failed: {start.failure.what}" if start.failure else "no failure in the text"
    fits = start.failure.max_model_len if start.failure else None
    at = f"{start.concurrency:g}x of {start.concurrency_len:,}" if start.concurrency else ""
    tp = str(start.tp_size) if start.tp_size else f"≥ {start.tp_at_least}"
    return (
        text_cell(f"{start.engine} {start.version}".strip()),
        text_cell(start.model or "not said"),
        text_cell(tp),
        _gib(start.weights_bytes, 2),
        _gib(start.kv_bytes, 2),
        Cell(MISSING if start.kv_tokens is None else f"{start.kv_tokens:,}", start.kv_tokens),
        text_cell(at),
        _gib(start.graph_bytes, 2),
        text_cell(f"{ended}; {fits:,} tokens fit" if fits else ended),
    )


def _gib(size: float | None, places: int = 1) -> Cell:
    return Cell(MISSING) if size is None else Cell(f"{size / GIB:,.{places}f}", size)


def _usable(name: str) -> Cell:
    known = catalogue_gpu(name)
    return _gib(known.runtime_memory_bytes or None if known is not None else None)


def _numa(node: Node, index: int) -> Cell:
    device = node.device(index)
    return text_cell(str(device.numa) if device.numa is not None else device.numa_affinity)


def _pcie(gen: int | None, width: int | None) -> str:
    return " ".join(
        part for part in (f"gen {gen}" if gen else "", f"x{width}" if width else "") if part
    )
