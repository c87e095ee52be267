"""Where a user's own files live: $SHARDWISE_HOME, else ~/.config/shardwise."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Folder of the user's own files: SHARDWISE_HOME, or ~/.config/shardwise."""
    given = os.environ.get("SHARDWISE_HOME")
    return Path(given) if given else Path.home() / ".config" / "shardwise"


def hardware_folder() -> Path:
    """Catalogue files that every command reads after the bundled ones."""
    return home() / "hardware"


def own_hardware() -> tuple[Path, ...]:
    """TOML files of machines measured by `shardwise hardware detect`."""
    return tuple(sorted(hardware_folder().glob("*.toml")))
