"""The published TP study: its percentages and headline cost figures, with their source."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

import msgspec

from shardwise.analysis.claim import CostClaim
from shardwise.analysis.transitions import Step
from shardwise.evidence.record import Interval, Source


class PublishedStudy(msgspec.Struct, frozen=True):
    """The subject of the study, the percent change of each TP step, and the claimed cost
    figures.

    Prompts and outputs of a batch have the same lengths: `isl` and `osl` tokens.
    """

    model: str
    gpu: str
    weight_dtype: str
    isl: int
    osl: int
    source: Source
    steps: tuple[Step, ...]
    claim: CostClaim


def other_lengths(published: PublishedStudy, isl: float, osl: float, length_cv: float) -> str:
    """Say how lengths differ from those of the published study; "" if they are the same."""
    if (isl, osl, length_cv) == (published.isl, published.osl, 0.0):
        return ""
    spread = f"vary by {100 * length_cv:.0f} %" if length_cv else "are equal"
    return (
        f"published: requests of {published.isl:,} + {published.osl:,} tokens, all equal; "
        f"here: {isl:,.0f} + {osl:,.0f} tokens, lengths {spread}"
    )


@cache
def load_published() -> PublishedStudy:
    """Load the study shipped with Shardwise (data/published_tp_study.toml).

    A step's interval is one unit of its last digit either way, because the source does not say
    whether it rounds or truncates.
    """
    data = files("shardwise.analysis").joinpath("data/published_tp_study.toml")
    raw = tomllib.loads(data.read_text("utf-8"))
    study, claim = raw["study"], raw["claim"]
    source = Source("published", **raw["source"])
    return PublishedStudy(
        model=study["model"],
        gpu=study["gpu"],
        weight_dtype=study["weight_dtype"],
        isl=study["isl"],
        osl=study["osl"],
        source=source,
        steps=tuple(
            Step(table["metric"], table["concurrency"], before, after, _printed(percent), source)
            for table in raw["table"]
            for before, after, percent in table["steps"]
        ),
        claim=CostClaim(gpus=study["gpus"], source=source, **claim),
    )


def published_of(model: str, gpu: str, weight_dtype: str) -> PublishedStudy | None:
    """Return the published study if it has this model, GPU and dtype."""
    published = load_published()
    theirs = (published.model, published.gpu, published.weight_dtype)
    return published if theirs == (model, gpu, weight_dtype) else None


def _printed(percent: float) -> Interval:
    last_digit = 1.0 if float(percent).is_integer() else 0.1
    return Interval(percent, percent - last_digit, percent + last_digit)
