"""`shardwise catalogue`: what Shardwise knows, and from where."""

from __future__ import annotations

from pathlib import Path

import click

from shardwise.cli.files import print_json, show_table
from shardwise.cli.options import JSON, WIDE


@click.group()
def catalogue() -> None:
    """GPUs, prices and models, with their sources."""


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
    """Every GPU: memory, bandwidth, matrix rates, links and price."""
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
    """Each value of one GPU with its unit, source, date and the figures that disagree."""
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
    """Every bundled model: parameters, weights per dtype and KV cache per token."""
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
    """The largest model that one GPU of each kind holds, per dtype."""
    from shardwise.architecture.models import bundled, load
    from shardwise.perfmodel.memory import largest_models
    from shardwise.perfmodel.subject import catalogue_for
    from shardwise.reports.catalogue_tables import fit_table

    found = largest_models(catalogue_for(files).gpus(), [load(name) for name in bundled()])
    if as_json:
        print_json("catalogue", {"largest": found})
    else:
        show_table(fit_table(found))
