"""The state of the page, parsed from the URL; each error names its field."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import asdict, fields, replace

from shardwise.architecture.formats import DTYPES as WEIGHT_DTYPES
from shardwise.engines.registry import names
from shardwise.errors import InputError

MAX_SHOWN: Final = 80  #: maximum characters of an invalid value in a message
DTYPES: Final = ("auto", "fp4", *WEIGHT_DTYPES)
KV_DTYPES: Final = ("auto", "bf16", "fp8")
ENGINES: Final = tuple(name for name in names() if name != "builtin")
MODES: Final = ("closed_loop", "static_batch")
AXES: Final = ("tok_s_per_user", "e2e_latency_s", "tpot_s", "ttft_s")
MAX_COMPARED: Final = 3  #: GPUs and models compared with the first


class State(msgspec.Struct, frozen=True):
    """The page's state. Bounds are in ms; 0: none."""

    model: str = "llama-3.1-70b"
    gpu: str = "mi300x"
    gpus: int = 8
    engine: str = "vllm"
    dtype: str = "fp8"
    kv_dtype: str = "auto"
    mode: str = "closed_loop"
    isl: int = 2048
    osl: int = 2048
    batch: int = 0  #: in flight per replica, of the cell taken apart; 0: the recommended one's
    rate: float = 0.0  #: requests/s offered to the node; 0: as much as it carries
    ttft: float = 2000.0
    tpot: float = 50.0
    price: float = 0.0  #: USD per GPU-hour; 0: the catalogue's
    axis: str = "tok_s_per_user"
    layout: str = ""  #: of the cell that is taken apart; "": the recommended one
    vs_model: tuple[str, ...] = ()
    vs_gpu: tuple[str, ...] = ()
    study: str = ""  #: in the store, laid over the predictions


class StateError(InputError):
    """Invalid fields, each with its message."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {message}" for name, message in problems.items()))
        self.problems = dict(problems)


def parse_state(given: Mapping[str, str], start: State | None = None) -> State:
    """Parse the state from a URL query; missing fields are taken from `start`, unknown ones are
    ignored.

    Raises StateError naming every invalid field.
    """
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for field in fields(State):
        text = given.get(field.name)
        if text is None:
            continue
        try:
            values[field.name] = _READERS[field.name](text.strip())
        except InputError as error:
            problems[field.name] = str(error)
    vs = ("vs_gpu", "vs_model")
    if sum(len(values.get(name, ())) for name in vs) > MAX_COMPARED:
        problems["vs_gpu"] = f"allowed: up to {MAX_COMPARED} GPUs and models to compare with"
    if problems:
        raise StateError(problems)
    return replace(start or State(), **values)


def written(state: State) -> dict[str, str]:
    """Return the state as a URL query."""
    found = {
        name: ",".join(value) if isinstance(value, tuple) else str(value).removesuffix(".0")
        for name, value in asdict(state).items()
    }
    return found | {"batch": str(state.batch or "")}


def shown(text: str) -> str:
    """Quote `text` for a message: on one line and shortened."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high):
            raise InputError(shown(text), f"allowed: a whole number from {low:,} to {high:,}")
        return int(text)

    return read


def _amount(high: float, unit: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text or 0)
        except ValueError:
            value = math.nan
        if not 0 <= value <= high:
            raise InputError(shown(text), f"allowed: 0 to {high:,g} {unit}; 0 or empty: none")
        return value

    return read


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _one_of(allowed: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise InputError(shown(text), f"allowed: {', '.join(allowed)}")
        return text

    return read


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "model": str,
    "gpu": str,
    "gpus": _whole(1, 1024),
    "engine": _one_of(ENGINES),
    "dtype": _one_of(DTYPES),
    "kv_dtype": _one_of(KV_DTYPES),
    "mode": _one_of(MODES),
    "isl": _whole(1, 1_000_000),
    "osl": _whole(2, 1_000_000),
    "batch": lambda text: _whole(1, 4096)(text) if text else 0,
    "rate": _amount(100_000, "requests/s"),
    "ttft": _amount(1e7, "ms"),
    "tpot": _amount(1e6, "ms"),
    "price": _amount(10_000, "USD"),
    "axis": _one_of(AXES),
    "layout": str,
    "vs_model": _names,
    "vs_gpu": _names,
    "study": str,
}
