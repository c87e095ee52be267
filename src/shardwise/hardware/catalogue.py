"""GPUs and prices by name, with where each value came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from shardwise.errors import InputError, UnknownNameError
from shardwise.hardware.gpu import AllReduceLine, Gpu, Interconnect
from shardwise.hardware.plausible import check_units
from shardwise.hardware.tables import GpuTable, PriceTable, Value, decode, number, read_toml
from shardwise.hardware.user_files import own_hardware

DATA = Path(__file__).parent / "data"
FLOPS = ("bf16", "fp8", "fp4", "fp32")
VENDOR_WORDS = ("nvidia", "amd", "instinct")
DATE = re.compile(r"(\d{4}-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?")


@dataclass(frozen=True)
class Price:
    """What one GPU costs for an hour, from whom, on what terms."""

    gpu: str
    usd_per_hour: float
    provider: str
    tier: str
    source: str
    date: str  #: ISO date or month; empty if the source is undated
    default: bool = False


@dataclass(frozen=True)
class Fact:
    """One value of a GPU as its file wrote it, for printing."""

    field: str
    value: float
    unit: str
    source: str
    date: str
    alternatives: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Catalogue:
    """Every known GPU and price. Build with `load_catalogue` or `default_catalogue`."""

    by_id: Mapping[str, Gpu]
    names: Mapping[str, str]  #: folded spelling -> id
    facts_by_id: Mapping[str, tuple[Fact, ...]]
    all_prices: tuple[Price, ...]

    def gpu(self, name: str) -> Gpu:
        """The GPU of an id or a common spelling. UnknownNameError, with near names, if none."""
        known = self.names.get(_fold(name)) or self.names.get(_fold(_without_vendor(name)))
        if known is None:
            raise UnknownNameError("GPU", name, self.by_id, "add your own in a TOML file")
        return self.by_id[known]

    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(self.by_id.values())

    def prices(self, gpu_id: str) -> tuple[Price, ...]:
        """Every price of one GPU, the latest file's first."""
        known = self.gpu(gpu_id).id
        return tuple(price for price in self.all_prices if price.gpu == known)

    def price(self, gpu_id: str, tier: str | None = None) -> Price | None:
        """The default price, or the first of `tier`; None if the GPU has no (default) price.

        InputError for a tier that a priced GPU does not have.
        """
        prices = self.prices(gpu_id)
        if tier is None:
            return next((price for price in prices if price.default), None)
        found = next((price for price in prices if price.tier == tier), None)
        if prices and found is None:
            tiers = ", ".join(sorted({price.tier for price in prices}))
            raise InputError(f"price tier {tier!r} for {gpu_id}", f"allowed: {tiers}")
        return found

    def facts(self, gpu_id: str) -> tuple[Fact, ...]:
        """Each value of one GPU with unit, source, date and the figures that disagree."""
        return self.facts_by_id[self.gpu(gpu_id).id]


def load_catalogue(user_files: Iterable[Path | str] = ()) -> Catalogue:
    """The bundled data, then `user_files`, each of which adds or replaces GPUs and prices."""
    by_id: dict[str, Gpu] = {}
    names: dict[str, str] = {}
    facts: dict[str, tuple[Fact, ...]] = {}
    prices: list[tuple[str, Price]] = []
    for path in (DATA / "gpus.toml", DATA / "prices.toml", *map(Path, user_files)):
        file = read_toml(path)
        for given, data in file.gpu.items():
            where = f"{path}: gpu.{given}"
            table = decode(data, GpuTable, where)
            gpu_id = given.lower()
            by_id[gpu_id] = _gpu(gpu_id, table, where)
            check_units(by_id[gpu_id], where)
            facts[gpu_id] = tuple(_facts(table, path.name, where))
            names |= {_fold(n): gpu_id for n in (*table.aliases, table.name, given) if n}
        found = [
            (f"{path}: price {n}", _price(decode(row, PriceTable, f"{path}: price {n}"), path, n))
            for n, row in enumerate(file.price, 1)
        ]
        prices = found + prices
    catalogue = Catalogue(by_id, names, facts, ())
    resolved = tuple(_resolve(catalogue, where, price) for where, price in prices)
    return Catalogue(by_id, names, facts, resolved)


@cache
def default_catalogue() -> Catalogue:
    """The bundled data and the user's own hardware folder, read once."""
    return load_catalogue(own_hardware())


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _without_vendor(name: str) -> str:
    return " ".join(w for w in re.split(r"[\s_-]+", name) if w.lower() not in VENDOR_WORDS)


