"""What `shardwise study --measure` found, short enough to be kept.

    python benchmarks/measured_study.py FOLDER [--out results/measured_study.json]

FOLDER is what `shardwise study MODEL --measure -o FOLDER` wrote (`make study`: study/measured).
What it teaches: a handful of one's own measurements corrects a model that never saw the machine.
Prints one JSON line: hardware, versions, errors before and after, learning curve, verdicts, time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from shardwise.evidence.store import open_store


def summary(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "experiment.json").read_text("utf-8"))
    with open_store(folder / "measured.db", create=False) as store:
        cells = store.cells()
        requests = sum(
            len(r.records) for cell in cells for r in store.repeats(cell.study, cell.key)
        )
    made = [c["made"] for c in found["corrected"]["compared"] if c["made"]]
    return {
        "benchmark": "measured_study",
        "command": f"shardwise study {found['model']} --measure",
        **{key: found[key] for key in ("model", "engine", "weight_dtype", "isl", "osl")},
        "hardware": found["hardware"],
        "versions": cells[0].conditions["versions"],
        "predicted": [min(made), max(made)] if made else [],
        "cells": len(cells),
        "requests": requests,
        "client_bound": [c["key"] for c in found["corrected"]["compared"] if not c["usable"]],
        "scores": found["corrected"]["scores"],
        "curve": found["corrected"]["curve"],
        "claims": found["claims"],
        "dropped": found["dropped"],
        "seconds": found["spent"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    found = summary(asked.folder)
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
