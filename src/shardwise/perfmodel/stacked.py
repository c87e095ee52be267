"""Rows of many models, GPUs and engines as one array computation per mode.

A fit predicts all rows many times with different coefficients, but the same kernel times. The
tables of all batches are therefore concatenated once. Coefficients are arrays with one element per
row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from msgspec.structs import fields
from numpy.typing import NDArray

from shardwise.layout.arrays import Layouts
from shardwise.perfmodel.batches import Batch
from shardwise.perfmodel.loads import Load
from shardwise.perfmodel.operators import StepKernels
from shardwise.perfmodel.serving import SERVE, Served
from shardwise.perfmodel.work import Array

Places = NDArray[np.int64]


class Stack(msgspec.Struct, frozen=True):
    """Rows of one mode.

    Attributes:
        batches: Positions of the batches among all.
        batch_of: For each row, the position of its batch among all.
    """

    mode: str
    batches: tuple[int, ...]
    batch_of: Places
    load: Load
    tables: StepKernels

    def serve(self, coefficients: Mapping[str, Array]) -> Served:
        """Predict every row. Each of `coefficients` has one element per batch."""
        mine = {name: values[self.batch_of] for name, values in coefficients.items()}
        return SERVE[self.mode](_Stacked(mine, self.tables), self.load)


class _Stacked(msgspec.Struct, frozen=True):
    coefficients: Mapping[str, Array | float]
    tables: StepKernels
    drafting: None = None  # rows of a fit have no speculative decoding

    def kernels(self, layouts: Layouts) -> StepKernels:
        del layouts  # the tables are already those of the load
        return self.tables


def stack(batches: Sequence[Batch]) -> list[Stack]:
    """Return the rows of all batches by mode, in the order of the batches."""
    found = []
    for mode in dict.fromkeys(b.key.mode for b in batches):
        places = [i for i, b in enumerate(batches) if b.key.mode == mode]
        some = [batches[i] for i in places]
        sizes = [len(b.rows) for b in some]
        kernels = [b.setting({}).kernels(b.load.layouts) for b in some]
        found.append(
            Stack(
                mode,
                tuple(places),
                np.repeat(np.array(places), sizes),
                _joined_loads([b.load for b in some]),
                _joined_tables(kernels),
            )
        )
    return found


def _joined_loads(loads: Sequence[Load]) -> Load:
    layouts = Layouts(
        *(np.concatenate([getattr(x.layouts, f.name) for x in loads]) for f in fields(Layouts))
    )
    rest = {
        f.name: np.concatenate(
            [np.broadcast_to(getattr(x, f.name), x.layouts.shape) for x in loads]
        )
        for f in fields(Load)
        if f.name != "layouts"
    }
    return Load(layouts=layouts, **rest)


def _joined_tables(kernels: Sequence[StepKernels]) -> StepKernels:
    starts = np.cumsum([0, *(len(k.launched) for k in kernels)])[:-1]
    index = np.concatenate([k.index + start for k, start in zip(kernels, starts, strict=True)])
    none = np.zeros_like(kernels[0].dense[:1, :, :3])
    experts = [
        k.experts if k.experts is not None else np.repeat(none, len(k.launched), axis=0)
        for k in kernels
    ]
    rest = {
        f.name: np.concatenate([getattr(k, f.name) for k in kernels])
        for f in fields(StepKernels)
        if f.name not in ("index", "experts")
    }
    return StepKernels(index=index, experts=np.concatenate(experts), **rest)
