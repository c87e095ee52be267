"""Options of `simulate` and `search`: times with units, stages, deployments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from shardwise.cli.options import (
    CATALOGUE,
    ENGINE,
    KV_DTYPE,
    LENGTH_CV,
    NODE,
    PROFILE,
    Duration,
    Finite,
    duration_s,
    fixed_limits,
    limit_options,
    speculation_of,
    speculation_options,
)
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.layout.deployment import Deployment
    from shardwise.simulator.traffic import Stage

F = TypeVar("F", bound=Callable[..., Any])
POLICIES: Final = (
    *("round_robin", "least_loaded", "power_of_two"),
    *("cache_aware", "prefix_aware", "session_sticky"),
)
ARRIVALS: Final = ("poisson", "bursty", "constant")
MAX_REPLICAS: Final = 10_000
LENGTH: Final = Finite(1, 10_000_000)


def stages_of(texts: tuple[str, ...]) -> list[Stage]:
    """Parse stages of the form `RATE:DURATION`."""
    from shardwise.simulator.traffic import Stage

    found = []
    for text in texts:
        rate, _, duration = text.partition(":")
        try:
            found.append(Stage(float(rate), duration_s(duration, "--stage")))
        except (ValueError, InputError):
            raise InputError(
                f"--stage {text[:40]!r}", "expected: REQUESTS_PER_S:DURATION, e.g. 8:10m"
            ) from None
    return found


def deployment_options(command: F) -> F:
    """--gpu, --node, --engine, --dtype, --kv-dtype, --profile, --catalogue, --no-prefix-caching;
    the parts of a layout beside TP and replicas, speculation and limits."""
    command = speculation_options(limit_options(command))
    for option in (
        *(
            click.option(flag, name, type=click.IntRange(1, 1024), default=1, help=text)
            for flag, name, text in (
                ("--attention-dp", "attention_dp", "Data-parallel size of attention."),
                (
                    "--dcp",
                    "dcp_size",
                    "Decode context parallel size: TP ranks that share a KV cache.",
                ),
                ("--ep", "ep_size", "Expert-parallel size, e.g. 8."),
                ("--pp", "pp_size", "Number of pipeline stages per replica."),
            )
        ),
        click.option(
            "--gpus-per-node", type=click.IntRange(1, 1024), help="GPUs of a node, with --network."
        ),
        click.option(
            "--network", default="", help="Network between nodes, if a replica takes several."
        ),
        click.option("--gpu", default="h200", show_default=True, help="GPU id, e.g. h200."),
        NODE,
        ENGINE,
        click.option(
            "--dtype",
            "--weight-dtype",
            "weight_dtype",
            default="auto",
            show_default=True,
            help="Weight dtype, e.g. fp8; auto: the checkpoint's.",
        ),
        KV_DTYPE,
        PROFILE,
        CATALOGUE,
        click.option(
            "--no-prefix-caching", is_flag=True, help="Disable the engine's prefix cache."
        ),
    ):
        command = option(command)
    return command


def load_options(command: F) -> F:
    """Add lengths, duration, sessions and bounds."""
    for option in (
        click.option(
            "--isl",
            type=LENGTH,
            default=1000.0,
            show_default=True,
            help="Mean input tokens per request.",
        ),
        click.option(
            "--osl",
            type=LENGTH,
            default=500.0,
            show_default=True,
            help="Mean output tokens per request.",
        ),
        LENGTH_CV,
        click.option(
            "--arrivals",
            type=click.Choice(ARRIVALS),
            default="poisson",
            show_default=True,
            help="Arrival process of --rate and --stage.",
        ),
        click.option(
            "--duration",
            type=Duration(),
            help="Time during which requests or sessions arrive; default: 10m.",
        ),
        click.option(
            "--warmup",
            type=Duration(above_0=False),
            default="0s",
            show_default=True,
            help="Time at the start that is excluded from the results.",
        ),
        click.option(
            "--turns",
            type=float,
            help="Mean turns per session; --rate is then sessions/s, and --isl the new tokens per "
            "turn.",
        ),
        click.option(
            "--think",
            type=Duration(above_0=False),
            default="20s",
            show_default=True,
            help="Mean time from an answer to the next turn.",
        ),
        click.option(
            "--prefix-tokens",
            type=click.IntRange(0, 10_000_000),
            default=0,
            show_default=True,
            help="Length of a shared system prompt in tokens.",
        ),
        click.option(
            "--prefixes",
            type=click.IntRange(1, 1_000_000),
            default=1,
            show_default=True,
            help="Number of different system prompts.",
        ),
        click.option(
            "--ttft", type=Duration(), help="TTFT bound that a good request meets, e.g. 500ms."
        ),
        click.option(
            "--tpot", type=Duration(), help="TPOT bound that a good request meets, e.g. 30ms."
        ),
    ):
        command = option(command)
    return command


#: Options of `deployment_options` that `deployment_of` reads.
DEPLOYMENT: Final = (
    *("gpu", "engine", "weight_dtype", "kv_dtype"),
    *("pp_size", "ep_size", "attention_dp", "dcp_size"),
    *("speculation", "acceptance", "engine_version", "gpu_memory_utilization"),
    *("max_num_seqs", "max_num_batched_tokens", "max_model_len"),
)


def deployment_of(
    model: str, options: dict[str, Any], tp_size: int = 1, replicas: int = 1
) -> Deployment:
    """Return the deployment described by the options. Raises InputError."""
    from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout

    layout = Layout(
        tp_size,
        options["pp_size"],
        options["ep_size"],
        options["attention_dp"],
        replicas,
        options["dcp_size"],
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


def require_on_node(deployments: Sequence[Deployment], node_file: Path, gpu: str) -> None:
    """Raise InputError for a deployment that the node of --node does not hold."""
    from shardwise.node.files import read

    count = len(read(node_file).devices)
    for d in deployments:
        if d.gpu != gpu:
            raise InputError(
                f"{d.model} is deployed on {d.gpu}, and {node_file} is a node of {gpu}",
                "needed: the node file of those GPUs",
            )
        if d.layout.replica_gpus > count:
            raise InputError(
                f"{d.layout.name} on {node_file}", f"allowed: up to {count} GPUs a replica"
            )


def load_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of `load_options` under the names of the Python API."""
    return {
        "isl": options["isl"],
        "osl": options["osl"],
        "length_cv": options["length_cv"],
        "arrivals": options["arrivals"],
        "duration_s": options["duration"],
        "warmup_s": options["warmup"],
        "turns": options["turns"],
        "think_s": options["think"],
        "prefix_tokens": options["prefix_tokens"],
        "prefixes": options["prefixes"],
        "ttft_s": options["ttft"],
        "tpot_s": options["tpot"],
        "profile": options["profile"],
        "catalogue_files": options["catalogue_files"],
        "prefix_caching": not options["no_prefix_caching"],
        "network": options["network"],
        "gpus_per_node": options["gpus_per_node"],
    }
