"""Models and GPUs by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardwise.architecture.model import Model
    from shardwise.hardware.gpu import Gpu


def load_model(name: str) -> Model:
    """A model with its layers, tensors and caches.

    Args:
        name: A bundled id (`llama-3.1-70b`), a folder or `config.json`, or a Hugging Face id.

    Raises:
        UnknownNameError: No such model.
        InputError: Its configuration is not understood.
    """
    from shardwise.architecture.models import load

    return load(name)


def load_gpu(name: str, *, catalogue_files: Sequence[Path] = ()) -> Gpu:
    """A GPU with its memory, rates and links; `shardwise catalogue facts GPU` has the sources.

    Args:
        name: An id of the catalogue, e.g. `h200`.
        catalogue_files: TOML files with your own GPUs.

    Raises:
        UnknownNameError: No such GPU.
    """
    from shardwise.perfmodel.subject import catalogue_for

    return catalogue_for(catalogue_files).gpu(name)
