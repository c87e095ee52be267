"""Where real pastes lie, for the tests that need them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardwise.node.reading.read import Reading, read

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "samples"
needs_samples = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the samples (../shared/samples) are not here"
)


def sample(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def reading(name: str) -> Reading:
    return read(sample(name), name)
