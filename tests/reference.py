"""Where the reference rows lie, for the tests that need them."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1].parent / "shared" / "reference"
needs_reference = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the reference rows (../shared/reference) are not here"
)
