"""Page templates; all inserted text is escaped."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from shardwise.errors import printable

if TYPE_CHECKING:
    from jinja2 import Environment, Template

LONGEST: Final = 1000  #: limit of one text in characters: names come from untrusted files


def template(name: str) -> Template:
    """Load a page template by file name. The style sheet is available as `css`."""
    return _environment().get_template(name)


def _file(name: str) -> str:
    return files("shardwise.reports.html").joinpath(name).read_text("utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    known = Environment(
        loader=FunctionLoader(_file),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value, LONGEST) if type(value) is str else value,
    )
    known.globals["css"] = _file("report.css")
    return known
