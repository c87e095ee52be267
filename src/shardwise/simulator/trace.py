"""Requests of a simulation: arrival times, lengths, shared prefixes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shardwise.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_REQUESTS = 20_000_000


class Shared(msgspec.Struct, frozen=True):
    """Prefixes shared by prompts, as chains of segments.

    Request i's prompt begins with the segments `segment[at[i]:at[i + 1]]`. An id always follows
    the same earlier ids, so it identifies everything up to its end. A chain may extend over the
    answer, for the next turn of a session.
    """

    at: Ints  #: [N + 1]
    segment: Ints
    end: Ints  #: [S] tokens from the prompt's start to the segment's end

    def of(self, kept: Ints) -> Shared:
        """Return the chains of the requests `kept`, in their order."""
        count = np.diff(self.at)[kept]
        at = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        where = np.repeat(self.at[:-1][kept] - at[:-1], count) + np.arange(at[-1])
        return replace(self, at=at, segment=self.segment[where])


class Sessions(msgspec.Struct, frozen=True):
    """Consecutive requests: each is sent `think_s` after the answer to the previous one."""

    session: Ints  #: [N] -1: none
    previous: Ints  #: [N] the request before in the session, -1: none
    think_s: Floats  #: [N]

    @property
    def count(self) -> int:
        """Number of sessions."""
        return int(self.session.max(initial=-1)) + 1


class Trace(msgspec.Struct, frozen=True):
    """Requests in order of arrival, arrays of one length N. Times in seconds from the start.

    Further turns of sessions are placed as if answers took no time.
    """

    arrival_s: Floats
    isl: Ints
    osl: Ints
    model: Ints  #: index into `models`
    models: tuple[str, ...] = ("",)  #: "": the only model deployed
    shared: Shared | None = None
    sessions: Sessions | None = None
    received: Ints | None = None  #: [N] 1: all but its prompt's last token is in the cache already

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def segments(self) -> int:
        """Number of prompt segments that requests share."""
        return 0 if self.shared is None else len(self.shared.end)

    @property
    def request_rate(self) -> float:
        """Mean requests/s; 0 if all arrive at once."""
        span = float(self.arrival_s[-1] - self.arrival_s[0]) if len(self) > 1 else 0.0
        return (len(self) - 1) / span if span > 0 else 0.0

    def faster(self, factor: float) -> Trace:
        """Return the same requests at `factor` times the rate, with the same think times."""
        return replace(self, arrival_s=self.arrival_s / factor)


def make_trace(arrival_s: Floats, isl: Ints, osl: Ints, shared: Shared | None = None) -> Trace:
    """Create a trace of one model. InputError without requests."""
    n = len(arrival_s)
    if n == 0:
        raise InputError("0 requests", "needed: at least 1", "raise the rate or the duration")
    return Trace(
        np.asarray(arrival_s, dtype=np.float64),
        np.asarray(isl, dtype=np.int64),
        np.asarray(osl, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        shared=shared,
    )


def one_prefix(prefix: Ints, tokens: Ints) -> Shared:
    """Create prompts with one of several prefixes: `prefix` [N] is an index into `tokens`, -1:
    none."""
    has = (prefix >= 0).astype(np.int64)
    at = np.concatenate([[0], np.cumsum(has)]).astype(np.int64)
    return Shared(at, prefix[prefix >= 0].astype(np.int64), tokens.astype(np.int64))


def model_indices(trace: Trace, models: Sequence[str]) -> Ints:
    """Return the model of each request as an index into `models`. InputError if one is missing."""
    if trace.models == ("",):
        return np.zeros(len(trace), dtype=np.int64)
    for name in trace.models:
        if name not in models:
            raise InputError(f"the trace requests model {name!r}", f"deployed: {', '.join(models)}")
    return np.array([models.index(name) for name in trace.models], dtype=np.int64)[trace.model]
