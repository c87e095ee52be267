"""Write docs/kernels.md: the tables, their errors, and the tables that are not used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np

from kernel_tables.checks import Finding
from kernel_tables.compile import LICENCES, Built, Summary
from shardwise.kernels.provenance import Array

HEAD = """# Kernel tables

`make kernels` writes this page. `shardwise.kernels` predicts the time of one kernel from public
measurements. The page lists the tables, their interpolation errors, and the tables that are not
used.

## How a time is found
1. Use the table of the requested GPU, engine and dtype. If its shapes are far away, use another
   engine's or dtype's table on the same GPU (a different engine counts as half an octave of
   distance, each step to a related dtype as one octave).
2. If the GPU has no table of the class, use the nearest GPU's, preferring the same generation,
   then the same vendor. Its efficiency is transferred: the time above the kernel launch is scaled
   by the ratio of the two datasheet rooflines.
3. Without any table (on a CPU), use the roofline at an assumed share.

Every time has a code for its source, and its distance in octaves from the nearest measurement.
Shapes between measured ones are averaged over the six nearest shapes, transferred in the same way;
decode attention at the same number of KV heads over all sequences, experts at the same rows each.
Along tokens, batch, context and bytes, the log of the ratio of time to `launch + roofline / 0.5`
is interpolated over the log of work, on a grid of half octaves. Times never fall as work grows.
Beyond the largest work, the part of a time above the launch grows with the roofline.

## How measurements are adjusted
- They are stored with a precision of 0.07 %.
- Where measured times fall as work grows, they are replaced by the nearest non-decreasing times
  (isotonic regression).
- No time is below the roofline. Its bandwidth is the one that the table's largest memory-bound
  calls reach. Smaller calls that look faster read their weights from cache, which does not
  happen in a model's step.
"""


def page(built: Built, megabytes: float) -> str:
    """Format the whole page."""
    parts = [
        HEAD,
        f"{len(built.summaries)} tables, "
        f"{sum(s.entry.points for s in built.summaries):,} points, {megabytes:.1f} MB.\n",
        "## Errors by class\n",
        "Medians and 90th percentiles of relative errors over all tables of a class. *Work held "
        "out*: a point predicted from its two neighbours along an axis. *Shape held out*: every "
        "point of a shape predicted from the other shapes of its table. *Moved*: share of points "
        "changed by more than 2 %, and the 99th percentile of the change.\n",
        _classes(built.summaries),
        "## Errors of transferred tables\n",
        "Median and 90th percentile of the relative error if a table is predicted from its nearest "
        "relative: another engine on the same GPU, the nearest dtype of the same engine, or the "
        "nearest GPU with the same engine and dtype.\n",
        _carried(built.carried),
        "## Tables that are not used\n",
        _findings(finding for finding in built.findings if finding.dropped),
        "## Doubtful tables that are used\n",
        "Engines can differ by this much if one has a better kernel, and a launch of a few tens of "
        "microseconds can be the engine's own. These tables are used, and end-to-end rows correct "
        "them.\n",
        _findings(finding for finding in built.findings if not finding.dropped),
        "## Tables\n",
        _tables(built.summaries),
        "## Sources\n",
        "\n".join(f"- {name}: {licence}" for name, licence in LICENCES.items()),
    ]
    return "\n".join(parts) + "\n"


def _classes(summaries: Sequence[Summary]) -> str:
    rows = []
    for name, group in groupby(summaries, key=lambda summary: summary.entry.operator):
        mine = list(group)
        point, shape, moved = (
            np.concatenate([getattr(summary, part) for summary in mine])
            for part in ("point", "shape", "moved")
        )
        rows.append(
            (
                name,
                str(len(mine)),
                f"{sum(summary.entry.points for summary in mine):,}",
                _both(point),
                _both(shape),
                f"{100 * float(np.mean(np.abs(moved) > 0.02)):.0f} %",
                f"{100 * float(np.quantile(np.abs(moved), 0.99)):.0f} %",
            )
        )
    head = (
        "class",
        "tables",
        "points",
        "work held out",
        "shape held out",
        "moved",
        "99th percentile",
    )
    return _table(head, rows)


def _carried(carried: dict[str, dict[str, Array]]) -> str:
    kinds = ("other_engine", "other_dtype", "other_gpu")
    rows = [
        (name, *(_both(errors.get(kind, np.array([]))) for kind in kinds))
        for name, errors in carried.items()
    ]
    return _table(("class", "other engine", "other dtype", "other GPU"), rows)


def _both(errors: Array) -> str:
    if not len(errors):
        return "n/a"
    middle, high = np.quantile(errors, (0.5, 0.9))
    return f"{100 * middle:.1f} %, {100 * high:.0f} %"


def _findings(findings: Iterable[Finding]) -> str:
    rows = [
        (finding.operator, *finding.key, f"{finding.points:,}", finding.reason)
        for finding in findings
    ]
    return _table(("class", "GPU", "engine", "variant", "points", "why"), rows)


def _tables(summaries: Sequence[Summary]) -> str:
    rows = []
    for (operator, gpu, engine), group in groupby(sorted(summaries, key=_owner), key=_owner):
        mine = [summary.entry for summary in group]
        versions = sorted({version for entry in mine for version in entry.versions})
        rows.append(
            (
                operator,
                gpu,
                engine,
                ", ".join(versions),
                ", ".join(entry.variant for entry in mine),
                f"{sum(entry.points for entry in mine):,}",
            )
        )
    return _table(("class", "GPU", "engine", "versions", "variants", "points"), rows)


def _owner(summary: Summary) -> tuple[str, str, str]:
    return summary.entry.operator, summary.entry.gpu, summary.entry.engine


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
