"""GPUs and prices by name, with the source of each value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import msgspec
from msgspec.structs import replace

from shardwise.errors import InputError, UnknownNameError
from shardwise.hardware.gpu import Gpu
from shardwise.hardware.reading import Fact, check_date, facts_of, gpu_of
from shardwise.hardware.tables import GpuTable, PriceTable, decode, number, read_toml
from shardwise.hardware.user_files import own_hardware

DATA = Path(__file__).parent / "data"
VENDOR_WORDS = ("nvidia", "amd", "intel", "instinct", "geforce", "tesla")


class Price(msgspec.Struct, frozen=True):
    """Price of one GPU per hour, with provider and tier."""

    gpu: str
    usd_per_hour: float
    provider: str
    tier: str
    source: str
    date: str  #: ISO date or month; empty if the source is undated
    default: bool = False


class Catalogue(msgspec.Struct, frozen=True):
    """Every known GPU and price. Build with `load_catalogue` or `default_catalogue`."""

    by_id: Mapping[str, Gpu]
    names: Mapping[str, str]  #: normalized spelling -> id
    facts_by_id: Mapping[str, tuple[Fact, ...]]
    all_prices: tuple[Price, ...]

    def gpu(self, name: str) -> Gpu:
        """Return the GPU with an id or alias. UnknownNameError with the nearest names if
        unknown."""
        known = self.names.get(_fold(name)) or self.names.get(_fold(_without_vendor(name)))
        if known is None:
            raise UnknownNameError("GPU", name, self.by_id, "add your own in a TOML file")
        return self.by_id[known]

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs, in the order of the files."""
        return tuple(self.by_id.values())

    def prices(self, gpu_id: str) -> tuple[Price, ...]:
        """Return every price of one GPU, the latest file's first."""
        known = self.gpu(gpu_id).id
        return tuple(price for price in self.all_prices if price.gpu == known)

    def price(self, gpu_id: str, tier: str | None = None) -> Price | None:
        """Return the default price, or the first of `tier`; None if the GPU has no (default) price.

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

    def price_used(self, gpu_id: str, given_usd: float | None) -> Price | None:
        """Return the price for costs: the user's if given, else the default price.

        Raises InputError if the user's price is not above 0.
        """
        if given_usd is None:
            return self.price(gpu_id)
        if not 0 < given_usd < math.inf:
            raise InputError(
                f"price is {given_usd:g} USD per GPU-hour", "allowed: above 0", field="price"
            )
        return Price(self.gpu(gpu_id).id, given_usd, "given by the user", "", "", "")

    def facts(self, gpu_id: str) -> tuple[Fact, ...]:
        """Return each value of one GPU with unit, source, date and conflicting values."""
        return self.facts_by_id[self.gpu(gpu_id).id]


def load_catalogue(user_files: Iterable[Path | str] = ()) -> Catalogue:
    """Load the bundled data, then `user_files`, which add or replace GPUs and prices."""
    by_id: dict[str, Gpu] = {}
    names: dict[str, str] = {}
    facts: dict[str, tuple[Fact, ...]] = {}
    prices: list[tuple[str, Price]] = []
    for path in (*bundled_files(), *map(Path, user_files)):
        file = read_toml(path)
        for given, data in file.gpu.items():
            where = f"{path}: gpu.{given}"
            table = decode(data, GpuTable, where)
            gpu_id = given.lower()
            by_id[gpu_id] = gpu_of(gpu_id, table, where)
            facts[gpu_id] = tuple(facts_of(table, path.name, where))
            names |= {_fold(n): gpu_id for n in (*table.aliases, table.name, given) if n}
        found = [
            (f"{path}: price {n}", _price(decode(row, PriceTable, f"{path}: price {n}"), path, n))
            for n, row in enumerate(file.price, 1)
        ]
        prices = found + prices
    catalogue = Catalogue(by_id, names, facts, ())
    resolved = tuple(_resolve(catalogue, where, price) for where, price in prices)
    return Catalogue(by_id, names, facts, resolved)


def bundled_files() -> tuple[Path, ...]:
    """Return the bundled files in numerical order: a GPU without a measured all-reduce uses that
    of the first GPU with the same kind of links."""
    return (*sorted((DATA / "gpus").glob("*.toml")), DATA / "prices.toml")


@cache
def default_catalogue() -> Catalogue:
    """Return the bundled data and the user's hardware folder, read once."""
    return load_catalogue(own_hardware())


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _without_vendor(name: str) -> str:
    return " ".join(w for w in re.split(r"[\s_-]+", name) if w.lower() not in VENDOR_WORDS)


def _price(row: PriceTable, path: Path, n: int) -> Price:
    where = f"{path}: price {n}.cost"
    check_date(row.cost, where)
    usd = number(row.cost, "price", where)
    source = row.cost.source or path.name
    return Price(row.gpu, usd, row.provider or "own", row.tier, source, row.cost.date, row.default)


def _resolve(catalogue: Catalogue, where: str, price: Price) -> Price:
    try:
        gpu_id = catalogue.gpu(price.gpu).id
    except UnknownNameError as error:
        raise UnknownNameError(f"GPU in {where}:", price.gpu, catalogue.by_id) from error
    return replace(price, gpu=gpu_id)
