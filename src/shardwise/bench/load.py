"""The requests of a run, and its results."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from shardwise.errors import InputError
from shardwise.evidence.request import RequestRecord


class Load(msgspec.Struct, frozen=True):
    """What to send: complete HTTP requests, and the number of tokens that each asks for."""

    requests: Sequence[bytes]
    asked: Sequence[int]
    concurrency: int  #: requests kept in flight; in an open loop, connections opened beforehand
    due_s: Sequence[float] | None = None  #: seconds from the start, ascending; None: closed loop
    stall_timeout_s: float = 120.0  #: maximum time without an event
    duration_s: float = math.inf  #: no request is sent after this
    ramp_s: float = 0.0  #: the slots of a closed loop start evenly over this time
    first_token_timeout_s: float = math.inf
    request_timeout_s: float = 3600.0
    exact: bool = True  #: whether an answer with fewer tokens than `asked` is a failure

    def __post_init__(self) -> None:
        if self.concurrency < 1 or not self.requests:
            raise InputError(
                f"{len(self.requests)} requests at concurrency {self.concurrency}",
                "allowed: at least 1 of each",
            )
        if not (self.stall_timeout_s > 0 and self.duration_s > 0 and self.ramp_s >= 0):
            raise InputError(
                f"stall timeout {self.stall_timeout_s:g} s, duration {self.duration_s:g} s, "
                f"ramp {self.ramp_s:g} s",
                "allowed: the first two above 0, the ramp 0 or more",
            )
        if not (self.first_token_timeout_s > 0 and self.request_timeout_s > 0):
            raise InputError(
                f"first-token timeout {self.first_token_timeout_s:g} s, "
                f"request timeout {self.request_timeout_s:g} s",
                "allowed: above 0",
            )
        sizes = {len(self.requests), len(self.asked), len(self.due_s or self.requests)}
        assert len(sizes) == 1, "a request, its tokens and its due time each"


@dataclass
class Run:
    """Results of a load. Times are seconds of CLOCK_MONOTONIC."""

    records: list[RequestRecord]  #: of the sent requests, in order of the list
    started_s: float
    ended_s: float
    cpu_s: float  #: CPU time of the client's processes in that interval, user and system
    lags_s: array[float] = field(default_factory=lambda: array("d"))
    interrupted: bool = False
    processes: int = 1
    #: of a core, the busiest process
    cpu_share: float = math.nan
    problems: list[str] = field(default_factory=list)  #: losses on the client side, with reasons
