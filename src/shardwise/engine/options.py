"""Options of one replica, and checks against this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec
import torch

from shardwise.engine import sharding
from shardwise.engine.config import ModelConfig
from shardwise.engine.rank import AllReduce, GroupSpec
from shardwise.errors import DoesNotFitError, InputError

DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
#: Private memory of a rank before weights: 145 MB of Python and torch, 160 MB of oneDNN code for
#: row counts used so far. Measured with torch 2.13 on x86-64.
RANK_PROCESS_BYTES = 350e6


Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
DEVICES: Final[tuple[Device, ...]] = get_args(Device)
DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)


class EngineOptions(msgspec.Struct, frozen=True):
    """Options of one replica."""

    tp_size: int = 1
    device: Device = "auto"
    dtype: Dtype = "auto"
    all_reduce: AllReduce = "auto"
    threads_per_rank: int = 0  #: 0: this machine's cores divided by the ranks
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 1024
    max_model_len: int = 0  #: tokens; 0: the model's, limited by the KV cache
    kv_cache_tokens: int = 32768
    block_size: int = 16
    random_weights: bool = False
    emulate_tp_size: int = 0  #: run one rank's shard of a TP size that this machine lacks


def resolved(options: EngineOptions) -> EngineOptions:
    """Return `options` with the device resolved. Raises InputError for invalid values."""
    for name in ("tp_size", "max_num_seqs", "max_num_batched_tokens", "block_size"):
        if getattr(options, name) < 1:
            raise InputError(f"{name} is {getattr(options, name)}", "allowed: 1 or more")
    for name, kind in (("device", DEVICES), ("dtype", DTYPES)):
        if getattr(options, name) not in kind:
            raise InputError(
                f"{name} is {getattr(options, name)!r}", f"allowed: {', '.join(kind)}", field=name
            )
    if options.threads_per_rank < 0:
        raise InputError(
            f"threads_per_rank is {options.threads_per_rank}",
            "allowed: 1 or more; 0 is an equal share of the cores",
            field="threads_per_rank",
        )
    if options.max_num_batched_tokens < options.max_num_seqs:
        raise InputError(
            f"max_num_batched_tokens is {options.max_num_batched_tokens}",
            f"allowed: max_num_seqs ({options.max_num_seqs}) or more",
        )
    if options.kv_cache_tokens < options.block_size:
        raise InputError(
            f"kv_cache_tokens is {options.kv_cache_tokens}",
            f"allowed: {options.block_size} or more",
        )
    gpus = torch.cuda.device_count()
    device = options.device
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda" and gpus < options.tp_size:
        raise InputError(
            f"tensor_parallel_size is {options.tp_size} and {gpus} GPUs are visible",
            remedy="lower it, pass --device cpu, or profile with --emulate",
        )
    return msgspec.structs.replace(options, device=device)


def auto_dtype(config: ModelConfig, options: EngineOptions) -> str:
    """Return the checkpoint's dtype; on CPU, bf16 for 16 bits if cores support it, else fp32."""
    if options.device != "cpu" or config.dtype == "fp32":
        return config.dtype
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"


def group_spec(config: ModelConfig, options: EngineOptions) -> GroupSpec:
    """Return the ranks of `options`, with shared slots for the model's largest message."""
    assert options.device != "auto"
    rows = max(options.max_num_batched_tokens, options.max_num_seqs)
    widest = -(-config.vocab_size // options.tp_size)  # logits of max_num_seqs rows
    largest = 4 * max(rows * config.hidden_size, options.max_num_seqs * widest)
    return GroupSpec(
        options.tp_size, options.device, options.all_reduce, options.threads_per_rank, largest
    )


def rank_bytes(config: ModelConfig, options: EngineOptions, dtype: str) -> float:
    """Return the bytes of the fullest rank: weights, KV cache, and on CPU the process itself."""
    tp_size = options.emulate_tp_size or options.tp_size
    elements = sharding.elements_per_rank(config, tp_size)
    if config.tie_embeddings:  # the packed head is a second copy of the embedding
        elements += -(-config.vocab_size // tp_size) * config.hidden_size
    elements += options.kv_cache_tokens * sharding.kv_elements_per_token(config, tp_size)
    process = RANK_PROCESS_BYTES if options.device == "cpu" else 0.0
    return elements * DTYPE_BYTES[dtype] + process


def check_memory(config: ModelConfig, options: EngineOptions, dtype: str) -> None:
    """Raise DoesNotFitError if the ranks need more memory than is free."""
    need = rank_bytes(config, options, dtype)
    if options.device == "cuda":
        free, where = float(torch.cuda.mem_get_info()[0]), "on the GPU"
    else:
        need *= options.tp_size
        free, where = _available_bytes(), "in memory"
    if need > free:
        raise DoesNotFitError(
            f"tensor_parallel_size {options.tp_size} with {options.kv_cache_tokens} KV cache "
            f"tokens needs {need / 1e9:.1f} GB {where}, {free / 1e9:.1f} GB are free; "
            "lower --kv-cache-tokens or --tensor-parallel-size, or take a smaller model"
        )


def _available_bytes() -> float:
    """Return available memory according to Linux; elsewhere the total memory."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
