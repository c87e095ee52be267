"""Predict rows of a table: return the rows with predicted columns and a note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from msgspec.structs import replace

from shardwise.architecture.model import require_context
from shardwise.engines.checks import layout_problems
from shardwise.engines.loading import Loader, loaded_stage_bytes
from shardwise.engines.registry import get
from shardwise.errors import InputError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.rules import require_length, undivided, violations
from shardwise.perfmodel.batches import Batch, GpuOf, group, usual_gpu
from shardwise.perfmodel.estimate import note_of
from shardwise.perfmodel.in_step import WORDS as IN_STEP
from shardwise.perfmodel.intervals import half_width, with_speculation
from shardwise.perfmodel.knowledge import Asked, asked_of
from shardwise.perfmodel.memory import Platform
from shardwise.perfmodel.physics import impossible
from shardwise.perfmodel.profiles import Calibrated, Profile, calibrated
from shardwise.perfmodel.rows import Problem, Row, parse_rows
from shardwise.units import GIB

#: column -> (metric, factor from SI)
COLUMNS: Final[Mapping[str, tuple[str, float]]] = {
    "pred_ttft_ms": ("ttft_s", 1e3),
    "pred_tpot_ms": ("tpot_s", 1e3),
    "pred_e2e_s": ("e2e_latency_s", 1.0),
    "pred_output_tok_s": ("output_tok_s", 1.0),
    "pred_total_tok_s": ("total_tok_s", 1.0),
}
NEW_COLUMNS: Final = (
    *(name for column in COLUMNS for name in (column, f"{column}_lo", f"{column}_hi")),
    "pred_kv_limited",
    "pred_weight_gib",
    "pred_kv_cache_tokens",
    "pred_note",
)


def batch_calibration(profile: Profile, batch: Batch) -> Calibrated:
    """Return the calibration of a batch's GPU and engine."""
    siblings = default_catalogue().by_id
    return calibrated(profile, batch.gpu, batch.key.engine, siblings, batch.key.version)


def _asked(profile: Profile, batch: Batch) -> Asked:
    """Return the batch's setup, with the kernel error if no calibration row has its GPU."""
    asked = asked_of(batch)
    if asked.gpu in profile.knowledge.gpus:
        return asked
    kernels = batch.setting({}).kernels(batch.load.layouts)
    return replace(asked, kernel_error=float(np.max(kernels.kernel_error)))


def _predict_batch(profile: Profile, batch: Batch) -> dict[int, dict[str, str]]:
    """Return the predicted cells of each row, by row number."""
    known = batch_calibration(profile, batch)
    served = batch.serve(known.coefficients_of(batch.model_key))
    asked = _asked(profile, batch)
    layouts = {row.layout for row in batch.rows}
    widths = {
        (metric, layout): with_speculation(
            half_width(profile, asked, metric, layout, batch.key.mode),
            batch.key.speculation,
            metric,
        )
        for metric, _ in COLUMNS.values()
        for layout in layouts
    }
    loader = Platform(batch.gpu, batch.key.engine, batch.key.version).loader
    drafted = f"; {batch.key.speculation.words}" if batch.key.speculation else ""
    notes = {layout: note_of(known, asked, [layout]) + drafted for layout in layouts}
    out: dict[int, dict[str, str]] = {}
    for i, row in enumerate(batch.rows):
        cells = {}
        for column, (metric, factor) in COLUMNS.items():
            value = float(getattr(served, metric)[i]) * factor
            spread = float(np.exp(widths[metric, row.layout]))
            cells[column] = f"{value:.6g}"
            cells[f"{column}_lo"] = f"{value / spread:.6g}"
            cells[f"{column}_hi"] = f"{value * spread:.6g}"
        cells["pred_kv_limited"] = str(int(served.kv_limited[i]))
        held = loaded_stage_bytes(loader, batch.arch, row.layout)
        cells["pred_weight_gib"] = f"{max(held) / GIB:.6g}"
        cells["pred_kv_cache_tokens"] = f"{batch.load.kv_capacity_tokens[i]:.0f}"
        limit = ""
        if served.kv_limited[i]:
            limit = f"; kv-limited: the cache holds {served.batch[i]:.0f} sequences"
        if served.in_step[i]:
            limit += f"; {IN_STEP}"
        cells["pred_note"] = notes[row.layout] + limit
        out[row.number] = cells
    return out


def cannot_run(batch: Batch) -> list[Problem]:
    """Return rows that exceed the model's context, break a rule of the layout or engine, or do not
    fit in memory."""
    loader = Platform(batch.gpu, batch.key.engine, batch.key.version).loader
    problems = []
    for i, row in enumerate(batch.rows):
        try:
            require_context(batch.arch, row.isl, row.osl)
            require_length(row.limits, row.isl + row.osl, batch.arch)
        except InputError as error:
            problems.append(Problem(row.number, str(error)))
            continue
        if why := _refused(batch, row, loader):
            problems.append(Problem(row.number, why))
        elif batch.load.kv_capacity_tokens[i] < row.isl:
            problems.append(
                Problem(row.number, f"does not fit {batch.gpu.id} at {row.layout.name}")
            )
    return problems


def _refused(batch: Batch, row: Row, loader: Loader) -> str:
    """Return why a row's layout cannot run; "" if it can."""
    most = batch.gpu.interconnect.max_world
    if batch.gpu.all_reduce_source and row.layout.replica_gpus > most:  # that of a node file
        return f"{row.layout.name} needs {row.layout.replica_gpus} GPUs, and the node has {most}"
    if broken := violations(batch.arch, row.layout, loader):
        return broken[0].message
    for problem in layout_problems(get(batch.key.engine), row.layout, batch.arch):
        return str(problem)
    if row.mode == "static_batch" and row.concurrency % row.layout.attention_dp:
        return str(undivided(row.concurrency, row.layout))
    return ""


def predict_table(
    table: Sequence[Mapping[str, str]], profile: Profile, gpu_of: GpuOf = usual_gpu
) -> tuple[list[dict[str, str]], list[Problem]]:
    """Return every row with its predicted cells, and the problems. A row that cannot be predicted
    has empty cells and a note with the reason."""
    rows, problems = parse_rows(table)
    batches, unknown = group(rows, gpu_of)
    problems = problems + unknown
    predicted: dict[int, dict[str, str]] = {}
    for batch in batches:
        problems += cannot_run(batch)
        predicted |= _predict_batch(profile, batch)
    reasons = {p.number: p.reason for p in problems}
    empty = dict.fromkeys(NEW_COLUMNS, "")
    out = []
    for number, cells in enumerate(table, start=1):
        if number in reasons:
            new = {**empty, "pred_note": f"not predicted: {reasons[number]}"}
        else:
            new = predicted[number]
        out.append({**cells, **new})
    return out, sorted(problems, key=lambda p: p.number)


def usable_rows(
    table: Sequence[Mapping[str, str]], gpu_of: GpuOf = usual_gpu
) -> tuple[list[Row], list[Problem]]:
    """Return rows that can be predicted and have a measurement that is possible on their GPU, and
    the problems of the other rows."""
    rows, problems = parse_rows(table)
    batches, unknown = group(rows, gpu_of)
    broken = [p for batch in batches for p in cannot_run(batch)]
    broken += [Problem(found.row.number, found.reason) for found in impossible(batches)]
    bad = {p.number for p in (*unknown, *broken)}
    good = [row for row in rows if row.number not in bad and row.observed]
    return good, [*problems, *unknown, *broken]
