"""Tables of the catalogue: GPUs, facts, prices, models, and which models fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shardwise.architecture.bundled import stored_in
from shardwise.architecture.mixers import Attention, Mla
from shardwise.architecture.model import Model
from shardwise.hardware.catalogue import Catalogue, Price
from shardwise.hardware.gpu import Gpu, Interconnect
from shardwise.hardware.reading import Fact
from shardwise.layout.deployment import Layout
from shardwise.layout.shards import rank_shards
from shardwise.perfmodel.memory import LargestModel
from shardwise.reports.numbers import number
from shardwise.reports.table import Cell, Column, Table, text_cell
from shardwise.units import GB, GIB

_TOPOLOGY = {
    "full_mesh": "mesh, a link per pair",
    "switched": "switch",
    "pcie": "PCIe",
    "network": "network",
}


def _value(value: float, scale: float = 1.0) -> Cell:
    return Cell(number(value / scale), value)


def gpu_table(catalogue: Catalogue) -> Table:
    """Return every GPU with the values that the performance model uses."""
    rows = []
    for gpu in sorted(catalogue.gpus(), key=lambda g: (g.vendor, g.memory_bytes)):
        price = catalogue.price(gpu.id)
        link = gpu.interconnect
        rows.append(
            (
                text_cell(gpu.id, "strong"),
                _value(gpu.memory_nameplate_gb),
                _value(gpu.memory_bytes, GIB),
                _value(gpu.memory_bandwidth, 1e12),
                _value(gpu.matrix_rate("bf16"), 1e12),
                *(
                    _value(gpu.flops[d], 1e12) if d in gpu.flops else text_cell("–")
                    for d in ("fp8", "fp4")
                ),
                _value(link.bandwidth_bytes_per_s, 1e9),
                text_cell(_links(link)),
                text_cell(gpu.node_gpus),
                _value(price.usd_per_hour) if price else text_cell("–"),
                text_cell("announced" if gpu.status == "announced" else gpu.released or "–"),
            )
        )
    return Table(
        name="gpus",
        title="GPUs",
        columns=(
            Column("GPU", "gpu", align="left"),
            Column("memory", "memory_nameplate_gb", "GB"),
            Column("driver", "memory_bytes", "GiB", optional=3),
            Column("bandwidth", "memory_bandwidth_bytes_per_s", "TB/s"),
            Column("16 bit", "bf16_flops", "TFLOP/s"),
            Column("fp8", "fp8_flops", "TFLOP/s"),
            Column("fp4", "fp4_flops", "TFLOP/s", optional=1),
            Column("links", "link_bytes_per_s", "GB/s"),
            Column("topology", "topology", align="left", optional=5),
            Column("in a node", "node_gpus", optional=4),
            Column("price", "usd_per_hour", "USD/h"),
            Column("released", "released", align="left", optional=6),
        ),
        sections=(tuple(rows),),
        notes=(
            "memory: nominal; driver: as reported by nvidia-smi or amd-smi, used for memory "
            "checks; rates: dense, for the dtypes of the matrix units; links: all links of one "
            "GPU, one direction",
            "for sources, dates and conflicting values, run: shardwise catalogue facts GPU",
        ),
    )


def _links(link: Interconnect) -> str:
    island = link.island
    if island is None:
        return _TOPOLOGY[link.topology]
    among = f"{island.technology} among {island.gpus}"
    return f"{_TOPOLOGY[link.topology]}, {'' if island.fitted else 'optional '}{among}"


def fact_table(gpu: Gpu, facts: Sequence[Fact]) -> Table:
    """Return each value of a GPU with its source."""
    rows = tuple(
        (
            text_cell(f.field),
            text_cell(f.value) if isinstance(f.value, str) else _value(f.value),
            text_cell(f.unit),
            text_cell(f.source),
            text_cell(f.date),
            text_cell("; ".join(f.alternatives) or "–"),
            text_cell(f.why or "–"),
        )
        for f in facts
    )
    titles = ("value of", "value", "unit", "source", "date", "others say", "why this one")
    optional = {"date": 1, "others say": 2, "why this one": 3}
    columns = tuple(
        Column(
            title,
            title.replace(" ", "_"),
            align="right" if title == "value" else "left",
            optional=optional.get(title, 0),
        )
        for title in titles
    )
    return Table("facts", gpu.name, columns, (rows,))


def price_table(gpu: Gpu, prices: Sequence[Price]) -> Table:
    """Return every price of a GPU."""
    rows = tuple(
        (
            _value(p.usd_per_hour),
            text_cell(p.provider),
            text_cell(p.tier),
            text_cell(p.date or "undated"),
            text_cell("default" if p.default else ""),
        )
        for p in prices
    )
    columns = (
        Column("price", "usd_per_hour", "USD/h"),
        Column("provider", "provider", align="left"),
        Column("tier", "tier", align="left"),
        Column("date", "date", align="left"),
        Column("", "default", align="left"),
    )
    notes = () if prices else ("no price is known: pass one with --price or a TOML file",)
    return Table("prices", f"Prices of a {gpu.id}", columns, (rows,), notes)


def _kv_heads(model: Model) -> str:
    """KV heads of the attention layers, "MLA", or "–" for a model without attention."""
    heads = {
        "MLA" if isinstance(g.mixer, Mla) else str(g.mixer.num_kv_heads)
        for g in model.groups
        if isinstance(g.mixer, Attention | Mla)
    }
    return "/".join(sorted(heads)) or "–"


def model_table(models: Iterable[Model]) -> Table:
    """Return every bundled model with its size."""
    rows = []
    for arch in models:
        rows.append(
            (
                text_cell(arch.id, "strong"),
                _value(arch.parameters(), 1e9),
                _value(arch.active_parameters, 1e9),
                *(_value(stored_in(arch, d).weight_bytes, GB) for d in ("bf16", "fp8", "fp4")),
                _value(float(rank_shards(arch, Layout()).cache_bytes(8192.0, "bf16")[0]), GB),
                text_cell(arch.num_heads),
                text_cell(_kv_heads(arch)),
                text_cell(arch.checkpoint_dtype),
            )
        )
    return Table(
        name="models",
        title="Bundled models",
        columns=(
            Column("model", "model", align="left"),
            Column("parameters", "parameters", "billion"),
            Column("active", "active_parameters", "billion"),
            Column("bf16", "bf16_bytes", "GB"),
            Column("fp8", "fp8_bytes", "GB", optional=1),
            Column("fp4", "fp4_bytes", "GB", optional=1),
            Column("KV at 8k", "kv_bytes_8192", "GB", optional=2),
            Column("heads", "num_heads", optional=3),
            Column("KV heads", "num_kv_heads", optional=3),
            Column("checkpoint", "checkpoint_dtype", align="left"),
        ),
        sections=(tuple(rows),),
        notes=("KV at 8k: cache of one sequence of 8,192 tokens in bf16",),
    )


def fit_table(found: Sequence[LargestModel]) -> Table:
    """Return the largest model for one GPU of each kind."""
    sections: dict[str, list[tuple[Cell, ...]]] = {}
    for item in found:
        sections.setdefault(item.gpu, []).append(
            (
                text_cell(item.gpu, "strong"),
                text_cell(item.dtype),
                _value(item.max_parameters, 1e9),
                text_cell(item.model or "no bundled model"),
                _value(item.weight_bytes, GB) if item.model else text_cell("–"),
            )
        )
    return Table(
        name="fits",
        title="The largest model that fits on one GPU (TP=1)",
        columns=(
            Column("GPU", "gpu", align="left"),
            Column("dtype", "dtype", align="left"),
            Column("at most", "max_parameters", "billion"),
            Column("largest bundled", "model", align="left"),
            Column("its weights", "weight_bytes", "GB"),
        ),
        sections=tuple(tuple(rows) for rows in sections.values()),
        notes=(
            "at most: weights only, at 90 % of the memory; bundled: with 8,192 tokens of KV cache",
        ),
    )
