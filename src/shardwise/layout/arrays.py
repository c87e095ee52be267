"""Many deployments as arrays, for sweeps of the performance model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwise.layout.deployment import Deployment, Layout

Floats = NDArray[np.float64]
MOST_RANKS = 2**12  #: of any size of a layout, so that a layout is one integer of 64 bits


class Layouts(msgspec.Struct, frozen=True, dict=True):
    """Layouts of one replica each, one element a configuration; arrays of one shape.

    The fields are those of `Layout`; `replicas` is not among them, since copies do not change
    what one of them does.
    """

    tp_size: Floats
    pp_size: Floats
    ep_size: Floats
    attention_dp: Floats
    dcp_size: Floats

    @classmethod
    def of(cls, layouts: Iterable[Layout]) -> Self:
        """Layouts as arrays of shape (n,)."""
        found = list(layouts)
        # `msgspec.structs.fields` reads annotations anew at each call: ten times as slow
        return cls(
            *(
                np.array([getattr(x, name) for x in found], np.float64)
                for name in cls.__struct_fields__
            )
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of every array."""
        return np.shape(self.tp_size)

    @property
    def stage_gpus(self) -> Floats:
        """GPUs of one pipeline stage."""
        return self.tp_size * self.attention_dp

    def unique(self) -> tuple[list[Layout], NDArray[np.int64]]:
        """Return the distinct layouts, and the index of each element's layout, in `shape`."""
        return self._unique

    @cached_property
    def _unique(self) -> tuple[list[Layout], NDArray[np.int64]]:
        code = np.zeros(self.shape, np.int64)
        for name in self.__struct_fields__:
            code = code * MOST_RANKS + np.asarray(getattr(self, name), np.int64)
        # np.unique would import numpy.ma, 8 ms of a plan
        flat = code.reshape(-1)
        codes = np.sort(flat)
        new = np.ones(len(codes), np.bool_)
        new[1:] = codes[1:] != codes[:-1]
        codes = codes[new]
        index = np.searchsorted(codes, flat)
        found = []
        for value in codes.tolist():
            sizes = []
            for _ in self.__struct_fields__:
                value, size = divmod(value, MOST_RANKS)  # noqa: PLW2901
                sizes.append(size)
            names = self.__struct_fields__
            found.append(Layout(**dict(zip(names, reversed(sizes), strict=True))))
        return found, index.reshape(self.shape)

    def gather(self, of: Callable[[Layout], float]) -> Floats:
        """Return `of` each element's layout, computed once per distinct layout."""
        found, index = self.unique()
        return np.array([of(layout) for layout in found], np.float64)[index]


class Deployments(msgspec.Struct, frozen=True):
    """Deployments of one model, GPU, engine and dtypes: `Deployment`'s layout and limits as
    arrays of one shape, one element a configuration."""

    layouts: Layouts
    max_num_seqs: Floats
    max_num_batched_tokens: Floats
    gpu_memory_utilization: Floats

    @classmethod
    def of(cls, deployments: Sequence[Deployment]) -> Self:
        """Deployments as arrays of shape (n,)."""
        limits = [d.limits for d in deployments]
        return cls(
            Layouts.of(d.layout for d in deployments),
            np.array([x.max_num_seqs for x in limits], np.float64),
            np.array([x.max_num_batched_tokens for x in limits], np.float64),
            np.array([x.gpu_memory_utilization for x in limits], np.float64),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of every array."""
        return self.layouts.shape
