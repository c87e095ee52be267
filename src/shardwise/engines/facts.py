"""Records that each engine module fills: capabilities, defaults, scheduling, packaging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec.structs import replace

from shardwise.engines.prompt_graphs import PromptGraphs

#: Supported EP sizes: 1 only; 1 or all ranks of a stage; any divisor of these ranks.
ExpertParallel = Literal["none", "whole", "divisor"]


class ContextParallel(msgspec.Struct, frozen=True):
    """Support for decode context parallelism."""

    caches: Literal["latent", "any"]  #: caches it splits: MLA's only, or replicated KV heads too
    since: str  #: oldest version read that supports it
    latent_fp8_since: str  #: the same with an fp8 latent cache
    speculation: bool  #: whether it works together with speculation
    vendors: tuple[str, ...]  #: vendors of GPUs whose attention kernels merge partial outputs
    source: str


class Capabilities(msgspec.Struct, frozen=True):
    """Settings that an engine supports, independent of the model."""

    vendors: tuple[str, ...]  #: of supported devices; "cpu" is one of them
    pipeline: bool
    experts: ExpertParallel
    attention_dp: bool
    #: whether attention DP can be combined with TP within a copy of attention
    attention_dp_with_tp: bool
    decode_context_parallel: ContextParallel | None
    speculation: tuple[str, ...]  #: supported drafters: "mtp", "draft_model"
    online_fp8: bool  #: whether it can quantize 16-bit weights to fp8 on load
    weight_dtypes: tuple[str, ...]  #: of supported checkpoints
    kv_dtypes: Mapping[str, str]  #: our name -> value of its flag; "auto" means no flag
    max_tp: int = 1024
    multi_node: bool = False  #: whether Shardwise can write its flags for several nodes
    #: weight dtypes refused on GPUs whose matrix units do not support them: "fp8", "nvfp4"
    native_only: tuple[str, ...] = ()
    source: str = ""


class Defaults(msgspec.Struct, frozen=True):
    """Default limits of an engine on a device."""

    max_num_seqs: int
    max_num_batched_tokens: int
    memory_fraction: float
    block_size: int  #: tokens
    source: str


class AllReduce(msgspec.Struct, frozen=True):
    """The all-reduce an engine uses: its custom kernel up to a size, NCCL or RCCL above it."""

    custom_world_sizes: tuple[int, ...]
    custom_max_bytes: int  #: largest message if `by_capability` has no entry
    #: capability -> world size -> largest message of the custom kernel in bytes
    by_capability: Mapping[tuple[int, int], Mapping[int, int]] = msgspec.field(default_factory=dict)
    #: the same for the symmetric-memory kernel (multimem), used for messages above `custom`
    symmetric_by_capability: Mapping[tuple[int, int], Mapping[int, int]] = msgspec.field(
        default_factory=dict
    )
    #: the same for the kernel fused with the residual add and RMS norm
    fused_by_capability: Mapping[tuple[int, int], Mapping[int, int]] = msgspec.field(
        default_factory=dict
    )
    #: largest world size of the custom kernel on GPUs connected only by PCIe
    pcie_max_world: int = 2
    quick_reduce_world_sizes: tuple[int, ...] = ()  #: on AMD's MI300 series; off by default
    source: str = ""

    def custom_limit(self, world_size: int, capability: tuple[int, int] | None) -> int:
        """Return the largest message of the custom kernel in bytes; 0 if it is not used."""
        if world_size not in self.custom_world_sizes:
            return 0
        known = self.by_capability.get(capability) if capability else None
        bound = known.get(world_size) if known else None
        return min(bound, self.custom_max_bytes) if bound is not None else self.custom_max_bytes

    def fused_limit(self, world_size: int, capability: tuple[int, int] | None) -> int:
        """Return the largest message of the fused kernel in bytes; 0 if it is not used."""
        return self.fused_by_capability.get(capability or (0, 0), {}).get(world_size, 0)


class Scheduling(msgspec.Struct, frozen=True):
    """Scheduling properties that the performance model uses."""

    chunked_prefill: bool  #: enabled by default
    mixed_batches: bool  #: prefill and decode share a step
    prefix_caching: bool
    graph_batch_sizes: tuple[int, ...]  #: decode batches are padded to the next size
    all_reduce: AllReduce
    source: str
    #: admits a request only if the cache has room for its whole output, not just its prompt
    reserves_output: bool = False
    #: the server merges waiting tokens of a stream into one event, so tokens never queue
    merges_output: bool = False
    #: one call of attention serves a step's decodes and prompts together
    one_attention_call: bool = False
    prompt_graphs: PromptGraphs = PromptGraphs()
    #: steps that a new request waits beyond the fitted `wait_steps`, because they are scheduled
    #: before it arrives; 0 also where all fitted rows of an engine wait for them
    steps_ahead: float = 0.0
    #: kernel formats whose inputs are quantized before data-parallel ranks gather them; those of
    #: other formats are gathered in 16 bits
    gathers_quantized: tuple[str, ...] = ()


class Metrics(msgspec.Struct, frozen=True):
    """Names of an engine's Prometheus metrics."""

    path: str
    in_flight: tuple[str, ...]  #: gauges whose sum is the number of requests in flight
    names: Mapping[str, str] = msgspec.field(
        default_factory=dict
    )  #: Shardwise's name -> the engine's
    progress: tuple[str, ...] = ()  #: counters that increase while it makes progress


class Packaging(msgspec.Struct, frozen=True):
    """How to install an engine."""

    module: str  #: importable if the engine is installed
    install: str  #: installation command
    images: Mapping[str, str] = msgspec.field(
        default_factory=dict
    )  #: kind of device -> container image
    api_key_variable: str = ""  #: environment variable with its API key


class ConfigFile(msgspec.Struct, frozen=True):
    """A file that the process reads from its working directory."""

    name: str
    text: str


class Command(msgspec.Struct, frozen=True):
    """The arguments that start one replica, and the files they refer to."""

    argv: tuple[str, ...]
    files: tuple[ConfigFile, ...] = ()


class Share(msgspec.Struct, frozen=True):
    """One node's share of a replica that spans several nodes."""

    nodes: int
    rank: int
    head: str  #: address of the first of them


class Settings(msgspec.Struct, frozen=True):
    """What makes an engine run a model as it is predicted, where its defaults do not."""

    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = msgspec.field(default_factory=dict)


class Launch(msgspec.Struct, frozen=True):
    """Settings of one replica's start that are not part of its deployment.

    Attributes:
        model: What the engine loads: hub id, folder or file.
        served_name: As clients name the model; "" leaves the flag out.
        port: TCP port on `host`.
        checkpoint_dtype: Dtype of the stored weights; "" if unknown.
        checkpoint_kv: KV cache dtype stated by the checkpoint; "" if it states none.
        nodes: Number of nodes that the replica spans.
        node_rank: Index of this process's node, from 0.
        head: Address of the first node.
        draft: What the engine loads as draft model: hub id, folder or file; "" for none.
        static_share: SGLang's --mem-fraction-static, which covers weights and KV cache only; 0 uses
            the deployment's gpu_memory_utilization.
        kv_cache_tokens: KV cache size of the built-in engine, in tokens; 0 uses its default.
        threads_per_rank: CPU threads per rank of the built-in engine; 0 uses its default.
        embeds: Whether it is an embedding or reward model, which generates no tokens.
        flags: Further flags, which follow from the model.
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
    flags: tuple[str, ...] = ()

    def on(self, share: Share) -> Launch:
        """Return the start of one node's share."""
        return replace(self, nodes=share.nodes, node_rank=share.rank, head=share.head)
