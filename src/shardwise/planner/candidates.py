"""Every TP x PP x replicas x dtype on a node; what a rule forbids is kept with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from shardwise.architecture.sharding import violations
from shardwise.planner.question import Question

PP_SIZES: Final = (1, 2, 4, 8)
Cause = Literal["sharding rule", "memory", "overload", "SLO"]


@dataclass(frozen=True)
class Sharding:
    """`replicas` copies, each of tp_size x pp_size GPUs, in one weight dtype; whole experts on
    each rank where `expert_parallel`."""

    tp_size: int
    pp_size: int
    replicas: int
    weight_dtype: str
    expert_parallel: bool = False

    @property
    def gpus(self) -> int:
        return self.tp_size * self.pp_size * self.replicas

    def __str__(self) -> str:
        pp = f" x PP{self.pp_size}" if self.pp_size > 1 else ""
        ep = " x EP" if self.expert_parallel else ""
        return f"{self.replicas} x TP{self.tp_size}{pp}{ep} {self.weight_dtype}"


@dataclass(frozen=True)
class Rejected:
    """A candidate that cannot run or cannot carry the load, and why, in one sentence."""

    sharding: Sharding
    cause: Cause
    reason: str
    shortfall_bytes: float = 0.0  #: a GPU, for cause "memory"
    request_rate: float = 0.0  #: requests/s the node carries, for cause "overload"


def tp_sizes(gpus: int) -> tuple[int, ...]:
    """Powers of two up to `gpus`, and the divisors of `gpus`."""
    return tuple(tp for tp in range(1, gpus + 1) if tp & (tp - 1) == 0 or gpus % tp == 0)


def enumerate_candidates(question: Question) -> tuple[list[Sharding], list[Rejected]]:
    """Shardings that break no rule, and those that do. Copies fill the node."""
    gpus = question.node.gpus
    possible: list[Sharding] = []
    rejected: list[Rejected] = []
    for dtype in question.dtypes():
        for tp in tp_sizes(gpus):
            for pp in PP_SIZES:
                if tp * pp > gpus:
                    continue
                for ep in (False, True) if question.arch.moe and tp > 1 and pp == 1 else (False,):
                    sharding = Sharding(tp, pp, gpus // (tp * pp), dtype, ep)
                    reason = _broken(question, sharding)
                    if reason:
                        rejected.append(Rejected(sharding, "sharding rule", reason))
                    else:
                        possible.append(sharding)
    return possible, rejected


def _broken(question: Question, sharding: Sharding) -> str:
    """The rules that it breaks, "" for none."""
    if question.engine == "builtin" and (sharding.pp_size > 1 or sharding.expert_parallel):
        return "the built-in engine shards by TP alone"
    broken = violations(
        question.arch,
        sharding.tp_size,
        sharding.pp_size,
        expert_parallel=sharding.expert_parallel,
        weight_dtype=sharding.weight_dtype,
    )
    return "; ".join(v.message for v in broken)
