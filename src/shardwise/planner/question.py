"""What is asked of a plan: a model, a node, the demand on it, limits and an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, get_args

from shardwise.architecture.formats import UNQUANTIZED
from shardwise.architecture.model import Model, in_dtype, require_context
from shardwise.errors import InputError
from shardwise.hardware.gpu import Gpu
from shardwise.hardware.node import Node
from shardwise.layout.rules import require_kv_dtype
from shardwise.perfmodel.estimate import Subject
from shardwise.perfmodel.profiles import Profile, calibrated
from shardwise.workload.workload import Slo, Workload

Objective = Literal["cost", "latency", "throughput"]
OBJECTIVES: Final = get_args(Objective)
#: Engines whose command `planner.command` can write.
ENGINES: Final = ("vllm", "sglang", "builtin")
_LONGEST_S: Final = 1e6


@dataclass(frozen=True)
class Demand:
    """Requests of `isl` + `osl` tokens on the whole node: `concurrency` in flight, or
    `request_rate` a second, or neither: then as many as serve the objective best."""

    isl: int
    osl: int
    concurrency: int | None = None
    request_rate: float | None = None

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.request_rate is not None:
            raise InputError(
                f"concurrency {self.concurrency} and request rate {self.request_rate:g} together",
                "allowed: at most one of them",
                "the other follows from it",
            )
        concurrency = 1 if self.concurrency is None else self.concurrency
        Workload(self.isl, self.osl, concurrency, request_rate=self.request_rate)


@dataclass(frozen=True)
class Question:
    """One model on one node. `weight_dtype` None: the checkpoint's own and narrower ones."""

    arch: Model
    node: Node
    demand: Demand
    profile: Profile
    siblings: Mapping[str, Gpu]  #: GPUs that link speeds may be taken from
    slo: Slo = field(default_factory=Slo)
    objective: Objective = "cost"
    engine: str = "vllm"
    engine_version: str = ""  #: empty: what holds for every known version
    weight_dtype: str | None = None
    kv_dtype: str = "auto"
    usd_per_gpu_hour: float | None = None
    price_note: str = ""  #: where that price is from, in words

    def __post_init__(self) -> None:
        require_context(self.arch, self.demand.isl, self.demand.osl)
        if self.kv_dtype != "auto":
            require_kv_dtype(self.kv_dtype, self.node.gpu)
        if self.engine not in ENGINES:
            raise InputError(f"engine {self.engine[:40]!r}", f"allowed: {', '.join(ENGINES)}")
        if self.objective not in OBJECTIVES:
            raise InputError(f"objective {self.objective!r}", f"allowed: {', '.join(OBJECTIVES)}")
        if self.weight_dtype is not None:
            in_dtype(self.arch, self.weight_dtype)
        for name, bound in self.slo.bounds().items():
            if not 0 < bound <= _LONGEST_S:
                raise InputError(
                    f"SLO {name} is {bound:g} s", f"allowed: above 0, up to {_LONGEST_S:g} s"
                )
        if self.slo.tpot_s is not None and self.demand.osl < 2:
            raise InputError("a TPOT limit with osl 1", "TPOT is defined from osl 2 on")

    @property
    def context(self) -> int:
        """`max_model_len`: isl + osl rounded up to 256 tokens, within the model's context."""
        asked = self.demand.isl + self.demand.osl
        return min(-(-asked // 256) * 256, self.arch.max_context)

    def dtypes(self) -> tuple[str, ...]:
        """Weight dtypes to consider: the one asked, or the checkpoint's own, then fp8 for a
        16-bit checkpoint and nvfp4 where the GPU multiplies 4-bit floats."""
        if self.weight_dtype is not None:
            return (in_dtype(self.arch, self.weight_dtype).checkpoint_dtype,)
        own = self.arch.checkpoint_dtype
        found = [own]
        if self.engine == "builtin":  # it runs what is in the checkpoint
            return (own,)
        if own in UNQUANTIZED:
            found.append("fp8")
        if own in UNQUANTIZED | {"fp8"} and self.node.gpu.vendor == "nvidia":
            found += ["nvfp4"] if "fp4" in self.node.gpu.flops else []
        return tuple(found)

    def subject(self, weight_dtype: str) -> Subject:
        """The model in `weight_dtype` as the performance model takes it, KV dtype resolved."""
        gpu = self.node.gpu
        stored = in_dtype(self.arch, weight_dtype)
        known = calibrated(self.profile, gpu, self.engine, self.siblings)
        kv = stored.kv_dtype if self.kv_dtype == "auto" else self.kv_dtype
        return Subject(stored, gpu, self.engine, kv, known, self.engine_version)

    def on(self, gpus: int) -> Question:
        """The same question for `gpus` GPUs of the same kind."""
        return replace(self, node=replace(self.node, gpus=gpus))
