"""Folder of the user's files: $SHARDWISE_HOME, or ~/.config/shardwise."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the folder of the user's files: SHARDWISE_HOME, or ~/.config/shardwise."""
    given = os.environ.get("SHARDWISE_HOME")
    return Path(given) if given else Path.home() / ".config" / "shardwise"


def hardware_folder() -> Path:
    """Return the catalogue files that every command reads after the bundled ones."""
    return home() / "hardware"


def own_ids() -> frozenset[str]:
    """Return the GPU ids of those machines; `detect` names a file after its machine."""
    return frozenset(path.stem for path in own_hardware())


def own_hardware() -> tuple[Path, ...]:
    """Return the TOML files of machines measured by `shardwise hardware detect`."""
    return tuple(sorted(hardware_folder().glob("*.toml")))
