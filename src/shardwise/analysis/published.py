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
    figures."""

    model: str
    gpu: str
    weight_dtype: str
    source: Source
    steps: tuple[Step, ...]
    claim: CostClaim


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
        source=source,
        steps=tuple(
            Step(table["metric"], table["concurrency"], before, after, _printed(percent), source)
            for table in raw["table"]
            for before, after, percent in table["steps"]
        ),
        claim=CostClaim(gpus=study["gpus"], source=source, **claim),
    )


def _printed(percent: float) -> Interval:
    last_digit = 1.0 if float(percent).is_integer() else 0.1
    return Interval(percent, percent - last_digit, percent + last_digit)
