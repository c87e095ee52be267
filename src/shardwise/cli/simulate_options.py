"""Options of `simulate` and `search`: times with units, stages, what to deploy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from shardwise.cli.options import (
    CATALOGUE,
    ENGINE,
    KV_DTYPE,
    LENGTH_CV,
    PROFILE,
    Finite,
    fixed_limits,
    limit_options,
    speculation_of,
    speculation_options,
)
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.layout.deployment import Deployment
    from shardwise.simulator.fleet import Group
    from shardwise.simulator.sessions import SessionTraffic
    from shardwise.simulator.traffic import Stage

    _FloatType = click.ParamType[float]
else:
    _FloatType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])
POLICIES: Final = (
    *("round_robin", "least_loaded", "power_of_two"),
    *("cache_aware", "prefix_aware", "session_sticky"),
)
ARRIVALS: Final = ("poisson", "bursty", "constant")
MAX_REPLICAS: Final = 10_000
MAX_TIME_S: Final = 1e9
LENGTH: Final = Finite(1, 10_000_000)
_TIME: Final = re.compile(r"\s*((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(ms|s|m|min|h|)\s*")
_SECONDS: Final = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(given: str, name: str) -> float:
    """`200ms`, `2s`, `10m`, `1h` or a plain number of seconds. InputError for anything else."""
    match = _TIME.fullmatch(given)
    if match is None:
        raise InputError(
            f"--{name} is {given[:40]!r}", "expected: a time, as in 200ms, 2s, 10m, 1h or 2 (s)"
        )
    return float(match.group(1)) * _SECONDS[match.group(2)]


class Time(_FloatType):
    """An option's value as a time in seconds: 0, or above it, to 1e9."""

    name = "time"

    def __init__(self, above_0: bool = False) -> None:
        self.above_0 = above_0

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,  # noqa: ARG002
    ) -> float:
        if isinstance(value, float):
            return value
        named = (param.name or "" if param else "").replace("_", "-")
        found = seconds(str(value), named)
        if not 0 <= found <= MAX_TIME_S or (self.above_0 and found == 0):
            least = "above 0" if self.above_0 else "0"
            raise InputError(f"--{named} is {found:g} s", f"allowed: {least}, up to 1e9 s")
        return found


def stages_of(texts: tuple[str, ...]) -> list[Stage]:
    """Stages from `RATE:DURATION` each."""
    from shardwise.simulator.traffic import Stage

    found = []
    for text in texts:
        rate, _, duration = text.partition(":")
        try:
            found.append(Stage(float(rate), seconds(duration, "stage")))
        except (ValueError, InputError):
            raise InputError(
                f"--stage {text[:40]!r}", "expected: REQUESTS_PER_S:DURATION, such as 8:10m"
            ) from None
    return found


def deployment_options(command: F) -> F:
    """--gpu, --engine, --dtype, --kv-dtype, --profile, --catalogue, --no-prefix-caching; the parts
    of a layout beside TP and replicas, speculation and limits."""
    command = speculation_options(limit_options(command))
    for option in (
        *(
            click.option(flag, name, type=click.IntRange(1, 1024), default=1, help=text)
            for flag, name, text in (
                ("--attention-dp", "attention_dp", "Data-parallel copies of attention."),
                ("--ep", "ep_size", "Ranks that whole experts are spread over."),
                ("--pp", "pp_size", "Pipeline stages."),
            )
        ),
        click.option("--gpu", default="h200", show_default=True, help="GPU id, e.g. h200."),
        ENGINE,
        click.option(
            "--dtype",
            "--weight-dtype",
            "weight_dtype",
            default="auto",
            show_default=True,
            help="Weight dtype.",
        ),
        KV_DTYPE,
        PROFILE,
        CATALOGUE,
        click.option(
            "--no-prefix-caching", is_flag=True, help="The engine keeps no finished blocks."
        ),
    ):
        command = option(command)
    return command


