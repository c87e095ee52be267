"""`shardwise catalogue`: GPUs, prices and models with their sources."""

from __future__ import annotations

from pathlib import Path

import click

from shardwise.cli.files import print_json, show_table
from shardwise.cli.options import JSON, WIDE


@click.group()
def catalogue() -> None:
    """Look up GPUs, prices and models, with their sources."""


_FILES = click.option(
    "--catalogue",
    "files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="TOML file with your own GPUs and prices; repeatable.",
)


@catalogue.command()
@_FILES
@WIDE
@JSON
def gpus(files: tuple[Path, ...], as_json: bool) -> None:
    """List every GPU: memory, bandwidth, matrix rates, links and price."""
    from shardwise.perfmodel.subject import catalogue_for
    from shardwise.reports.catalogue_tables import gpu_table

    known = catalogue_for(files)
    if as_json:
        print_json("catalogue", {"gpus": known.gpus(), "prices": known.all_prices})
    else:
        show_table(gpu_table(known))


@catalogue.command()
@click.argument("gpu")
@_FILES
@WIDE
@JSON
def facts(gpu: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Show each value of one GPU with unit, source, date and conflicting values."""
    from shardwise.perfmodel.subject import catalogue_for
    from shardwise.reports.catalogue_tables import fact_table, price_table

    known = catalogue_for(files)
    if as_json:
        print_json("catalogue", {"facts": known.facts(gpu), "prices": known.prices(gpu)})
        return
    show_table(fact_table(known.gpu(gpu), known.facts(gpu)))
    show_table(price_table(known.gpu(gpu), known.prices(gpu)))


@catalogue.command()
@WIDE
@JSON
def models(as_json: bool) -> None:
    """List every bundled model: parameters, weight bytes per dtype and KV cache per token."""
    from shardwise.architecture.models import bundled, load
    from shardwise.reports.catalogue_tables import model_table

    known = [load(name) for name in bundled()]
    if as_json:
        print_json("catalogue", {"models": known})
    else:
        show_table(model_table(known))


@catalogue.command()
@_FILES
@WIDE
@JSON
def fits(files: tuple[Path, ...], as_json: bool) -> None:
    """Show the largest model that fits on one GPU of each kind, per dtype."""
    from shardwise.architecture.models import bundled, load
    from shardwise.perfmodel.memory import largest_models
    from shardwise.perfmodel.subject import catalogue_for
    from shardwise.reports.catalogue_tables import fit_table

    found = largest_models(catalogue_for(files).gpus(), [load(name) for name in bundled()])
    if as_json:
        print_json("catalogue", {"largest": found})
    else:
        show_table(fit_table(found))
