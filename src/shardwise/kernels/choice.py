"""Choose the table for a call: that of the GPU and engine, or the nearest other one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Final

import msgspec
import numpy as np

from shardwise.errors import UnknownNameError
from shardwise.kernels import store
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array, Provenance
from shardwise.kernels.roofline import Rates

#: Octaves of shape by which another engine's table must be nearer to be chosen. Assumed: engines
#: differ by 10 to 30 % at the same shape, as do shapes half an octave apart (leave-one-shape-out
#: errors).
OTHER_ENGINE_OCTAVES: Final = 0.5
#: The same for each step in a variant's list of relatives. Assumed: twice that of another engine.
OTHER_VARIANT_OCTAVES: Final = 1.0


class Choice(msgspec.Struct, frozen=True):
    """A table and its distance from the question.

    Attributes:
        entry: The table.
        provenance: MEASURED if GPU, engine and variant match; else the largest difference.
        octaves: Penalty for another engine or variant, in octaves of shape.
    """

    entry: store.Entry
    provenance: Provenance
    octaves: float = 0.0


@cache
def candidates(operator: Operator, rates: Rates, engine: str, variant: str) -> tuple[Choice, ...]:
    """Return all tables of the nearest GPU that has any, best first.

    Empty if the class has no table, and for a CPU, whose kernels differ from those of all GPUs.
    """
    index = store.index()
    entries = [entry for entry in index.entries if entry.operator == operator.name]
    if not entries or rates.vendor == "cpu":
        return ()
    order = list(operator.relatives(variant))
    distance = {gpu: gpu_distance(rates, known) for gpu, known in index.rates.items()}
    if operator.shape == ("ranks",):  # a collective: the interconnect matters most
        distance = {gpu: d + _fabric(rates, index.rates[gpu]) for gpu, d in distance.items()}
    nearest = min(distance[entry.gpu] for entry in entries)
    found = []
    for entry in entries:
        if distance[entry.gpu] > nearest:
            continue
        kin = order.index(entry.variant) if entry.variant in order else len(order)
        octaves = OTHER_VARIANT_OCTAVES * kin
        if entry.engine != engine:  # prefer fast engines: slow kernels are specific to an engine
            octaves += OTHER_ENGINE_OCTAVES + float(np.log2(entry.slowness))
        provenance = _provenance(entry, rates, engine, variant)
        found.append(Choice(entry, provenance, octaves))
    return tuple(sorted(found, key=lambda choice: (choice.octaves, -choice.entry.points)))


def _fabric(asked: Rates, known: Rates) -> float:
    """Return a distance above all others if only one GPU has a bus, or only one has a mesh."""
    same = (asked.shared_bus, bool(asked.mesh_links)) == (known.shared_bus, bool(known.mesh_links))
    return 0.0 if same else 4.0


def _provenance(entry: store.Entry, rates: Rates, engine: str, variant: str) -> Provenance:
    if entry.gpu != rates.gpu_id:
        return Provenance.OTHER_GPU
    if entry.variant != variant:
        return Provenance.OTHER_DTYPE
    return Provenance.MEASURED if entry.engine == engine else Provenance.OTHER_ENGINE


def gpu_distance(asked: Rates, known: Rates) -> float:
    """Return 0 for the same GPU, below 1 for the same generation, below 2 for the same vendor, else
    at least 2."""
    if asked.gpu_id == known.gpu_id:
        return 0.0
    octaves = abs(np.log2(asked.memory / known.memory))
    octaves += abs(np.log2(asked.matrix("bf16") / known.matrix("bf16")))
    near = float(octaves / (1.0 + octaves))
    if asked.generation == known.generation:
        return 0.01 + 0.9 * near
    return (1.0 if asked.vendor == known.vendor else 2.0) + near


def shape_octaves(operator: Operator, shapes: Array, shape: Sequence[float]) -> Array:
    """Return the distance of each row of `shapes` from `shape`, in weighted octaves."""
    weights = np.asarray(operator.weights)
    steps = weights * (np.log2(shapes) - np.log2(np.asarray(shape)))
    return np.asarray(np.sqrt(np.sum(steps**2, axis=-1)))


@lru_cache(maxsize=4096)
def best_for(operator: Operator, found: tuple[Choice, ...], shape: tuple[float, ...]) -> Choice:
    """Return the candidate with the smallest total distance of engine, variant and shape."""
    best, least = found[0], np.inf
    for choice in found:
        if choice.octaves >= least:  # the distance of its shapes only adds to that
            continue
        octaves = shape_octaves(operator, store.shapes(choice.entry), shape)
        cost = choice.octaves + float(np.min(octaves))
        if cost < least:
            best, least = choice, cost
    return best


@cache
def typical_error(operator: str, provenance: Provenance) -> float:
    """Return the median relative error of a class's times of one provenance.

    MEASURED has no error. INTERPOLATED and EXTRAPOLATED have that of held-out work or shapes, the
    others that of the nearest relative, and ROOFLINE the largest known.

    Args:
        operator: Name of the class, e.g. "gemm", as in the file names of the tables.
        provenance: Where the times come from.

    Raises:
        UnknownNameError: No class has this name.
    """
    index = store.index()
    if operator not in index.carried:
        raise UnknownNameError("kernel class", operator, index.carried)
    entries = [entry for entry in index.entries if entry.operator == operator]
    between = max(_median([e.error for e in entries]), _median([e.point_error for e in entries]))
    known = {Provenance.MEASURED: 0.0, Provenance.INTERPOLATED: between}
    farther = [between]
    for kind in Provenance:
        if kind > Provenance.INTERPOLATED:
            farther.append(index.carried[operator].get(kind.name.lower(), farther[-1]))
            known[kind] = max(farther)
    return known[provenance]


def _median(values: list[float]) -> float:
    # np.median imports numpy.ma, which adds 7 ms to a plan
    ranked, middle = sorted(values), len(values) // 2
    return (ranked[middle] + ranked[~middle]) / 2.0
