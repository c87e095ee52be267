"""The result of an experiment."""

from __future__ import annotations

import msgspec

from shardwise.evidence.portable import without_folders
from shardwise.experiment.claims import Claim, claims
from shardwise.experiment.correct import Corrected, correct
from shardwise.experiment.run import Ran, Wanted
from shardwise.experiment.timeline import Spent


class Outcome(msgspec.Struct, frozen=True):
    """Measured cells with predictions, and their analysis."""

    model: str
    engine: str
    weight_dtype: str
    isl: int
    osl: int
    hardware: str  #: the machine in words
    profile: str  #: name of the corrected one
    corrected: Corrected
    claims: tuple[Claim, ...]
    dropped: tuple[str, ...]  #: cells that the budget did not allow
    spent: Spent


def outcome(wanted: Wanted, ran: Ran, profile: str, hardware: str, spent: Spent) -> Outcome:
    """Correct the predictions with the measurements and judge the claims."""
    corrected = correct(wanted, ran, profile)
    return Outcome(
        without_folders(wanted.model),
        wanted.instance.engine,
        wanted.weight_dtype,
        wanted.isl,
        wanted.osl,
        hardware,
        profile,
        corrected,
        claims(corrected.compared),
        tuple(ran.dropped),
        spent,
    )
