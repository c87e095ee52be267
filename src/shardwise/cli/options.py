"""Options that several commands share, and the parsing of lists and times."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from shardwise.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])
MAX_ITEMS: Final = 64
MAX_DIGITS: Final = 9


class Finite(click.FloatRange):
    """A range of numbers that holds neither NaN nor infinity."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is no finite number.", param, ctx)
        return found


SEED: Final = click.IntRange(0, 2**63 - 1)
ABOVE_0: Final = Finite(0, min_open=True)


def sizes(text: str, what: str) -> tuple[int, ...]:
    """Whole numbers above 0 from "1,2,4". Raises InputError naming what was given."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() and part.strip("0") for part in parts):
        raise InputError(f"{what} is {text!r}", "allowed: whole numbers above 0, as in 1,2,4")
    if max(map(len, parts)) > MAX_DIGITS:
        raise InputError(f"{what} is {text[:40]!r}", f"allowed: at most {MAX_DIGITS} digits each")
    if len(parts) > MAX_ITEMS:
        raise InputError(f"{what} has {len(parts)} values", f"allowed: at most {MAX_ITEMS}")
    return tuple(sorted({int(part) for part in parts}))


def subject_options(command: F, gpu_required: bool = True) -> F:
    """MODEL, --gpu, --engine, --dtype, --kv-dtype, --profile, --catalogue."""
    for option in (
        click.option(
            "--catalogue",
            "catalogue_files",
            type=click.Path(path_type=Path),
            multiple=True,
            help="TOML file with your own GPUs and prices; repeatable.",
        ),
        click.option("--profile", default="reference", show_default=True, help="Profile name."),
        click.option("--kv-dtype", default="auto", show_default=True, help="KV cache dtype."),
        click.option("--dtype", default="auto", show_default=True, help="Weight dtype."),
        click.option("--engine", default="vllm", show_default=True, help="vllm, sglang, …"),
        click.option("--gpu", required=gpu_required, help="GPU id, for example mi300x."),
        click.argument("model"),
    ):
        command = option(command)
    return command
