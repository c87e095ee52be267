"""The hardware of a question: a GPU of the catalogue, or a node file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from shardwise.errors import InputError
from shardwise.files import AnyPath

if TYPE_CHECKING:
    from shardwise.hardware.catalogue import Catalogue

USUAL_GPUS: Final = 8


class Hardware(msgspec.Struct, frozen=True):
    """A GPU id, the number of GPUs, and the catalogue files that define the GPU."""

    gpu: str
    gpus: int
    files: tuple[Path, ...] = ()  #: of GPUs and prices; a node file stands last

    def catalogue(self, engine: str) -> Catalogue:
        """Return the catalogue, with `engine`'s all-reduces on the node of a node file."""
        from shardwise.perfmodel.subject import catalogue_for

        return catalogue_for(self.files, self.gpu, engine)

    def device_order(self, tp_size: int) -> tuple[int, ...]:
        """Return the node's GPUs in the order in which replicas of `tp_size` use them.

        Empty without a node file: numerical order.
        """
        if not self.files:
            return ()
        from shardwise.perfmodel.node_gpu import device_order_of

        return device_order_of(self.files, self.gpu, tp_size)


def hardware_of(
    gpu: str,
    gpus: int | None = None,
    node_file: AnyPath | None = None,
    catalogue_files: Sequence[AnyPath] = (),
) -> Hardware:
    """Return the hardware that a user names.

    Args:
        gpu: GPU id of the catalogue; empty: the node file's GPU.
        gpus: Number of GPUs; None: those of the node file, else 8.
        node_file: Node file that `shardwise doctor --save` wrote.
        catalogue_files: TOML files with GPUs and prices.

    Raises:
        InputError: No GPU is given, the node file cannot be read, or the two contradict.
    """
    if node_file is None:
        if not gpu:
            raise InputError("no GPU is given", "allowed: a GPU id, or a node file", field="gpu")
        return Hardware(gpu, USUAL_GPUS if gpus is None else gpus, all_files(catalogue_files))
    from shardwise.perfmodel.node_gpu import node_file as read_node
    from shardwise.perfmodel.subject import catalogue_for

    files = all_files(catalogue_files, node_file)
    found = read_node(files[-1], catalogue_for(files[:-1]), gpu, gpus)
    return Hardware(found.gpu, found.gpus, files)


def all_files(
    catalogue_files: Sequence[AnyPath], node_file: AnyPath | None = None
) -> tuple[Path, ...]:
    """Return the files that GPUs are looked up in, a node file last."""
    given = (*catalogue_files, node_file) if node_file is not None else catalogue_files
    return tuple(Path(path) for path in given)
