"""TOML tables of GPUs and prices, decoded strictly. An error names file and key in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tomli

from shardwise.errors import InputError
from shardwise.files import read_utf8
from shardwise.hardware.gpu import Status, Topology
from shardwise.hardware.plausible import in_si

T = TypeVar("T")


class Value(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One numerical fact. A user's file may omit `source` and `date`."""

    value: float
    unit: str
    source: str = ""
    date: str = ""
    alternatives: list[str] = []
    why: str = ""


class Text(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One textual fact."""

    value: str
    source: str = ""
    date: str = ""
    alternatives: list[str] = []
    why: str = ""


class FlopsTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """TOML table of peak rates by dtype."""

    bf16: Value | None = None
    fp16: Value | None = None
    int8: Value | None = None
    fp8: Value | None = None
    fp4: Value | None = None
    fp32: Value | None = None


class AllReduceTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A measured all-reduce of `world_size` ranks: latency + message / bandwidth."""

    world_size: int
    latency: Value
    bandwidth: Value


class IslandTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """GPUs with faster links among themselves; `fitted`: a node usually has them."""

    gpus: int
    bandwidth: Value
    technology: str = ""
    fitted: bool = True


class LinkTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """TOML table of links between GPUs."""

    topology: Topology
    bandwidth: Value
    max_world: int
    technology: str = ""
    links: int = 1
    island: IslandTable | None = None


class GpuTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """TOML table of one GPU."""

    memory: Value
    memory_bandwidth: Value
    flops: FlopsTable
    interconnect: LinkTable
    compute_units: Value | None = None
    l2_cache: Value | None = None
    tdp: Value | None = None
    all_reduce: list[AllReduceTable] = []
    usable_memory: Value | None = None
    runtime_memory: Value | None = None
    compute_capability: Text | None = None
    llvm_target: Text | None = None
    released: Text | None = None
    kv_fp8: bool | None = None
    status: Status = "released"
    name: str = ""
    vendor: str = "other"
    generation: str = ""
    aliases: list[str] = []
    node_gpus: int = 0


class PriceTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """TOML table of one price."""

    gpu: str
    cost: Value
    provider: str = ""
    tier: str = "own"
    default: bool = True


class FileTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A catalogue file before its tables are checked."""

    gpu: dict[str, Any] = {}
    price: list[Any] = []


_FORMS = {"flops": FlopsTable, "interconnect": LinkTable, "island": IslandTable} | dict.fromkeys(
    ("compute_capability", "llvm_target", "released"), Text
)


def read_toml(path: Path) -> FileTable:
    """Return the top level of a catalogue file. InputError if unreadable or not TOML."""
    try:
        data = tomli.loads(read_utf8(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "a readable TOML file") from error
    except tomli.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    return decode(data, FileTable, str(path))


def decode(data: object, form: type[T], where: str) -> T:
    """Convert `data` to `form`. InputError names `where`, the key and the allowed keys."""
    try:
        return msgspec.convert(data, form)
    except msgspec.ValidationError as error:
        text = str(error)
        path = re.search(r" - at `\$\.?([^`]*)`", text)
        key = path[1] if path else ""
        keys: Any = _FORMS.get(key.rsplit(".", 1)[-1], Value) if key else form
        fields = ", ".join(field.name for field in msgspec.structs.fields(keys))
        allowed = f"allowed keys: {fields}" if " field " in text else ""
        what = f"{where} {key}".strip()
        raise InputError(f"{what}: {text.split(' - at', maxsplit=1)[0]}", allowed) from error


def number(fact: Value, quantity: str, where: str) -> float:
    """Return a fact in SI units. InputError unless plausible for `quantity` (see `plausible`)."""
    return in_si(fact.value, fact.unit, quantity, where)
