"""A deployment: a model on GPUs, in a layout, with engine limits.

The same type is used from the command line to exports. Fields are plain numbers; the performance
model uses `shardwise.layout.arrays.Layouts` for many deployments at once.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.layout.speculation import Speculation

#: Defaults of vLLM's load tests and of most recipes; `engines` knows each engine's own.
MAX_NUM_SEQS = 256
MAX_NUM_BATCHED_TOKENS = 8192
GPU_MEMORY_UTILIZATION = 0.9
MOST = 10_000_000  #: of any limit in tokens or sequences


class Layout(msgspec.Struct, frozen=True, order=True, dict=True):
    """How a model is distributed over GPUs.

    Attributes:
        tp_size: Ranks over which each tensor of attention and dense MLPs is sharded.
        pp_size: Pipeline stages.
        ep_size: Ranks that whole experts are spread over; 1: experts are cut like dense MLPs.
        attention_dp: Data-parallel copies of attention inside one replica; its experts are spread
            over all `tp_size * attention_dp` ranks.
        replicas: Copies of the whole.
        dcp_size: Ranks of TP that each keep a share of every sequence's cache (decode context
            parallelism) where TP alone would give each of them a copy of it.
    """

    tp_size: int = 1
    pp_size: int = 1
    ep_size: int = 1
    attention_dp: int = 1
    replicas: int = 1
    dcp_size: int = 1

    @property
    def stage_gpus(self) -> int:
        """GPUs of one pipeline stage of one replica."""
        return self.tp_size * self.attention_dp

    @property
    def replica_gpus(self) -> int:
        """GPUs of one replica."""
        return self.stage_gpus * self.pp_size

    @property
    def gpus(self) -> int:
        """GPUs of all replicas."""
        return self.replica_gpus * self.replicas

    @property
    def expert_parallel(self) -> bool:
        """Whether whole experts are distributed over ranks."""
        return self.ep_size > 1

    @cached_property
    def name(self) -> str:
        """Name of the layout of one replica: "TP4", "TP2 x PP2", "DP8 x EP8", "TP8 x DCP8"."""
        words = [f"TP{self.tp_size}"] if self.tp_size > 1 or self.attention_dp == 1 else []
        words += [f"DP{self.attention_dp}"] if self.attention_dp > 1 else []
        words += [f"EP{self.ep_size}"] if self.ep_size > 1 else []
        words += [f"PP{self.pp_size}"] if self.pp_size > 1 else []
        words += [f"DCP{self.dcp_size}"] if self.dcp_size > 1 else []
        return " x ".join(words)


#: What a layout's name has, in order: mark -> field.
MARKS: Final = {
    **{"TP": "tp_size", "DP": "attention_dp", "EP": "ep_size", "PP": "pp_size"},
    "DCP": "dcp_size",
}
_PART: Final = re.compile(r"(TP|DP|EP|PP|DCP)=?([1-9][0-9]{0,3})", re.IGNORECASE)


def layout_of(text: str) -> Layout:
    """Parse a layout as spelled by `Layout.name`: "TP8", "TP8 x EP8", "DP8xEP8".

    Raises InputError for an unknown or repeated part.
    """
    sizes: dict[str, int] = {}
    for part in re.split(r"\s*[x×]\s*|\s+", text.strip(), flags=re.IGNORECASE):
        found = _PART.fullmatch(part)
        if found is None:
            raise InputError(
                f"layout {text[:60]!r}",
                "allowed: as in TP8, TP8xEP8, DP8xEP8, TP4xPP2, TP8xDCP8",
            )
        name = MARKS[found[1].upper()]
        if name in sizes:
            raise InputError(f"layout {text[:60]!r} has {found[1].upper()} twice", "allowed: once")
        sizes[name] = int(found[2])
    return Layout(**sizes)


def _require_limits(seqs: int | None, batched_tokens: int | None, model_len: int | None) -> None:
    """Raise InputError for a limit outside 1 to `MOST`; None is not checked."""
    for name, value in (
        ("max_num_seqs", seqs),
        ("max_num_batched_tokens", batched_tokens),
        ("max_model_len", model_len),
    ):
        if value is not None and not 1 <= value <= MOST:
            raise InputError(f"{name} is {value}", f"allowed: 1 to {MOST:,}")


def _require_share(share: float | None) -> None:
    if share is not None and not 0 < share <= 1:
        raise InputError(f"gpu_memory_utilization is {share:g}", "allowed: above 0, up to 1")


class EngineLimits(msgspec.Struct, frozen=True):
    """Limits of an engine's batch and memory, named like its flags.

    With data-parallel attention, sequences and tokens are per attention copy.
    """

    max_num_seqs: int = MAX_NUM_SEQS
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS
    gpu_memory_utilization: float = GPU_MEMORY_UTILIZATION
    max_model_len: int = 0  #: tokens; 0: the model's own

    def __post_init__(self) -> None:
        _require_limits(self.max_num_seqs, self.max_num_batched_tokens, self.max_model_len or None)
        _require_share(self.gpu_memory_utilization)


class FixedLimits(msgspec.Struct, frozen=True):
    """Limits fixed by a user; None leaves the choice to the caller (planner, study, row)."""

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None

    def __post_init__(self) -> None:
        _require_limits(self.max_num_seqs, self.max_num_batched_tokens, self.max_model_len)
        _require_share(self.gpu_memory_utilization)

    def over(self, chosen: EngineLimits) -> EngineLimits:
        """Return `chosen` with the fixed limits applied."""
        fixed = {k: v for k, v in msgspec.structs.asdict(self).items() if v is not None}
        return replace(chosen, **fixed)


class Dtypes(msgspec.Struct, frozen=True):
    """Dtypes of weights and KV cache. "auto" uses the checkpoint's."""

    weight: str = "auto"
    kv: str = "auto"


class Deployment(msgspec.Struct, frozen=True):
    """`layout.replicas` replicas of a model on GPUs of one kind, run by one engine."""

    model: str
    gpu: str
    layout: Layout = msgspec.field(default_factory=Layout)
    limits: EngineLimits = msgspec.field(default_factory=EngineLimits)
    dtypes: Dtypes = msgspec.field(default_factory=Dtypes)
    engine: str = "vllm"
    engine_version: str = ""  #: empty: not known
    speculation: Speculation | None = None  #: None: a decode step gives a sequence one token

    def with_layout(self, **changes: int) -> Deployment:
        """The same deployment with fields of its layout changed."""
        return replace(self, layout=replace(self.layout, **changes))

    def with_limits(self, **changes: Any) -> Deployment:
        """The same deployment with engine limits changed."""
        return replace(self, limits=replace(self.limits, **changes))

    def with_dtypes(self, **changes: str) -> Deployment:
        """The same deployment with dtypes changed."""
        return replace(self, dtypes=replace(self.dtypes, **changes))

    @property
    def gpus(self) -> int:
        """GPUs of all replicas."""
        return self.layout.gpus

    @property
    def tp_size(self) -> int:
        """`layout.tp_size`."""
        return self.layout.tp_size

    @property
    def pp_size(self) -> int:
        """`layout.pp_size`."""
        return self.layout.pp_size

    @property
    def replicas(self) -> int:
        """`layout.replicas`."""
        return self.layout.replicas
