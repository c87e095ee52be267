"""Format the effect of speculative decoding on a deployment as text and as a table."""

from __future__ import annotations

import math
from typing import Any

from shardwise.planner.speculating import Drafted
from shardwise.reports.decision_tables import ranked_table
from shardwise.reports.table import Column, Table


def speculation_lines(found: Drafted) -> list[str]:
    """Say whether to draft and why, the assumptions, and the break-even."""
    drafted, here = found.speculation, found.here
    value, lo, hi = (
        f"{100.0 * (x - 1.0):+z.0f}"
        for x in (found.speedup.value, found.speedup.lo, found.speedup.hi)
    )
    lines = [
        f"Speculation {drafted.name}: {_advice(found)}: {value} % output throughput at this load "
        f"(80 % interval {lo} to {hi} %), TPOT {here.tpot_s * 1e3:.3g} to "
        f"{here.tpot_with_s * 1e3:.3g} ms, because a step that verifies {drafted.tokens + 1} "
        f"tokens "
        f"per sequence takes {found.step_cost:.2f} times as long and yields "
        f"{drafted.tokens_per_step():.2f} tokens.",
        f"{_break_even(found)}",
    ]
    share = drafted.acceptance
    if share.lo < share.hi:
        lines.append(
            f"Assumed acceptance: {share.value:.0%} of the drafted tokens ({share.lo:.0%} to "
            f"{share.hi:.0%}). It depends on your text: pass the value that your engine logs as "
            f"--acceptance."
        )
    return lines


def _advice(found: Drafted) -> str:
    if found.asked:
        if found.helps:
            return "on, as requested"
        return (
            "on, as requested, but better off"
            if found.certain
            else "on, as requested, but uncertain"
        )
    if not found.helps:
        return "leave it off"
    verb = "turn it on" if found.certain else "try it"
    return f"{verb} with --speculation {found.speculation.name}"


def _break_even(found: Drafted) -> str:
    at, most = found.break_even, found.points[-1].concurrency
    low, high = _load(at.lo, most), _load(at.hi, most)
    ends = f"80 % interval {low} to {high}" if low != high else f"80 % interval: {low}"
    if at.value == math.inf:
        return f"Break-even: none up to {most:,} in flight per replica ({ends})."
    if at.value < 1.0:
        return f"Break-even: none, it is slower at every concurrency ({ends})."
    return f"Break-even: {at.value:,.0f} in flight per replica ({ends})."


def _load(value: float, most: int) -> str:
    return f"above {most:,}" if value == math.inf else "none" if value < 1 else f"{value:,.0f}"


def speculation_table(found: Drafted) -> Table:
    """Return TPOT and output throughput of a replica without and with speculation, by
    concurrency."""
    columns = (
        Column("in flight", "concurrency", "per replica"),
        Column("TPOT without", "tpot_s", "s"),
        Column("with", "tpot_with_s", "s"),
        Column("output without", "output_tok_s", "tok/s"),
        Column("with", "output_tok_with_s", "tok/s"),
    )
    rows = [
        {"concurrency": str(p.concurrency), **{c.name: getattr(p, c.name) for c in columns[1:]}}
        for p in found.points
    ]
    drafted = found.speculation
    return ranked_table(
        "speculation", f"One replica without and with {drafted.words}", columns, rows
    )


def speculation_document(found: Drafted) -> dict[str, Any]:
    """Return the verdict for JSON, in SI units; a break-even that is never reached is null."""
    at = found.break_even
    return {
        "speculation": found.speculation,
        "suggested": found.helps,
        "certain": found.certain,
        "speedup": found.speedup,
        "break_even_concurrency": {
            name: None if getattr(at, name) == math.inf else getattr(at, name)
            for name in ("value", "lo", "hi")
        },
        "points": found.points,
        "words": speculation_lines(found),
    }
