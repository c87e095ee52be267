"""A workload: request lengths, arrivals and latency bounds."""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from shardwise.errors import InputError

Mode = Literal["static_batch", "closed_loop", "max_throughput"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
MAX_TOKENS = 10_000_000
#: Spread of lengths where nobody says: traffic's, of which no two requests stay in step. Published
#: traces have 0.7 to 2; load tests of one length have 0.
TRAFFIC_CV: Final = 1.0


MOST_SPREAD: Final = 10.0  #: of lengths, as a share of their mean


def require_length_cv(length_cv: float) -> None:
    """Raise InputError for an invalid coefficient of variation."""
    if not 0 <= length_cv <= MOST_SPREAD:
        raise InputError(f"length_cv is {length_cv:g}", f"allowed: 0 to {MOST_SPREAD:g}")


def spread_of(length_cv: float) -> float:
    """Return the half-width, relative to the mean, of a uniform distribution with this CV."""
    return float(3.0**0.5 * length_cv)


class Slo(msgspec.Struct, frozen=True):
    """Upper bounds in seconds on median metrics; None: no bound."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_latency_s: float | None = None

    def __post_init__(self) -> None:
        for name, bound in self.bounds().items():
            if not 0 < bound < float("inf"):
                raise InputError(f"{name} bound is {bound:g} s", "allowed: above 0 and finite")

    def bounds(self) -> dict[str, float]:
        """Return the given bounds by metric, in seconds."""
        named = {
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "e2e_latency_s": self.e2e_latency_s,
        }
        return {name: bound for name, bound in named.items() if bound is not None}


def require_cached(cached_tokens: float, isl: float) -> None:
    """Raise InputError if too much of a prompt is cached: its last token is always computed."""
    if not 0 <= cached_tokens <= isl - 1:
        raise InputError(
            f"cached_tokens is {cached_tokens:g} of prompts of {isl:g} tokens",
            f"allowed: 0 to {isl - 1:g}, the last token is always computed",
        )


class Workload(msgspec.Struct, frozen=True):
    """Requests of `isl` input and `osl` output tokens.

    `static_batch`: `concurrency` equal requests start together; `closed_loop`: that many are kept
    in flight; `max_throughput`: that many are all queued at once. `length_spread` is the
    half-width of a uniform spread of lengths as a share of the mean (0: all equal; None: nobody
    says).
    """

    isl: float
    osl: float
    concurrency: int
    mode: Mode = "closed_loop"
    length_spread: float | None = None
    request_rate: float | None = None  #: requests/s offered; None: as the mode says
    requests: int = 0  #: in the whole run, the first `concurrency` at once; 0: ten a slot
    cached_tokens: float = 0  #: of `isl`: a beginning that all prompts share, in the prefix cache

    @property
    def length_cv(self) -> float:
        """Standard deviation of lengths over their mean."""
        return TRAFFIC_CV if self.length_spread is None else self.length_spread / 3.0**0.5

    def __post_init__(self) -> None:
        for name, value in (
            ("isl", self.isl),
            ("osl", self.osl),
            ("concurrency", self.concurrency),
        ):
            if not 1 <= value <= MAX_TOKENS:
                raise InputError(f"{name} is {value:,}", f"allowed: 1 to {MAX_TOKENS:,}")
        if self.mode not in MODES:
            raise InputError(f"mode is {self.mode!r}", f"allowed: {', '.join(MODES)}", field="mode")
        require_cached(self.cached_tokens, self.isl)
        if not 0 <= self.requests <= MAX_TOKENS:
            raise InputError(f"requests is {self.requests:,}", f"allowed: 0 to {MAX_TOKENS:,}")
        if self.request_rate is not None and not 0 < self.request_rate < 1e9:
            raise InputError(
                f"request_rate is {self.request_rate:g}", "allowed: above 0, below 1e9 requests/s"
            )
