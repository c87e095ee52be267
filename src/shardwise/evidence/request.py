"""What one request did: when each token came, and if it failed, how."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Final, Literal

FailureKind = Literal[
    "refused",
    "http_4xx",
    "http_5xx",
    "http_other",
    "cut",
    "malformed",
    "error_event",
    "missing_finish",
    "missing_done",
    "short",
    "stall",
]

#: kind -> what it means; a request with any of these is no success and gives no metric
FAILURES: Final[dict[FailureKind, str]] = {
    "refused": "no connection could be made",
    "http_4xx": "the server answered 4xx",
    "http_5xx": "the server answered 5xx",
    "http_other": "the server answered a status that is neither 200, 4xx nor 5xx",
    "cut": "the connection closed before the stream ended",
    "malformed": "bytes that are not HTTP, not server-sent events, or not JSON",
    "error_event": "an error inside a stream that began with status 200",
    "missing_finish": "the stream ended without a finish_reason",
    "missing_done": "the stream ended without [DONE]",
    "short": "fewer tokens than asked for",
    "stall": "no bytes for longer than the stall timeout",
}


@dataclass(slots=True)
class RequestRecord:
    """One request. Times are seconds of CLOCK_MONOTONIC; NaN: it did not come to that."""

    index: int  #: position in the run's list of requests
    origin_s: float  #: when it was due (open loop), else when it was sent; latencies start here
    output_asked: int  #: tokens
    sent_s: float = float("nan")
    last_s: float = float("nan")  #: last token
    done_s: float = float("nan")  #: last byte, or the failure
    #: when each piece of non-empty text came: one stamp per receive, shared by pieces in it
    arrivals: array[float] = field(default_factory=lambda: array("d"))
    input_tokens: int = 0
    output_tokens: int = 0
    usage_reported: bool = False  #: False: output_tokens counts pieces of text instead
    failure: FailureKind | None = None
    detail: str = ""  #: of a failure, in the server's own words where it has any
    cancelled: bool = False  #: stopped by us at the end of the run: neither success nor failure

    @property
    def ok(self) -> bool:
        return self.failure is None and not self.cancelled

    @property
    def first_s(self) -> float:
        return self.arrivals[0] if self.arrivals else float("nan")


def count_failures(records: list[RequestRecord]) -> dict[str, int]:
    """Number of failures by kind, kinds that occurred only, the commonest first."""
    counts: dict[str, int] = {}
    for record in records:
        if record.failure is not None:
            counts[record.failure] = counts.get(record.failure, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def sample_failures(records: list[RequestRecord], per_kind: int = 3) -> list[dict[str, object]]:
    """The first few failures of each kind, with what the server said."""
    taken: dict[str, int] = {}
    samples: list[dict[str, object]] = []
    for record in records:
        kind = record.failure
        if kind is not None and taken.get(kind, 0) < per_kind:
            taken[kind] = taken.get(kind, 0) + 1
            samples.append({"request": record.index, "kind": kind, "detail": record.detail})
    return samples
