"""The question of a plan: a model, a node, the demand, limits and an objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

import msgspec
from msgspec.structs import replace

from shardwise.architecture.bundled import published_checkpoint, stored_in
from shardwise.architecture.formats import UNQUANTIZED
from shardwise.architecture.model import Model, require_context
from shardwise.engines.loading import require_able, require_prefix_caching
from shardwise.engines.registry import get
from shardwise.errors import InputError
from shardwise.hardware.gpu import Gpu
from shardwise.hardware.node import Node
from shardwise.layout.deployment import Deployment, Dtypes, FixedLimits
from shardwise.layout.rules import model_lengths, require_kv_dtype, require_length
from shardwise.layout.speculation import Speculation
from shardwise.perfmodel.drafts import require_draft
from shardwise.perfmodel.estimate import Subject
from shardwise.perfmodel.profiles import Profile, calibrated
from shardwise.workload.workload import TRAFFIC_CV, Slo, Workload, require_length_cv

Objective = Literal["cost", "latency", "throughput"]
OBJECTIVES: Final = get_args(Objective)
_LONGEST_S: Final = 1e6


class Demand(msgspec.Struct, frozen=True):
    """Requests of `isl` + `osl` tokens on the whole node: `concurrency` in flight, or
    `request_rate` per second. With neither, the number that is best for the objective."""

    isl: int
    osl: int
    concurrency: int | None = None
    request_rate: float | None = None
    cached_tokens: int = 0  #: of `isl`: a beginning that all prompts share, in the prefix cache
    length_cv: float = TRAFFIC_CV  #: standard deviation of lengths over their mean

    def __post_init__(self) -> None:
        require_length_cv(self.length_cv)
        if self.concurrency is not None and self.request_rate is not None:
            raise InputError(
                f"concurrency {self.concurrency} and request rate {self.request_rate:g} together",
                "allowed: one of them",
                "the other is derived from it",
            )
        concurrency = 1 if self.concurrency is None else self.concurrency
        Workload(
            self.isl,
            self.osl,
            concurrency,
            request_rate=self.request_rate,
            cached_tokens=self.cached_tokens,
        )


class Question(msgspec.Struct, frozen=True):
    """One model on one node. With `weight_dtype` None, the checkpoint's dtype and narrower ones."""

    arch: Model
    node: Node
    demand: Demand
    profile: Profile
    siblings: Mapping[str, Gpu]  #: GPUs that link speeds may be taken from
    slo: Slo = msgspec.field(default_factory=Slo)
    objective: Objective = "cost"
    engine: str = "vllm"
    engine_version: str = ""  #: empty: settings shared by all known versions
    limits: FixedLimits = msgspec.field(default_factory=FixedLimits)
    weight_dtype: str | None = None
    kv_dtype: str = "auto"
    speculation: Speculation | None = None
    usd_per_gpu_hour: float | None = None
    price_note: str = ""  #: where that price is from, in words
    memory_note: str = ""  #: what a start-up log says of the KV cache, in words

    def __post_init__(self) -> None:
        require_context(self.arch, self.demand.isl, self.demand.osl)
        require_length(self.limits, self.demand.isl + self.demand.osl, self.arch)
        if self.kv_dtype != "auto":
            require_kv_dtype(self.kv_dtype, self.node.gpu)
        dtypes = Dtypes(self.weight_dtype or "auto", self.kv_dtype)
        asked = Deployment(
            self.arch.id,
            self.node.gpu.id,
            dtypes=dtypes,
            engine=self.engine,
            speculation=self.speculation,
        )
        require_able(asked, self.node.gpu, self.arch)
        if self.demand.cached_tokens:
            require_prefix_caching(self.engine, self.node.gpu, self.engine_version)
        if self.speculation is not None:
            require_draft(self.arch, self.speculation)
        if self.objective not in OBJECTIVES:
            raise InputError(f"objective {self.objective!r}", f"allowed: {', '.join(OBJECTIVES)}")
        if self.weight_dtype is not None:
            stored_in(self.arch, self.weight_dtype)
        for name, bound in self.slo.bounds().items():
            if not 0 < bound <= _LONGEST_S:
                raise InputError(
                    f"SLO {name} is {bound:g} s", f"allowed: above 0, up to {_LONGEST_S:g} s"
                )
        if self.slo.tpot_s is not None and self.demand.osl < 2:
            raise InputError("a TPOT limit with osl 1", "TPOT is defined for osl >= 2")

    @property
    def context(self) -> int:
        """Tokens of one sequence for which there must be room: isl + osl, rounded up to 256."""
        return model_lengths(self.demand.isl + self.demand.osl, self.arch)[-1]

    @property
    def longest(self) -> tuple[int, ...]:
        """Values of `max_model_len` to try, largest first; one sequence of that length must fit."""
        if self.limits.max_model_len is not None:
            return (self.limits.max_model_len,)
        return model_lengths(self.demand.isl + self.demand.osl, self.arch)

    def dtypes(self) -> tuple[str, ...]:
        """Weight dtypes to consider: the requested one, or the checkpoint's own, then fp8 for a
        16-bit checkpoint and nvfp4 if the GPU supports 4-bit floats, each if a checkpoint is
        published or the engine quantizes to it on load."""
        if self.weight_dtype is not None:
            return (stored_in(self.arch, self.weight_dtype).checkpoint_dtype,)
        own = self.arch.checkpoint_dtype
        found = [own]
        if self.engine == "builtin":  # it runs what is in the checkpoint
            return (own,)
        if own in UNQUANTIZED and (
            get(self.engine).capabilities.online_fp8 or self._is_published("fp8")
        ):
            found.append("fp8")
        multiplies = self.node.gpu.vendor == "nvidia" and "fp4" in self.node.gpu.flops
        if own in UNQUANTIZED | {"fp8"} and multiplies and self._is_published("nvfp4"):
            found.append("nvfp4")
        return tuple(found)

    def last_dtype(self) -> str | None:
        """What is looked at where none of `dtypes` fits: int4, where a checkpoint is published and
        the engine loads it. None where a dtype is asked for."""
        loads = "int4" in get(self.engine).capabilities.weight_dtypes
        if self.weight_dtype is not None or "int4" in self.dtypes() or not loads:
            return None
        return "int4" if self._is_published("int4") else None

    def _is_published(self, dtype: str) -> bool:
        return published_checkpoint(self.arch.id, dtype) is not None

    def subject(self, weight_dtype: str) -> Subject:
        """Return the model in `weight_dtype` as input of the performance model, with the KV dtype
        resolved."""
        gpu = self.node.gpu
        stored = stored_in(self.arch, weight_dtype)
        known = calibrated(self.profile, gpu, self.engine, self.siblings, self.engine_version)
        kv = stored.kv_dtype if self.kv_dtype == "auto" else self.kv_dtype
        return Subject(
            stored,
            gpu,
            self.engine,
            kv,
            known,
            self.engine_version,
            self.speculation,
            self.node.fabric,
        )

    def on(self, gpus: int) -> Question:
        """Return the same question for `gpus` GPUs of the same kind."""
        return replace(self, node=replace(self.node, gpus=gpus))
