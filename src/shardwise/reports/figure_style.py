"""Style shared by all figures: palette, sizes, marks by kind of evidence, SVG and PNG."""

from __future__ import annotations

import textwrap
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from shardwise.errors import printable
from shardwise.evidence.record import Evidence, Kind, Source
from shardwise.reports.files import write_bytes

if TYPE_CHECKING:
    import altair as alt

Format = Literal["svg", "png"]

#: Okabe and Ito, "Color universal design", 2008: distinguishable with any common colour blindness.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY: Final = "#666666"
TP_COLOURS: Final = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)
#: mark of each kind; they differ with and without colour
DASHES: Final[dict[Kind, list[int]]] = {
    "predicted": [1, 0],
    "simulated": [2, 2],
    "measured": [8, 4],
    "published": [10, 3, 2, 3],
}
SHAPES: Final[dict[Kind, str]] = {
    "predicted": "circle",
    "simulated": "triangle-up",
    "measured": "square",
    "published": "diamond",
}
DRAWN: Final[dict[Kind, str]] = {
    "predicted": "solid, circles",
    "simulated": "dotted, triangles",
    "measured": "dashed, squares",
    "published": "dash-dotted, diamonds",
}
WIDTH: Final = 640
HEIGHT: Final = 380
PANEL: Final = 280  #: width of one of two panels side by side
LINE: Final = 130  #: characters of a subtitle that fit beside one another
#: vl-convert brings Liberation Sans along: the same figure on a machine without fonts. It has no
#: check marks.
FONT: Final = "Liberation Sans, Arial, Helvetica, sans-serif"
PNG_SCALE: Final = 2.0  #: pixels per point; 800 px wide on screen stays sharp on dense displays


def data(rows: Iterable[dict[str, Any]]) -> alt.InlineData:
    """Return rows as data embedded in the figure."""
    import altair as alt

    return alt.InlineData(values=list(rows))


def titled(chart: Any, title: str, subtitle: Sequence[str]) -> Any:
    """Return `chart` with a title, subtitle lines and the shared style."""
    import altair as alt

    heading = alt.TitleParams(
        text=_cut(title),
        subtitle=[part for line in subtitle for part in _wrapped(line)],
        anchor="start",
        frame="bounds",
        offset=14,
    )
    return (
        chart.properties(title=heading, description=". ".join(map(_cut, [title, *subtitle])))
        .configure(font=FONT, padding=12, background="white")
        .configure_title(fontSize=16, subtitleFontSize=12, subtitleColor=GREY, subtitlePadding=5)
        .configure_axis(
            labelFontSize=12, titleFontSize=12, titlePadding=8, gridColor="#e5e5e5", labelLimit=220
        )
        .configure_legend(labelFontSize=12, titleFontSize=12, labelLimit=260, symbolSize=110)
        .configure_header(labelFontSize=12, titleFontSize=12, labelFontWeight="bold")
        .configure_view(stroke="#cccccc")
    )


def _cut(line: str) -> str:
    """Shorten `line` to the width of a figure."""
    return printable(line, LINE)


def _wrapped(line: str) -> list[str]:
    """Break `line` at the width of a figure, into at most three lines."""
    return textwrap.wrap(printable(line, 3 * LINE - 10), LINE)


def by_batch(panel: Any, rows: Sequence[dict[str, Any]]) -> Any:
    """Repeat `panel` per batch, in the order of `rows`, two side by side."""
    import altair as alt

    order = list(dict.fromkeys(row["batch"] for row in rows))
    return panel.facet(facet=alt.Facet("batch:N", title=None, sort=order), columns=2)


def colours_by_tp(tp_sizes: Iterable[int]) -> dict[int, str]:
    """Return the colour of each TP, ascending; powers of two always have the same colour."""
    known = sorted(set(tp_sizes))
    powers = all(tp.bit_count() == 1 for tp in known)
    places = [tp.bit_length() - 1 if powers else i for i, tp in enumerate(known)]
    return {tp: TP_COLOURS[at % len(TP_COLOURS)] for tp, at in zip(known, places, strict=True)}


def tp_colour(tp_sizes: Iterable[int]) -> Any:
    """Colour of the field `tp` (`TP=8`)."""
    import altair as alt

    known = colours_by_tp(tp_sizes)
    scale = alt.Scale(domain=[f"TP={tp}" for tp in known], range=list(known.values()))
    legend = alt.Legend(symbolType="circle", symbolOpacity=1)
    return alt.Color("tp:N", title="TP", scale=scale, legend=legend)


def caption(items: Sequence[Evidence], *, drawn: bool = False) -> tuple[str, ...]:
    """Return the caption: model, GPU, lengths, sources (with their marks if `drawn`), intervals."""
    d, load = items[0].deployment, items[0].workload
    what = f"{d.model} {d.dtypes.weight} on {d.gpu}, {load.isl:g} in / {load.osl:g} out"
    found = [item.source for item in items]
    return (what, *sources(found, drawn=drawn), f"80 % intervals{_samples(items)}")


def sources(found: Iterable[Source], *, drawn: bool = False) -> tuple[str, ...]:
    """Return one short line per source."""
    return tuple(
        f"{s.kind}{f' ({DRAWN[s.kind]})' if drawn else ''}: "
        f"{', '.join(part for part in (s.name, s.date) if part)}"
        for s in dict.fromkeys(found)
    )


def _samples(items: Sequence[Evidence]) -> str:
    counts = sorted({m.n for item in items for m in item.metrics.values() if m.n})
    if not counts:
        return ""
    span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"; measured n={span}"


def render(chart: Any, form: Format) -> bytes:
    """Render `chart` as SVG or PNG, without a browser or network."""
    import vl_convert

    spec = chart.to_dict()
    if form == "svg":
        return vl_convert.vegalite_to_svg(spec).encode()
    return vl_convert.vegalite_to_png(spec, scale=PNG_SCALE)


class Figure(msgspec.Struct, frozen=True):
    """A chart that a notebook shows without network, as in the report."""

    chart: Any  #: the Altair chart

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        svg, words = render(self.chart, "svg"), str(self.chart.description)
        source = f"data:image/svg+xml;base64,{b64encode(svg).decode()}"
        return {
            "text/html": f'<img alt="{escape(words)}" src="{source}">',
            "image/svg+xml": svg.decode(),
            "text/plain": words,
        }


def save(
    chart: Any, folder: Path, name: str, forms: Sequence[Format] = ("svg", "png")
) -> list[Path]:
    """Write `chart` as `folder/name.svg` and `.png`; the folder has passed `prepare_folder`."""
    return [write_bytes(folder / f"{name}.{form}", render(chart, form)) for form in forms]
