"""Models that `explain` and `profile` run: a folder, a .gguf file, or a bundled name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from shardwise.errors import UnknownNameError


@contextmanager
def model_folder(model: str, random_weights: bool) -> Iterator[tuple[Path, bool]]:
    """Where to read `model` from, and whether its weights are random.

    A bundled name has a config alone, so its weights are random; stderr says so. Raises
    UnknownNameError for what is neither a path nor a bundled name.
    """
    from shardwise.architecture.models import bundled, bundled_config

    path = Path(model).expanduser()
    if path.exists():
        yield path, random_weights
        return
    if model not in bundled():
        raise UnknownNameError("model", model, bundled(), "a folder or a .gguf file is allowed too")
    click.echo(f"{model}: random weights, since only its shape is bundled", err=True)
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(bundled_config(model)), "utf-8")
        yield Path(folder), True
