"""The loads of a measurement, and the effort for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from shardwise.errors import InputError
from shardwise.workload.workload import Mode, Workload

if TYPE_CHECKING:
    from shardwise.bench.cell import Effort

CONCURRENCIES: Final = (1, 4, 16)
MODES: Final = ("closed_loop", "static_batch")
MAX_REQUESTS: Final = 1_000_000  #: of a run; all its prompts are built beforehand
#: requests of a run at a rate, and for each one in flight of a closed loop
AT_A_RATE, PER_SLOT = 64, 10


class Loads(msgspec.Struct, frozen=True, kw_only=True):
    """Loads: one per concurrency, or one per request rate if there are some; one of a trace."""

    concurrencies: Sequence[int] = CONCURRENCIES
    request_rates: Sequence[float] = ()
    isl: int = 512
    osl: int = 128
    mode: Mode = "closed_loop"
    requests: int = 0
    min_repeats: int = 3
    max_repeats: int = 5
    precision_pct: float = 5.0
    cell_time_s: float | None = None
    stall_timeout_s: float = 120.0
    first_token_timeout_s: float | None = None
    request_timeout_s: float = 3600.0
    are_equal: bool = True  #: whether all requests have these lengths; a file may have others
    has_trace: bool = False  #: whether a trace says when requests arrive

    def __post_init__(self) -> None:
        self._require(bool(self.concurrencies) and min(self.concurrencies) >= 1, "concurrencies")
        self._require(all(0 < rate < math.inf for rate in self.request_rates), "request_rates")
        for name in ("isl", "osl", "precision_pct", "stall_timeout_s", "request_timeout_s"):
            self._require(getattr(self, name) > 0, name)
        for name in ("cell_time_s", "first_token_timeout_s"):
            self._require(getattr(self, name) is None or getattr(self, name) > 0, name)
        self._require(0 <= self.requests <= MAX_REQUESTS, "requests", f"0 to {MAX_REQUESTS:,}")
        least = f"1 to max_repeats ({self.max_repeats})"
        self._require(1 <= self.min_repeats <= self.max_repeats, "min_repeats", least)
        self._require(self.mode in MODES, "mode", ", ".join(MODES))
        if self.request_rates and self.mode == "static_batch":
            raise InputError("a request rate with a static batch", "allowed: one of them")
        if self.has_trace and (self.request_rates or self.mode == "static_batch"):
            other = "a request rate" if self.request_rates else "a static batch"
            raise InputError(f"a trace with {other}", "allowed: one of them")

    def _require(self, holds: bool, name: str, allowed: str = "above 0") -> None:
        if not holds:
            raise InputError(f"{name} is {getattr(self, name)}", f"allowed: {allowed}", field=name)

    def workloads(self) -> tuple[Workload, ...]:
        """Return the workload of each cell. Its spread of lengths is unknown with a file."""
        most, spread = max(self.concurrencies), 0.0 if self.are_equal else None
        if self.request_rates:
            return tuple(
                Workload(self.isl, self.osl, most, length_spread=spread, request_rate=rate)
                for rate in self.request_rates
            )
        slots = (most,) if self.has_trace else self.concurrencies
        return tuple(Workload(self.isl, self.osl, n, self.mode, spread) for n in slots)

    def effort(self, workload: Workload) -> Effort:
        """Return the effort of one cell."""
        from shardwise.bench.cell import Effort

        slots = workload.concurrency
        usual = PER_SLOT * slots if workload.request_rate is None else AT_A_RATE
        requests = slots if workload.mode == "static_batch" else self.requests or usual
        return Effort(
            requests=max(requests, slots),
            min_repeats=self.min_repeats,
            max_repeats=self.max_repeats,
            precision=self.precision_pct / 100.0,
            budget_s=self.cell_time_s or math.inf,
            stall_timeout_s=self.stall_timeout_s,
            first_token_timeout_s=self.first_token_timeout_s or math.inf,
            request_timeout_s=self.request_timeout_s,
        )
