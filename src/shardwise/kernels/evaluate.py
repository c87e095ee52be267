"""Times of one operator class for arrays of shapes and work."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.hardware.gpu import Gpu
from shardwise.kernels import store
from shardwise.kernels.choice import Choice, best_for, candidates
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array, Provenance, Sizes, Times
from shardwise.kernels.roofline import ASSUMED_EFFICIENCY, ASSUMED_LAUNCH_S, Rates, rates_of
from shardwise.kernels.surface import Surface, interpolate
from shardwise.kernels.transfer import surface_of

#: Octaves reported if there is no table.
UNKNOWN_OCTAVES: Final = 8.0
#: Largest number of sizes in a call whose times are cached: enough for the grids of a step.
KEPT_SIZES: Final = 4096


def evaluate(
    operator: Operator,
    gpu: Gpu,
    engine: str,
    variant: str,
    shape: Sequence[Sizes],
    work: Sequence[Sizes],
) -> Times:
    """Return the time of one call for each element of the broadcast sizes.

    Args:
        operator: The class.
        gpu: A GPU of the catalogue.
        engine: Whose kernels: "vllm", "sglang", "trtllm", "aiter", "nccl", ...
        variant: Dtype or kernel, under the names of the class.
        shape: The class's shape columns, positive.
        work: The class's work axes, positive.

    Raises:
        InputError: A size is not a positive finite number.
    """
    named = [*zip(operator.shape, shape, strict=True), *zip(operator.work, work, strict=True)]
    sizes = [_sizes(operator, name, values) for name, values in named]
    call = (operator, rates_of(gpu), engine, variant)
    if sum(column.size for column in sizes) > KEPT_SIZES:
        return _times(*call, sizes)
    return _kept_times(*call, tuple((column.shape, column.tobytes()) for column in sizes))


@lru_cache(maxsize=512)
def _kept_times(
    operator: Operator,
    rates: Rates,
    engine: str,
    variant: str,
    sizes: tuple[tuple[tuple[int, ...], bytes], ...],
) -> Times:
    """Return the times of a call that may be repeated: layouts share most of their kernels."""
    columns = [np.frombuffer(values).reshape(shape) for shape, values in sizes]
    times = _times(operator, rates, engine, variant, columns)
    for values in (times.seconds, times.provenance, times.distance):
        values.flags.writeable = False
    return times


def _times(
    operator: Operator, rates: Rates, engine: str, variant: str, sizes: Sequence[Array]
) -> Times:
    """Return the times of each element of `sizes`: the shape's columns, then the work's."""
    columns = np.broadcast_arrays(*sizes)
    extent = columns[0].shape
    flat = [column.reshape(-1) for column in columns]
    shape = sizes[: len(operator.shape)]
    shapes, works = flat[: len(shape)], flat[len(shape) :]
    found = candidates(operator, rates, engine, variant)
    if not found:
        return _roofline(operator, rates, variant, shapes, works, extent)
    seconds = np.empty(flat[0].shape)
    codes = np.empty(flat[0].shape, dtype=np.uint8)
    octaves = np.empty(flat[0].shape)
    groups, which = _distinct(shape, shapes)
    chosen = [best_for(operator, found, group) for group in groups]
    for choice in dict.fromkeys(chosen):
        mine = [n for n, other in enumerate(chosen) if other == choice]
        place = np.full(len(groups), -1, dtype=np.intp)
        place[mine] = np.arange(len(mine))
        take = slice(None) if len(mine) == len(groups) else np.flatnonzero(place[which] >= 0)
        surfaces = [_surface(operator, choice, rates, variant, groups[n]) for n in mine]
        seconds[take], codes[take], octaves[take] = _one_table(
            operator,
            (choice, surfaces, place[which[take]]),
            (rates, variant),
            [column[take] for column in shapes],
            [column[take] for column in works],
        )
    source = ", ".join(dict.fromkeys(choice.entry.label for choice in chosen))
    return Times(seconds.reshape(extent), codes.reshape(extent), octaves.reshape(extent), source)


def between_ranks(
    operator: Operator,
    gpu: Gpu,
    engine: str,
    variant: str,
    sizes: tuple[Sequence[Sizes], Sizes],
    work: Sizes,
) -> Times:
    """Call `evaluate` for a class whose last shape column is the number of ranks. One rank takes no
    time.

    `sizes` are the other shape columns and the ranks. `work` is the only work axis of the class.
    """
    others, given = sizes
    ranks = _sizes(operator, operator.shape[-1], given)
    times = evaluate(operator, gpu, engine, variant, (*others, np.maximum(ranks, 2.0)), (work,))
    alone = np.broadcast_to(ranks < 2.0, times.seconds.shape)
    if not alone.any():
        return times
    return Times(
        np.where(alone, 0.0, times.seconds),
        np.where(alone, Provenance.MEASURED, times.provenance).astype(np.uint8),
        np.where(alone, 0.0, times.distance),
        times.source,
    )


def _sizes(operator: Operator, name: str, values: Sizes) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.size and not (np.isfinite(array).all() and array.min() > 0):
        raise InputError(f"{operator.name}: {name} {np.min(array):g}", "allowed: positive numbers")
    return array


def _distinct(
    given: Sequence[Array], shapes: Sequence[Array]
) -> tuple[list[tuple[float, ...]], npt.NDArray[np.intp]]:
    """Return the distinct shapes, and the index of the shape of each element."""
    size = shapes[0].size
    codes = np.zeros(size, dtype=np.intp)
    for values, column in zip(given, shapes, strict=True):
        if values.size > 1:
            distinct, _, inverse = distinct_of(column)
            codes = codes * len(distinct) + inverse
    _, first, which = distinct_of(codes)
    return [tuple(float(column[n]) for column in shapes) for n in first], which


def _surface(
    operator: Operator, choice: Choice, rates: Rates, variant: str, shape: tuple[float, ...]
) -> Surface:
    """Return the surface of a choice; engines that use one table share its times."""
    if choice.provenance is not Provenance.OTHER_ENGINE:
        return _kept_surface(operator, choice.entry, choice.provenance, rates, variant, shape)
    own = _kept_surface(operator, choice.entry, Provenance.MEASURED, rates, variant, shape)
    return replace(own, nearest=choice.provenance, between=choice.provenance)


@lru_cache(maxsize=4096)
def _kept_surface(
    operator: Operator,
    entry: store.Entry,
    provenance: Provenance,
    rates: Rates,
    variant: str,
    shape: tuple[float, ...],
) -> Surface:
    choice, measured_on = Choice(entry, provenance), store.index().rates
    return surface_of(operator, choice, store.table(entry), (rates, variant), shape, measured_on)


def _one_table(
    operator: Operator,
    table: tuple[Choice, list[Surface], npt.NDArray[np.intp]],
    target: tuple[Rates, str],
    shapes: Sequence[Array],
    works: Sequence[Array],
) -> tuple[Array, Array, Array]:
    """Return seconds, provenance codes and octaves of the elements that use one table."""
    choice, surfaces, which = table
    grid = store.table(choice.entry).grid
    axes = grid.axes
    nodes = np.stack([surface.log2_seconds for surface in surfaces])
    known = np.stack([surface.known for surface in surfaces])
    found = interpolate(grid, nodes, known, which, works)
    seconds = np.exp2(found.log2_seconds)
    outside = np.zeros(seconds.shape)
    for axis, values in zip(axes, works, strict=True):
        held = np.minimum(np.maximum(values, axis[0]), axis[-1])
        outside += np.abs(np.log2(values / held))
    beyond = [np.maximum(w, axis[0]) for w, axis in zip(works, axes, strict=True)]
    if any((w > axis[-1]).any() for w, axis in zip(works, axes, strict=True)):
        more = operator.ideal(*target, shapes, beyond)
        launch = np.minimum(choice.entry.launch_s, seconds)
        held_to = operator.ideal(*target, shapes, found.clamped)
        seconds = launch + (seconds - launch) * (more / held_to)
    seconds = np.maximum(seconds, operator.bound(*target, shapes, works))
    nearest = np.array([surface.nearest for surface in surfaces])[which]
    between = np.array([surface.between for surface in surfaces])[which]
    codes = np.where(found.on_point, nearest, between)
    held = (outside > 0) | ~found.all_known
    codes = np.where(held, np.maximum(codes, Provenance.EXTRAPOLATED), codes)
    octaves = outside + np.array([surface.distance for surface in surfaces])[which]
    return seconds, codes, octaves


def _roofline(
    operator: Operator,
    rates: Rates,
    variant: str,
    shapes: Sequence[Array],
    works: Sequence[Array],
    extent: tuple[int, ...],
) -> Times:
    seconds = ASSUMED_LAUNCH_S + operator.bound(rates, variant, shapes, works) / ASSUMED_EFFICIENCY
    return Times(
        seconds.reshape(extent),
        np.full(extent, Provenance.ROOFLINE, dtype=np.uint8),
        np.full(extent, UNKNOWN_OCTAVES),
        f"datasheet of {rates.gpu_id}",
    )


def distinct_of(
    values: npt.NDArray[Any],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the sorted distinct values, the index of each first occurrence, and the inverse.

    Same as `np.unique`, which imports `numpy.ma` on its first call and adds 8 ms to a plan.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    new = np.ones(len(ordered), np.bool_)
    new[1:] = ordered[1:] != ordered[:-1]
    found = ordered[new]
    return found, order[new], np.searchsorted(found, values)
