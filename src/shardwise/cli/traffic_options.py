"""Options of simulated traffic, which `simulate` and `search` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from shardwise.cli.options import Finite
from shardwise.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])
LENGTH: Final = Finite(1, 10_000_000)
SECONDS: Final = Finite(0, 1e9)


def traffic_options(command: F) -> F:
    """--isl, --osl, --length-cv, --duration, --warmup."""
    for option in (
        click.option(
            "--warmup", type=SECONDS, default=0.0, show_default=True, help="Seconds left out."
        ),
        click.option(
            "--duration",
            type=Finite(0, 1e9, min_open=True),
            default=600.0,
            show_default=True,
            help="Seconds.",
        ),
        click.option(
            "--length-cv",
            type=Finite(0, 10),
            default=0.0,
            show_default=True,
            help="Their variation.",
        ),
        click.option(
            "--osl", type=LENGTH, default=500.0, show_default=True, help="Mean output tokens."
        ),
        click.option(
            "--isl", type=LENGTH, default=1000.0, show_default=True, help="Mean input tokens."
        ),
    ):
        command = option(command)
    return command


def require_window(duration_s: float, warmup_s: float) -> None:
    """Raise InputError where the warm-up leaves nothing to look at."""
    if warmup_s >= duration_s:
        raise InputError(
            f"--warmup is {warmup_s:g} s and --duration {duration_s:g} s",
            "allowed: a warm-up below the duration",
        )