def load_options(command: F) -> F:
    """Lengths, duration, sessions and bounds."""
    for option in (
        click.option(
            "--isl", type=LENGTH, default=1000.0, show_default=True, help="Mean input tokens."
        ),
        click.option(
            "--osl", type=LENGTH, default=500.0, show_default=True, help="Mean output tokens."
        ),
        LENGTH_CV,
        click.option(
            "--arrivals", type=click.Choice(ARRIVALS), default="poisson", show_default=True
        ),
        click.option(
            "--duration",
            type=Time(above_0=True),
            default="10m",
            show_default=True,
            help="How long requests, or sessions, arrive.",
        ),
        click.option(
            "--warmup", type=Time(), default="0s", show_default=True, help="Left out of results."
        ),
        click.option(
            "--turns",
            type=float,
            help="Mean turns of a session: --rate is of sessions, --isl of what a turn adds.",
        ),
        click.option(
            "--think",
            type=Time(),
            default="20s",
            show_default=True,
            help="Mean time from an answer to the next turn.",
        ),
        click.option(
            "--prefix-tokens",
            type=click.IntRange(0, 10_000_000),
            default=0,
            show_default=True,
            help="Shared system prompt, tokens.",
        ),
        click.option(
            "--prefixes",
            type=click.IntRange(1, 1_000_000),
            default=1,
            show_default=True,
            help="Different system prompts.",
        ),
        click.option(
            "--ttft", type=Time(above_0=True), help="Bound that a good request meets, e.g. 500ms."
        ),
        click.option("--tpot", type=Time(above_0=True), help="The same for TPOT, e.g. 30ms."),
    ):
        command = option(command)
    return command


#: Options of `deployment_options` that `deployment_of` reads.
DEPLOYMENT: Final = (
    *("gpu", "engine", "weight_dtype", "kv_dtype", "pp_size", "ep_size", "attention_dp"),
    *("speculation", "acceptance", "engine_version", "gpu_memory_utilization"),
    *("max_num_seqs", "max_num_batched_tokens", "max_model_len"),
)


def deployment_of(
    model: str, options: dict[str, Any], tp_size: int = 1, replicas: int = 1
) -> Deployment:
    """The deployment that the options name. Raises InputError."""
    from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout

    layout = Layout(
        tp_size, options["pp_size"], options["ep_size"], options["attention_dp"], replicas
    )
    return Deployment(
        model=model,
        gpu=options["gpu"],
        layout=layout,
        limits=fixed_limits(options).over(EngineLimits()),
        dtypes=Dtypes(weight=options["weight_dtype"], kv=options["kv_dtype"]),
        engine=options["engine"],
        engine_version=options["engine_version"],
        speculation=speculation_of(options),
    )


def require_window(duration_s: float, warmup_s: float) -> None:
    """Raise InputError where the warm-up leaves nothing to look at."""
    if warmup_s >= duration_s:
        raise InputError(
            f"--warmup is {warmup_s:g} s, and requests arrive for {duration_s:g} s",
            "allowed: a warm-up below the duration",
        )


def session_traffic(options: dict[str, Any], rate: float) -> SessionTraffic:
    """Sessions that begin at `rate`, from the options."""
    from shardwise.simulator.sessions import SessionTraffic
    from shardwise.simulator.traffic import Lengths

    cv = options["length_cv"]
    return SessionTraffic(
        session_rate=rate,
        turns=options["turns"],
        question=Lengths(options["isl"], cv),
        answer=Lengths(options["osl"], cv),
        think_s=options["think"],
        duration_s=options["duration"],
        prefixes=options["prefixes"],
        prefix_tokens=options["prefix_tokens"],
    )


def with_caching(group: Group, caching: bool) -> Group:
    """`group` with the engine's prefix caching on or off."""
    from msgspec.structs import replace

    return replace(group, scheduling=replace(group.scheduling, prefix_caching=caching))
