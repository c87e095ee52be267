"""Records that each engine module fills: capabilities, defaults, scheduling, packaging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

#: Which sizes of expert parallelism an engine offers: none; all ranks of a stage or 1; any divisor.
ExpertParallel = Literal["none", "whole", "divisor"]


class ContextParallel(msgspec.Struct, frozen=True):
    """An engine's decode context parallelism."""

    caches: Literal["latent", "any"]  #: which it cuts: MLA's alone, or KV heads' copies as well
    since: str  #: the first version read that has it
    latent_fp8_since: str  #: the same for an fp8 latent cache
    speculation: bool  #: beside drafted tokens
    vendors: tuple[str, ...]  #: of devices whose attention kernels merge shares
    source: str


class Capabilities(msgspec.Struct, frozen=True):
    """What an engine can be asked for, whatever the model."""

    vendors: tuple[str, ...]  #: of devices, "cpu" among them
    pipeline: bool
    experts: ExpertParallel
    attention_dp: bool
    #: whether attention data parallelism leaves room for attention TP within a copy
    attention_dp_with_tp: bool
    decode_context_parallel: ContextParallel | None
    speculation: tuple[str, ...]  #: who may draft: "mtp", "draft_model"
    online_fp8: bool  #: quantizes 16-bit weights to fp8 while it loads them
    weight_dtypes: tuple[str, ...]  #: of checkpoints it loads
    kv_dtypes: Mapping[str, str]  #: our name -> how its flag spells it; "auto" means no flag
    max_tp: int = 1024
    multi_node: bool = False  #: whether its flags for several nodes are known here
    #: weight dtypes that are refused where matrix units do not take them: "fp8", "nvfp4"
    native_only: tuple[str, ...] = ()
    source: str = ""


class Defaults(msgspec.Struct, frozen=True):
    """What an engine starts with on a device where no flag says otherwise."""

    max_num_seqs: int
    max_num_batched_tokens: int
    memory_fraction: float
    block_size: int  #: tokens
    source: str


class AllReduce(msgspec.Struct, frozen=True):
    """Which all-reduce an engine takes: a custom kernel up to a size, the library's beyond."""

    custom_world_sizes: tuple[int, ...]
    custom_max_bytes: int  #: of a message; where `by_capability` has no entry
    #: capability -> world size -> the most bytes for the custom kernel
    by_capability: Mapping[tuple[int, int], Mapping[int, int]] = msgspec.field(default_factory=dict)
    #: the same for the kernel on symmetric memory (multimem), which takes over above `custom`
    symmetric_by_capability: Mapping[tuple[int, int], Mapping[int, int]] = msgspec.field(
        default_factory=dict
    )
    #: fused with the residual add and RMS norm: capability -> world size -> the most bytes
    fused_by_capability: Mapping[tuple[int, int], Mapping[int, int]] = msgspec.field(
        default_factory=dict
    )
    #: GPUs that reach each other over PCIe alone: the custom kernel runs up to so many
    pcie_max_world: int = 2
    quick_reduce_world_sizes: tuple[int, ...] = ()  #: on AMD's MI300 series; off by default
    source: str = ""

    def custom_limit(self, world_size: int, capability: tuple[int, int] | None) -> int:
        """Largest message in bytes for the custom kernel; 0 where it is not used at all."""
        if world_size not in self.custom_world_sizes:
            return 0
        known = self.by_capability.get(capability) if capability else None
        bound = known.get(world_size) if known else None
        return min(bound, self.custom_max_bytes) if bound is not None else self.custom_max_bytes


class Scheduling(msgspec.Struct, frozen=True):
    """How an engine fills its steps, as the performance model asks it."""

    chunked_prefill: bool  #: on unless a flag says otherwise
    mixed_batches: bool  #: prefill and decode share a step
    overlapped: bool  #: the next step is prepared while the GPU works on this one
    prefix_caching: bool
    graph_batch_sizes: tuple[int, ...]  #: decode batches are padded up to the next of these
    all_reduce: AllReduce
    source: str
    #: a request is admitted where the cache has room for its whole output, not for its prompt
    reserves_output: bool = False
    #: the server joins tokens of a stream that it falls behind with, so it never queues them
    merges_output: bool = False


class Metrics(msgspec.Struct, frozen=True):
    """Prometheus names."""

    path: str
    in_flight: tuple[str, ...]  #: gauges that add up to the requests in flight
    names: Mapping[str, str] = msgspec.field(
        default_factory=dict
    )  #: Shardwise's name -> the engine's
    progress: tuple[str, ...] = ()  #: counters that grow while it works


class Packaging(msgspec.Struct, frozen=True):
    """Where the engine comes from."""

    module: str  #: importable where it is installed
    install: str  #: the command that installs it
    images: Mapping[str, str] = msgspec.field(
        default_factory=dict
    )  #: kind of device -> container image
    api_key_variable: str = ""  #: environment variable that it reads its API key from


class ConfigFile(msgspec.Struct, frozen=True):
    """A file that must lie beside the process."""

    name: str
    text: str


class Command(msgspec.Struct, frozen=True):
    """The arguments that start one replica, and files that they name."""

    argv: tuple[str, ...]
    files: tuple[ConfigFile, ...] = ()


class Launch(msgspec.Struct, frozen=True):
    """What starting a replica needs beyond its deployment.

    Attributes:
        model: What the engine loads: hub id, folder or file.
        served_name: As clients name the model; "" leaves the flag out.
        port: TCP port on `host`.
        checkpoint_dtype: Dtype that the weights are stored in; "" if not known.
        checkpoint_kv: Dtype of the KV cache that the checkpoint asks for; "" for none.
        nodes: That the replica is spread over.
        node_rank: Which of them this process is on, from 0.
        head: Address of the first of them.
        draft: What the engine loads as draft model: hub id, folder or file; "" for none.
        static_share: SGLang's --mem-fraction-static, of weights and KV cache alone; 0 takes the
            deployment's gpu_memory_utilization.
        kv_cache_tokens: The built-in engine's room for KV cache; 0 leaves its default.
        threads_per_rank: The built-in engine's CPU threads; 0 leaves its default.
        embeds: An embedding or reward model: no token is generated.
    """

    model: str
    served_name: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    checkpoint_dtype: str = ""
    checkpoint_kv: str = ""
    draft: str = ""
    nodes: int = 1
    node_rank: int = 0
    head: str = ""
    static_share: float = 0.0
    kv_cache_tokens: int = 0
    threads_per_rank: int = 0
    embeds: bool = False
