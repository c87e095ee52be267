"""`shardwise plan` with percentile bounds: simulate deployments under arriving requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.api.percentiles import PercentilePlan


def find(
    names: tuple[str, ...], options: dict[str, Any], arguments: dict[str, Any]
) -> PercentilePlan:
    """Find the cheapest deployment that sustains the rate.

    Args:
        names: The models; only one is supported.
        options: The command's options.
        arguments: Arguments that any plan takes, from these options.

    Raises:
        InputError: An option is not supported with percentile bounds.
    """
    from shardwise.api.percentiles import plan_percentiles
    from shardwise.cli.files import show_progress
    from shardwise.simulator.compiling import HAS_NUMBA, INSTALL, compiles_first

    if len(names) > 1:
        raise InputError(f"{len(names)} models with percentile bounds", "allowed: one model")
    if options["objective"] != "cost":
        raise InputError(
            f"objective {options['objective'][:40]!r} with percentile bounds", "allowed: cost"
        )
    if options["disaggregated"]:
        raise InputError(
            "--disaggregated with percentile bounds",
            "allowed: bounds on medians, with --ttft, --tpot or --e2e",
            field="disaggregated",
        )
    if not options["request_rate"]:
        raise InputError(
            "percentile bounds without a rate", remedy="add --request-rate", field="request_rate"
        )
    for name in ("isl", "osl", "request_rate", "cached_tokens"):
        if len(options[name]) > 1:
            raise InputError(
                f"--{name.replace('_', '-')} given {len(options[name])} times with percentile "
                f"bounds",
                "allowed: once",
                field=name,
            )
    for name in ("concurrency", "startup_log"):
        if options[name]:
            raise InputError(
                f"--{name.replace('_', '-')} with percentile bounds",
                "allowed: only --request-rate",
                field=name,
            )
    if not HAS_NUMBA:
        click.echo(f"running without compilation, a hundred times slower: {INSTALL}", err=True)
    elif compiles_first():
        click.echo("compiling the simulation (once, half a minute)", err=True)
    single = {name: arguments[name][0] for name in ("isl", "osl")}
    single["cached_tokens"] = (*options["cached_tokens"], 0)[0]
    return plan_percentiles(
        names[0],
        gpu=options["gpu"],
        request_rate=options["request_rate"][0],
        ttft_p99_s=options["ttft_p99"],
        tpot_p99_s=options["tpot_p99"],
        e2e_latency_p99_s=options["e2e_p99"],
        nodes=options["nodes"],
        network=options["network"],
        speculation=options["speculation"],
        acceptance=options["acceptance"],
        progress=show_progress,
        **{**arguments, **single},
    )