def _gpu(gpu_id: str, table: GpuTable, where: str) -> Gpu:
    memory = number(table.memory, "bytes", f"{where}.memory")
    usable = table.usable_memory
    flops = {k: v for k in FLOPS if (v := getattr(table.flops, k)) is not None}
    return Gpu(
        id=gpu_id,
        name=table.name or gpu_id,
        vendor=table.vendor,
        generation=table.generation or gpu_id,
        memory_bytes=number(usable, "bytes", f"{where}.usable_memory") if usable else memory,
        memory_bandwidth=number(table.memory_bandwidth, "bytes_per_s", f"{where}.memory_bandwidth"),
        flops={k: number(v, "flops", f"{where}.flops.{k}") for k, v in flops.items()},
        tdp_w=number(table.tdp, "watts", f"{where}.tdp") if table.tdp else 0.0,
        num_compute_units=_whole(table.compute_units, f"{where}.compute_units"),
        interconnect=_interconnect(table, f"{where}.interconnect"),
        node_gpus=_node_gpus(table, where),
        nominal_memory_gb=memory / 1e9,
        all_reduce=dict(_all_reduce(table, f"{where}.all_reduce")),
    )


def _whole(fact: Value, where: str) -> int:
    count = number(fact, "count", where)
    if count != int(count):
        raise InputError(f"{where}: value {count:g}", "allowed: a whole number")
    return int(count)


def _all_reduce(table: GpuTable, where: str) -> Iterable[tuple[int, AllReduceLine]]:
    for line in table.all_reduce:
        if line.world_size < 2:
            raise InputError(f"{where}: world_size {line.world_size}", "allowed: 2 or more")
        latency = number(line.latency, "seconds", f"{where}.latency")
        rate = number(line.bandwidth, "bytes_per_s", f"{where}.bandwidth")
        yield line.world_size, AllReduceLine(latency, rate)


def _interconnect(table: GpuTable, where: str) -> Interconnect:
    link = table.interconnect
    for key, count in (("links", link.links), ("max_world", link.max_world)):
        if count < 1:
            raise InputError(f"{where}.{key}: {count}", "allowed: 1 or more")
    if link.topology == "full_mesh" and link.links < link.max_world - 1:
        raise InputError(
            f"{where}.links: {link.links}", f"a full mesh of {link.max_world} needs one per peer"
        )
    rate = number(link.bandwidth, "bytes_per_s", f"{where}.bandwidth")
    name = link.technology or link.topology
    return Interconnect(name, link.topology, rate, link.links, link.max_world)


def _node_gpus(table: GpuTable, where: str) -> int:
    most = table.interconnect.max_world
    if not 0 <= table.node_gpus <= most:
        raise InputError(f"{where}.node_gpus: {table.node_gpus}", f"allowed: 1 to {most}")
    return table.node_gpus or most


def _facts(table: GpuTable, file: str, where: str) -> Iterable[Fact]:
    for parent, part in (
        ("", table),
        ("flops.", table.flops),
        ("interconnect.", table.interconnect),
    ):
        for key in part.__struct_fields__:
            fact = getattr(part, key)
            if isinstance(fact, Value):
                _check_date(fact, f"{where}.{parent}{key}")
                yield Fact(
                    parent + key,
                    fact.value,
                    fact.unit,
                    fact.source or file,
                    fact.date,
                    tuple(fact.alternatives),
                    fact.why,
                )


def _check_date(fact: Value, where: str) -> None:
    if not DATE.fullmatch(fact.date):
        raise InputError(f"{where}: date {fact.date!r}", 'allowed: "YYYY-MM-DD" or "YYYY-MM"')


def _price(row: PriceTable, path: Path, n: int) -> Price:
    where = f"{path}: price {n}.cost"
    _check_date(row.cost, where)
    usd = number(row.cost, "usd_per_hour", where)
    source = row.cost.source or path.name
    return Price(row.gpu, usd, row.provider or "own", row.tier, source, row.cost.date, row.default)


def _resolve(catalogue: Catalogue, where: str, price: Price) -> Price:
    try:
        gpu_id = catalogue.gpu(price.gpu).id
    except UnknownNameError as error:
        raise UnknownNameError(f"GPU in {where}:", price.gpu, catalogue.by_id) from error
    return replace(price, gpu=gpu_id)
