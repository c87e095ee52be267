"""Correct AITER's tuned expert tables: missing weight dtypes and copied times."""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec.structs import replace

from kernel_tables.checks import Finding
from kernel_tables.rows import Names, Rows
from shardwise.hardware.catalogue import load_catalogue
from shardwise.kernels.experts import EXPERTS
from shardwise.kernels.operator import Operator
from shardwise.kernels.roofline import rates_of

#: A shape faster than this share of its 16-bit roofline has 4-bit weights, not 8-bit ones.
_FOUR_BITS: Final = 0.47
#: Formats, narrowest first, with the share of the 16-bit roofline time below which they apply.
_SHARES: Final = (("mxfp4", _FOUR_BITS), ("fp8", 0.95))


def corrected(operator: Operator, rows: Rows) -> tuple[Rows, list[Finding]]:
    """Return rows without copied times, with a format that their memory traffic allows.

    The tables state the dtype of activations. Rows of "bf16" that would read 16-bit weights faster
    than memory allows have narrower weights.
    """
    if operator is not EXPERTS:
        return rows, []
    rows, findings = _without_copies(rows)
    wide = (rows.engine == "aiter") & (rows.variant == "bf16")
    variant = rows.variant.astype("U20")
    for gpu in np.unique(rows.gpu[wide]).tolist():
        mine = np.flatnonzero(wide & (rows.gpu == gpu))
        named = _formats(rows.take(mine), gpu)
        variant[mine] = named
        for name in np.unique(named[named != "bf16"]).tolist():
            count = int((named == name).sum())
            reason = f"faster than memory can read 16-bit weights: taken as {name}"
            findings.append(Finding("experts", (gpu, "aiter", "bf16"), count, reason, False))
    return replace(rows, variant=variant), findings


def _formats(rows: Rows, gpu: str) -> Names:
    least = EXPERTS.ideal(
        rates_of(load_catalogue().gpu(gpu)), "bf16", list(rows.shape.T), list(rows.work.T)
    )
    share = rows.seconds / least
    _, which = np.unique(rows.shape, axis=0, return_inverse=True)
    which = which.reshape(-1)
    fastest = np.full(which.max() + 1, np.inf)
    np.minimum.at(fastest, which, share)
    named = np.full(len(rows), "bf16", dtype="U20")
    for name, below in reversed(_SHARES):
        named[fastest[which] < below] = name
    return named


def _without_copies(rows: Rows) -> tuple[Rows, list[Finding]]:
    """Drop times that a shape also has, with all digits equal, for fewer tokens."""
    tuned = np.flatnonzero(rows.engine == "aiter")
    if not len(tuned):
        return rows, []
    part = rows.take(tuned)
    order = np.lexsort((part.work[:, 0], part.seconds))
    keys = np.column_stack([part.shape, part.seconds])[order]
    names = np.char.add(part.gpu, part.variant)[order]
    _, named = np.unique(names, return_inverse=True)
    _, first = np.unique(np.column_stack([keys, named]), axis=0, return_index=True)
    kept = np.zeros(len(part), dtype=np.bool_)
    kept[order[first]] = True
    keep = np.ones(len(rows), dtype=np.bool_)
    keep[tuned] = kept
    findings = [
        Finding("experts", (gpu, "aiter", "all"), count, "copied from fewer tokens of the shape")
        for gpu in np.unique(part.gpu).tolist()
        if (count := int((~kept & (part.gpu == gpu)).sum()))
    ]
    return rows.take(keep), findings
