"""`shardwise catalogue`: what Shardwise knows, and from where."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from shardwise.cli.files import print_json


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
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


@catalogue.command()
@_FILES
@_JSON
def gpus(files: tuple[Path, ...], as_json: bool) -> None:
    """Every GPU: memory, bandwidth, matrix rates, links and price."""
    from shardwise.perfmodel.subject import catalogue_for
    from shardwise.reports.catalogue_tables import gpu_table
    from shardwise.reports.table_text import show

    known = catalogue_for(files)
    if as_json:
        print_json({"gpus": known.gpus(), "prices": known.all_prices})
    else:
        show(gpu_table(known), sys.stdout)


@catalogue.command()
@click.argument("gpu")
@_FILES
@_JSON
def facts(gpu: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Each value of one GPU with its unit, source, date and the figures that disagree."""
    from shardwise.perfmodel.subject import catalogue_for
    from shardwise.reports.catalogue_tables import fact_table, price_table
    from shardwise.reports.table_text import show

    known = catalogue_for(files)
    if as_json:
        print_json({"facts": known.facts(gpu), "prices": known.prices(gpu)})
        return
    show(fact_table(known.gpu(gpu), known.facts(gpu)), sys.stdout)
    click.echo()
    show(price_table(known.gpu(gpu), known.prices(gpu)), sys.stdout)


@catalogue.command()
@_JSON
def models(as_json: bool) -> None:
    """Every bundled model: parameters, weights per dtype and KV cache per token."""
    from shardwise.architecture.models import bundled, load
    from shardwise.reports.catalogue_tables import model_table
    from shardwise.reports.table_text import show

    known = [load(name) for name in bundled()]
    if as_json:
        print_json({"models": known})
    else:
        show(model_table(known), sys.stdout)


@catalogue.command()
@_FILES
@_JSON
def fits(files: tuple[Path, ...], as_json: bool) -> None:
    """The largest model that one GPU of each kind holds, per dtype."""
    from shardwise.architecture.models import bundled, load
    from shardwise.perfmodel.memory import largest_models
    from shardwise.perfmodel.subject import catalogue_for
    from shardwise.reports.catalogue_tables import fit_table
    from shardwise.reports.table_text import show

    found = largest_models(catalogue_for(files).gpus(), [load(name) for name in bundled()])
    if as_json:
        print_json({"largest": found})
    else:
        show(fit_table(found), sys.stdout)
