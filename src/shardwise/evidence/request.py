"""Record of one request: time stamps of its tokens, and its failure if any."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

import msgspec

from shardwise.metrics import tpot_s

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
    "timeout",
]

#: kind -> meaning; requests with one of these are not successes and have no metrics
FAILURES: Final[dict[FailureKind, str]] = {
    "refused": "no connection could be made",
    "http_4xx": "the server answered with 4xx",
    "http_5xx": "the server answered with 5xx",
    "http_other": "the server answered with a status other than 200, 4xx or 5xx",
    "cut": "the connection closed before the stream ended",
    "malformed": "bytes that are not HTTP/1.1, not server-sent events, compressed, or not JSON",
    "error_event": "an error inside a stream that began with status 200",
    "missing_finish": "the stream ended without a finish_reason",
    "missing_done": "the stream ended without [DONE]",
    "short": "fewer tokens than requested, or no text",
    "stall": "no event for longer than the stall timeout; keep-alive comments do not count",
    "timeout": "no first token, or no end, within the time limit",
}


@dataclass(slots=True)
class RequestRecord:
    """One request. Times are seconds of CLOCK_MONOTONIC; NaN if it did not happen."""

    index: int  #: position in the run's list of requests
    origin_s: float  #: when it was due (open loop), else when it was sent; latencies start here
    output_asked: int  #: tokens
    sent_s: float = float("nan")
    last_s: float = float("nan")  #: last token
    done_s: float = float("nan")  #: last byte, or the failure
    #: when each token came, as a piece of text, or as an event without text where `usage` shows
    #: that each event was a token: one stamp per receive, shared by those in it
    arrivals: array[float] = field(default_factory=lambda: array("d"))
    input_tokens: int = 0
    output_tokens: int = 0
    usage_reported: bool = False  #: False: output_tokens counts pieces of text instead
    failure: FailureKind | None = None
    detail: str = ""  #: of a failure, in the server's own words where it has any
    cancelled: bool = False  #: stopped by us at the end of the run: neither success nor failure

    @property
    def ok(self) -> bool:
        """Whether the request was answered completely."""
        return self.failure is None and not self.cancelled

    @property
    def first_s(self) -> float:
        """Time of the first token; NaN without one."""
        return self.arrivals[0] if self.arrivals else float("nan")

    @property
    def ttft_s(self) -> float:
        """First token minus request sent, in seconds."""
        return self.first_s - self.origin_s

    @property
    def e2e_latency_s(self) -> float:
        """Last token minus request sent, in seconds."""
        return self.last_s - self.origin_s

    @property
    def tpot_s(self) -> float:
        """Time per output token in seconds; NaN for fewer than two tokens."""
        return tpot_s(self.e2e_latency_s, self.ttft_s, self.output_tokens)

    @property
    def itl_s(self) -> list[float]:
        """Each gap between chunks of text, in seconds."""
        return [later - earlier for earlier, later in pairwise(self.arrivals)]


def count_failures(records: list[RequestRecord]) -> dict[str, int]:
    """Return the number of failures by kind, the most frequent first."""
    counts: dict[str, int] = {}
    for record in records:
        if record.failure is not None:
            counts[record.failure] = counts.get(record.failure, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def sample_failures(records: list[RequestRecord], per_kind: int = 3) -> list[dict[str, object]]:
    """Return the first few failures of each kind, with the server's message."""
    taken: dict[str, int] = {}
    samples: list[dict[str, object]] = []
    for record in records:
        kind = record.failure
        if kind is not None and taken.get(kind, 0) < per_kind:
            taken[kind] = taken.get(kind, 0) + 1
            samples.append({"request": record.index, "kind": kind, "detail": record.detail})
    return samples


class TokenCheck(msgspec.Struct, frozen=True):
    """Comparison of the server's `usage` with the received chunks of text."""

    tokens: int  #: of completed requests
    pieces: int
    without_usage: int  #: requests whose tokens are counted by pieces
    more_pieces: int  #: requests with more pieces than tokens: one of the two is wrong
    fewer_pieces: int  #: requests where a piece held several tokens, so ITL is by piece
    more_than_asked: int = 0  #: requests with more tokens, by `usage`, than were asked for
    at_once: int = 0  #: requests whose pieces, four or more, all came in one receive

    @property
    def remarks(self) -> tuple[str, ...]:
        """Describe limitations of the token times or counts."""
        found = (
            (self.at_once, "arrived at once: a buffering proxy or busy client hides TTFT and ITL"),
            (self.more_pieces, "have more chunks of text than tokens in usage"),
            (self.more_than_asked, "have more tokens in usage than requested"),
            (self.fewer_pieces, "have several tokens per chunk: ITL is between chunks"),
            (self.without_usage, "have no usage: tokens are counted by chunks"),
        )
        return tuple(f"{count} answers {what}" for count, what in found if count)

    @property
    def agrees(self) -> bool:
        """Whether every answer reported as many tokens as arrived."""
        return not (self.without_usage or self.more_pieces or self.fewer_pieces)


def check_tokens(records: list[RequestRecord]) -> TokenCheck:
    """Compare chunks of text with tokens in these records."""
    done = [record for record in records if record.ok]
    surplus = [len(record.arrivals) - record.output_tokens for record in done]
    return TokenCheck(
        tokens=sum(record.output_tokens for record in done),
        pieces=sum(len(record.arrivals) for record in done),
        without_usage=sum(not record.usage_reported for record in done),
        more_pieces=sum(more > 0 for more in surplus),
        fewer_pieces=sum(more < 0 for more in surplus),
        more_than_asked=sum(r.output_tokens > r.output_asked for r in done),
        at_once=sum(_at_once(r.arrivals) for r in done),
    )


def _at_once(arrivals: array[float]) -> bool:
    return len(arrivals) >= 4 and arrivals[0] == arrivals[-1]
