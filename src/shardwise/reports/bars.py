"""Bars and sparklines made of characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_HEIGHTS: Final = "▁▂▃▄▅▆▇█"


def bar(share: float, width: int) -> str:
    """Return a bar of `share` (0 to 1) of `width` characters, to an eighth; values above 0 are
    visible."""
    if not share > 0:
        return ""
    eighths = max(1, round(min(share, 1.0) * width * 8))
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def bars(values: Sequence[float], width: int) -> list[str]:
    """Return a bar for each value, the largest `width` characters long."""
    most = max((v for v in values if math.isfinite(v)), default=0.0)
    return [bar(v / most if most > 0 else 0.0, width) for v in values]


def sparkline(values: Sequence[float]) -> str:
    """Return a character for each value, 0 the lowest; a space for NaN."""
    known = [v for v in values if math.isfinite(v)]
    most = max(known, default=0.0)
    return "".join(
        _HEIGHTS[round(v / most * 7) if most > 0 else 0] if math.isfinite(v) else " "
        for v in values
    )
