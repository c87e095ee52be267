"""Embed a chart as SVG in an HTML page: unique ids, one description, colours of the page."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from shardwise.reports.figure_style import render

#: Vega labels every part for assistive technology; inside one described image, the labels are
#: removed.
_PART_ROLES: Final = re.compile(r' (?:role|aria-[a-z]+)="[^"]*"')
_IDS: Final = re.compile(r'(\bid="|url\(#|(?:xlink:)?href="#)([\w-]+)')
_SIZE: Final = re.compile(r'width="(\d+)" height="\d+"')


class Drawing(msgspec.Struct, frozen=True):
    """An inline SVG (safe markup), its name and its description."""

    name: str
    svg: str
    description: str
    width: int


def draw(name: str, chart: Any) -> Drawing:
    """Draw `chart`; `name` makes its ids unique on the page.

    vl-convert escapes text, so names in the data cannot become markup.
    """
    raw = render(chart, "svg").decode()
    body = raw[raw.index("<svg") :]
    body = _IDS.sub(lambda m: f"{m[1]}{name}-{m[2]}", _PART_ROLES.sub("", body))
    width = _SIZE.search(body)
    assert width, "vl-convert gives every drawing a size"
    body = body.replace("<svg ", f'<svg role="img" aria-labelledby="{name}-caption" ', 1)
    return Drawing(name, body, str(chart.description), int(width[1]))
