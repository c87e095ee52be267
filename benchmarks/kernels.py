"""Write the kernel tables of the package and docs/kernels.md from the reference timings.

`python benchmarks/kernels.py REFERENCE_FOLDER`, in the root of the repository.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kernel_tables.compile import compile_all
from kernel_tables.page import page
from kernel_tables.sources import READERS
from shardwise.errors import InputError, ShardwiseError
from shardwise.kernels import store

PAGE = Path("docs/kernels.md")


def main(arguments: list[str]) -> int:
    """Build the tables from a reference folder. Returns the exit status, 2 if it cannot be read."""
    try:
        folder = _folder(arguments)
    except ShardwiseError as error:
        print(f"kernels.py: {error}", file=sys.stderr)
        return error.exit_code
    built = compile_all((read(folder) for read in READERS), store.DATA)
    size = sum(path.stat().st_size for path in store.DATA.iterdir())
    points = sum(summary.entry.points for summary in built.summaries)
    dropped = [finding for finding in built.findings if finding.dropped]
    PAGE.write_text(page(built, size / 1e6), encoding="utf-8")
    print(f"{len(built.summaries)} tables, {points} points, {size / 1e6:.2f} MB; {PAGE} written")
    print(f"{len(dropped)} tables or parts of them were dropped")
    return 0


def _folder(arguments: list[str]) -> Path:
    if len(arguments) != 1:
        raise InputError(f"{len(arguments)} arguments", "allowed: one, the reference folder")
    folder = Path(arguments[0])
    if not (folder / "kernels" / "gemm.csv.gz").is_file():
        raise InputError(f"{folder} has no kernels/gemm.csv.gz", "give the reference folder")
    if not PAGE.parent.is_dir():
        raise InputError(f"no folder {PAGE.parent}/", remedy="run it in the repository's root")
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
