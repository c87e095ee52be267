"""Every TP x PP x replicas x dtype on a node; what a rule forbids is kept with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from shardwise.architecture.bundled import stored_in
from shardwise.engines.checks import problems
from shardwise.engines.device import device_of
from shardwise.engines.loading import Loader, refusals
from shardwise.engines.registry import get
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.planner.question import Question

PP_SIZES: Final = (1, 2, 4, 8)
Cause = Literal["sharding rule", "memory", "overload", "SLO"]


@dataclass(frozen=True)
class Option:
    """A layout in one weight dtype."""

    layout: Layout
    weight_dtype: str

    def __str__(self) -> str:
        one = self.layout.name
        return f"{self.layout.replicas} x {f'({one})' if ' ' in one else one} {self.weight_dtype}"


@dataclass(frozen=True)
class Rejected:
    """A candidate that cannot run or cannot carry the load, and why, in one sentence."""

    option: Option
    cause: Cause
    reason: str
    shortfall_bytes: float = 0.0  #: a GPU, for cause "memory"
    request_rate: float = 0.0  #: requests/s the node carries, for cause "overload"


def tp_sizes(gpus: int) -> tuple[int, ...]:
    """Powers of two up to `gpus`, and the divisors of `gpus`."""
    return tuple(tp for tp in range(1, gpus + 1) if tp & (tp - 1) == 0 or gpus % tp == 0)


def enumerate_candidates(question: Question) -> tuple[list[Option], list[Rejected]]:
    """Layouts that break no rule, and those that do. Copies fill the node."""
    gpus = question.node.gpus
    possible: list[Option] = []
    rejected: list[Rejected] = []
    for dtype in question.dtypes():
        for tp in tp_sizes(gpus):
            for pp in PP_SIZES:
                if tp * pp > gpus:
                    continue
                for ep in (False, True) if question.arch.moe and tp > 1 and pp == 1 else (False,):
                    layout = Layout(tp, pp, tp if ep else 1, replicas=gpus // (tp * pp))
                    option = Option(layout, dtype)
                    reason = _broken(question, option)
                    if reason:
                        rejected.append(Rejected(option, "sharding rule", reason))
                    else:
                        possible.append(option)
    return possible, rejected


def _broken(question: Question, option: Option) -> str:
    """The rules that it breaks, "" for none."""
    layout = option.layout
    stored = stored_in(question.arch, option.weight_dtype)
    deployment = Deployment(
        stored.id,
        question.node.gpu.id,
        layout,
        dtypes=Dtypes(option.weight_dtype),
        engine=question.engine,
        engine_version=question.engine_version,
    )
    device = device_of(question.node.gpu)
    num_experts = stored.moe.num_experts if stored.moe else 0
    unable = problems(get(question.engine), deployment, device, num_experts)
    loader = Loader(question.engine, device, question.engine_version)
    found = [*map(str, unable), *(v.message for v in refusals(loader, stored, layout))]
    return "; ".join(dict.fromkeys(found))
