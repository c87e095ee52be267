"""Options that several commands share, and the parsing of lists and times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from shardwise.engines import get, names
from shardwise.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])
MAX_ITEMS: Final = 64


def sizes(text: str, what: str) -> tuple[int, ...]:
    """Whole numbers above 0 from "1,2,4". Raises InputError naming what was given."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"{what} is {text!r}", "allowed: whole numbers above 0, as in 1,2,4")
    if len(parts) > MAX_ITEMS:
        raise InputError(f"{what} has {len(parts)} values", f"allowed: at most {MAX_ITEMS}")
    return tuple(sorted({int(part) for part in parts}))


_ENGINES: Final = f"{', '.join(names())}."


def _engine(context: click.Context, option: click.Parameter, given: str) -> str:
    """`given`, where it names an engine. Raises InputError otherwise."""
    del context, option
    return get(given).name


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
        click.option(
            "--profile",
            default="reference",
            show_default=True,
            help="Profile: a name, or a shared file in .json.",
        ),
        click.option("--kv-dtype", default="auto", show_default=True, help="KV cache dtype."),
        click.option("--dtype", default="auto", show_default=True, help="Weight dtype."),
        click.option(
            "--engine", default="vllm", show_default=True, callback=_engine, help=_ENGINES
        ),
        click.option("--gpu", required=gpu_required, help="GPU id, for example mi300x."),
        click.argument("model"),
    ):
        command = option(command)
    return command
