"""Run by aiconfigurator's own Python: rows as JSON on stdin, its predictions as JSON on stdout."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import warnings
from importlib.metadata import version
from typing import Any


def ask(row: dict[str, Any]) -> dict[str, float | str]:
    """TTFT and TPOT in seconds as aiconfigurator gives them, or why not."""
    from aiconfigurator.cli.api import cli_estimate

    try:
        found = cli_estimate(mode="agg", **row)
    except Exception as error:  # noqa: BLE001 - whatever stops the peer is its answer
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    return {"ttft_s": float(found.ttft) / 1e3, "tpot_s": float(found.tpot) / 1e3}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        answers = [ask(row) for row in rows]
    print(json.dumps({"version": version("aiconfigurator"), "answers": answers}))


if __name__ == "__main__":
    main()
