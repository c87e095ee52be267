"""Load models and GPUs by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shardwise.files import AnyPath

if TYPE_CHECKING:
    from shardwise.architecture.model import Model
    from shardwise.hardware.gpu import Gpu


def load_model(name: str) -> Model:
    """Load a model with its layers, tensors and caches.

    Args:
        name: A bundled id (`llama-3.1-70b`), a folder or `config.json`, or a Hugging Face id.

    Raises:
        UnknownNameError: The model is unknown.
        InputError: The configuration is not supported.
    """
    from shardwise.architecture.models import load

    return load(name)


def load_gpu(name: str, *, catalogue_files: Sequence[AnyPath] = ()) -> Gpu:
    """Load a GPU with its memory, rates and links.

    Args:
        name: An id of the catalogue, e.g. `h200`.
        catalogue_files: TOML files with your own GPUs.

    Raises:
        UnknownNameError: The GPU is unknown.
    """
    from shardwise.perfmodel.subject import catalogue_for

    return catalogue_for([Path(path) for path in catalogue_files]).gpu(name)
