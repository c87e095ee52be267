"""`shardwise report`: write a saved study as one HTML file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from shardwise.cli.files import require_writable
from shardwise.cli.options import CATALOGUE, NODE
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.evidence.record import Evidence


@click.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="HTML file to write."
)
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    help="Measured evidence to compare with: a store of `bench`, JSON or JSONL.",
)
@click.option(
    "--vs",
    "gpus",
    default="",
    help="Up to 3 other GPUs to compare with, e.g. h200,mi355x.",
)
@NODE
@CATALOGUE
def report(
    study: Path,
    output: Path,
    measured: Path | None,
    gpus: str,
    node_file: Path | None,
    catalogue_files: tuple[Path, ...],
) -> None:
    """Write STUDY, a folder from `shardwise study -o`, as one HTML file to read, print and share.

    The file needs no network and no script.
    """
    from shardwise.reports.files import write_bytes
    from shardwise.reports.html.page import report_html
    from shardwise.reports.saved import read_study

    require_writable(output)
    found = read_study(study)
    if measured:
        found = replace(found, measured=_of_study(found.study.evidence[0], measured))
    if (node_file or catalogue_files) and not gpus:
        raise InputError(
            "--node or --catalogue without --vs",
            "needed: --vs",
            "the study itself was predicted when it was saved",
        )
    if gpus:
        from shardwise.api.hardware import hardware_of
        from shardwise.reports.comparing import compared_with

        names = [name.strip() for name in gpus.split(",") if name.strip()]
        own = found.study.evidence[0].deployment.gpu
        taken = hardware_of(own, None, node_file, catalogue_files)
        found = replace(found, compared=compared_with(found, names, taken.files))
    command = shlex.join(["shardwise", *sys.argv[1:]])
    page = report_html(found, command).encode()
    write_bytes(output, page)
    click.echo(f"{output}: {len(page) / 1e6:.2f} MB", err=True)


def _of_study(cell: Evidence, path: Path) -> list[Evidence]:
    """Return the measured cells of `path` that match the study of `cell`. InputError if there are
    none."""
    from shardwise.analysis.measured_comparison import alike
    from shardwise.reports.saved import read_evidence

    cells = read_evidence(path)
    found = alike(cell, cells)
    if not found:
        d, w = cell.deployment, cell.workload
        raise InputError(
            f"none of the {len(cells)} results in {path} belongs to this study",
            f"wanted: {d.model} {d.dtypes.weight} on {d.gpu} with {d.engine}, "
            f"{w.isl:g} in / {w.osl:g} out, {w.mode}",
        )
    return found
