"""Simulate disaggregated pools of prefill and decode replicas.

A request has a turn on a prefill replica, which ends with its first token, and a turn on a decode
replica after its KV cache has been sent. There only the last token of the prompt is recomputed,
with the decodes, and gives the client's first token. Transfer times are from
`shardwise.perfmodel.pools`. This is not calibrated.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.hardware.catalogue import Catalogue
from shardwise.layout.arrays import Layouts
from shardwise.layout.deployment import Deployment
from shardwise.perfmodel.estimate import Subject
from shardwise.perfmodel.memory import sequence_bytes
from shardwise.perfmodel.pools import HAND_OVER_S, transfer_s
from shardwise.perfmodel.profiles import Profile
from shardwise.simulator.evidence import Simulated
from shardwise.simulator.fleet import Group, group_of, subject_for
from shardwise.simulator.results import Result
from shardwise.simulator.simulate import simulate
from shardwise.simulator.trace import Floats, Ints, Sessions, Shared, Trace

PREFILL, DECODE = "prefill", "decode"


class Pools(msgspec.Struct, frozen=True):
    """Two groups of replicas of one model on one kind of GPU."""

    prefill: Group
    decode: Group
    subject: Subject

    @property
    def groups(self) -> list[Group]:
        """Prefill replicas, then decode replicas."""
        return [self.prefill, self.decode]

    @property
    def name(self) -> str:
        """Description of the pools, e.g. "1 x TP2 prefill + 3 x TP2 decode"."""
        return " + ".join(
            f"{group.deployment.replicas} x {group.deployment.layout.name} {kind}"
            for group, kind in ((self.prefill, PREFILL), (self.decode, DECODE))
        )

    def transfer_s(self, isl: Ints) -> Floats:
        """Return the transfer seconds of the KV cache of prompts of `isl` tokens, [N]; linear in
        tokens."""
        mean = float(isl.mean())
        one, other = self.prefill.deployment.layout, self.decode.deployment.layout
        kv_dtype = self.subject.setting.kv_dtype
        layouts = Layouts.of([other])
        held = sequence_bytes(self.subject.arch, mean, layouts, kv_dtype, self.subject.draft)
        sent = transfer_s(self.subject, one, other, float(held.max())) - HAND_OVER_S
        return np.asarray(HAND_OVER_S + sent * isl / mean)

    def slower(self, sign: float) -> list[Group]:
        """Return the groups with every step at an end of its interval, named as in the turns."""
        return [
            replace(
                group.slower(math.exp(sign * group.half_widths.get("tpot_s", 0.0))),
                deployment=replace(group.deployment, model=kind),
            )
            for group, kind in ((self.prefill, PREFILL), (self.decode, DECODE))
        ]


def make_pools(
    prefill: Deployment,
    decode: Deployment,
    profile: Profile | None = None,
    catalogue: Catalogue | None = None,
) -> Pools:
    """Create pools of two deployments that differ only in layout.

    Raises UnknownNameError, InputError or DoesNotFitError.
    """
    subject = subject_for(decode, profile, catalogue)
    return Pools(group_of(subject, prefill), group_of(subject, decode), subject)


def in_two_turns(trace: Trace, transfer: Floats) -> Trace:
    """Split each request into a turn of one token on a prefill replica and its whole answer on a
    decode replica, `transfer` seconds later."""
    n = len(trace)
    first = 2 * np.arange(n)
    both = {
        name: np.repeat(getattr(trace, name), 2) for name in ("arrival_s", "isl", "osl", "model")
    }
    both["osl"][first], both["model"][:] = 1, np.tile([0, 1], n)
    previous, think_s = np.full(2 * n, -1), np.zeros(2 * n)
    previous[first + 1], think_s[first + 1] = first, transfer
    shared = trace.shared
    if shared is not None:  # a decode replica has the sent cache and looks up no prefixes
        shared = Shared(np.append(np.repeat(shared.at[:-1], 2), 0), shared.segment, shared.end)
        shared.at[1::2], shared.at[2::2] = trace.shared.at[1:], trace.shared.at[1:]  # type: ignore[union-attr]
    return Trace(
        **both,
        models=(PREFILL, DECODE),
        shared=shared,
        sessions=Sessions(np.repeat(np.arange(n), 2), previous, think_s),
        received=np.tile([0, 1], n),
    )


def simulate_pools(pools: Pools, trace: Trace, *, policy: str, seed: int = 0) -> Simulated:
    """`simulate_thrice` for two pools: latencies are from the arrival at the first pool to the
    tokens from the second. InputError for a trace with sessions or several models."""
    if trace.sessions is not None or len(trace.models) > 1:
        raise InputError(
            "disaggregated pools with sessions or several models", "allowed: requests of one model"
        )
    turns = in_two_turns(trace, pools.transfer_s(trace.isl))

    def once(sign: float) -> Result:
        return _joined(pools, simulate(pools.slower(sign), turns, policy=policy, seed=seed))

    return Simulated(once(0.0), once(-1.0), once(1.0))


def _joined(pools: Pools, run: Result) -> Result:
    """Join both turns of each request."""
    q = run.requests
    whole = {"segment_at", "segment", "segment_end"}
    kept = {name: getattr(q, name)[1::2] for name in q._fields if name not in whole}
    kept["arrival"], kept["cached"] = q.arrival[0::2], q.cached[0::2]
    kept["replica"] = kept["replica"] - pools.prefill.deployment.replicas
    return replace(run, groups=tuple(pools.groups), requests=q._replace(**kept), pooled=True)
