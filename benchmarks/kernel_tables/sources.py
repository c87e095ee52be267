"""Read the reference files: the variant, shape and work columns of each class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from kernel_tables.rows import (
    Columns,
    Names,
    Rows,
    concatenate,
    numbers,
    read_columns,
)
from shardwise.kernels.attention import DECODE, NO_WINDOW, PREFILL
from shardwise.kernels.collectives import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, REDUCE_SCATTER
from shardwise.kernels.exchange import COMBINE, DISPATCH
from shardwise.kernels.experts import EXPERTS
from shardwise.kernels.gemm import GEMM
from shardwise.kernels.linear import (
    CONVOLUTION_DECODE,
    CONVOLUTION_PREFILL,
    SCAN_DECODE,
    SCAN_PREFILL,
)
from shardwise.kernels.mla import MLA_DECODE, MLA_DECODE_BLOCK, MLA_PREFILL, MLA_PREFILL_BLOCK
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array
from shardwise.kernels.sparse import SPARSE_DECODE, SPARSE_PREFILL

Reader = Callable[[Path], Mapping[Operator, Rows]]


def renamed(column: Names, names: Mapping[str, str]) -> Names:
    """Replace values of a column by those in `names`."""
    found, which = np.unique(column, return_inverse=True)
    return np.array([names.get(str(name), str(name)) for name in found])[which]


def dtypes(column: Names) -> Names:
    """Return dtypes under the names of the tables."""
    return renamed(column, {"bfloat16": "bf16", "float16": "bf16", "half": "bf16"})


def rows_of(
    columns: Columns,
    variant: Names,
    shape: list[Array],
    work: list[Array],
    keep: npt.NDArray[np.bool_] | None = None,
) -> Rows:
    """Return the valid rows of a file, restricted to the mask `keep`."""
    rows = Rows(
        gpu=columns["gpu_id"],
        engine=columns["engine_id"],
        version=columns["version"],
        variant=variant,
        shape=np.stack(shape, axis=1),
        work=np.stack(work, axis=1),
        seconds=numbers(columns["latency_us"]) * 1e-6,
    )
    sound = np.isfinite(rows.seconds) & (rows.seconds > 0)
    sound &= (rows.shape > 0).all(axis=1) & (rows.work > 0).all(axis=1)
    return rows.take(sound if keep is None else sound & keep)


def gemm_rows(folder: Path) -> Mapping[Operator, Rows]:
    """gemm.csv.gz."""
    columns = read_columns(folder / "kernels" / "gemm.csv.gz")
    m, n, k = (numbers(columns[name]) for name in "mnk")
    return {GEMM: rows_of(columns, dtypes(columns["dtype"]), [n, k], [m])}


def expert_rows(folder: Path) -> Mapping[Operator, Rows]:
    """moe.csv.gz. AITER's rows have the sizes of one rank, and empty layout columns."""
    columns = read_columns(folder / "kernels" / "moe.csv.gz")
    hidden, inter, top_k, experts = (
        numbers(columns[name]) for name in ("hidden_size", "inter_size", "topk", "num_experts")
    )
    tp = numbers(columns["moe_tp_size"], 1)
    ep = numbers(columns["moe_ep_size"], 1)
    # Nemotron's experts have no gate: squared ReLU between two matrices (its model card).
    ungated = (top_k == 22) | ((hidden == 2688) & (inter == 1856))
    matrices = np.where(ungated, 2.0, 3.0)
    shape = [hidden, inter / tp, experts, top_k, ep, matrices]
    return {
        EXPERTS: rows_of(columns, dtypes(columns["dtype"]), shape, [numbers(columns["num_tokens"])])
    }


def attention_rows(folder: Path) -> Mapping[Operator, Rows]:
    """attention.csv.gz, split into prefill and decode."""
    columns = read_columns(folder / "kernels" / "attention.csv.gz")
    variant = _joined(columns["attn_dtype"], columns["kv_dtype"])
    window = numbers(columns["window"])
    shape = [numbers(columns[name]) for name in ("num_heads", "num_kv_heads", "head_dim")]
    shape.append(np.where(window == 0, NO_WINDOW, window))
    batch, isl = numbers(columns["batch_size"]), numbers(columns["isl"])
    context = isl + numbers(columns["cached_tokens"])
    prefill = columns["phase"] == "context"
    return {
        PREFILL: rows_of(columns, variant, shape, [batch, isl], prefill),
        DECODE: rows_of(columns, variant, shape, [batch, context], ~prefill),
    }


#: Kernels of communication.csv.gz -> algorithm. The eager rows of engines include the host's
#: launch, as in an engine without CUDA graphs.
_ALGORITHMS: Final = {
    "NCCL": "nccl",
    "SGLang_CustomAllReduce_graph": "graph",
    "SGLang_CustomAllReduce_eager": "eager",
    "vLLM_custom_graph": "graph",
    "vLLM_custom_eager": "eager",
    "TRTLLM": "graph",
    "TRTLLM_MNNVL_oneshot": "mnnvl",
    "TRTLLM_MNNVL_twoshot": "mnnvl",
}
_OPERATIONS: Final = {
    "all_reduce": ALL_REDUCE,
    "all_gather": ALL_GATHER,
    "reduce_scatter": REDUCE_SCATTER,
    "alltoall": ALL_TO_ALL,
}
#: (backend, kernel) of collectives*.csv for AMD -> (engine, algorithm). Untuned kernels, and nodes
#: with NVLink only between pairs, are excluded.
_AMD: Final = {
    ("RCCL 2.20.5+hip6.2", "RCCL"): ("rccl", "nccl"),
    ("QuickReduce", "QR-FP16"): ("quickreduce", "quick_fp16"),
    ("QuickReduce", "QR-FP8"): ("quickreduce", "quick_fp8"),
    ("QuickReduce", "QR-Q8"): ("quickreduce", "quick_int8"),
    ("QuickReduce", "QR-Q6"): ("quickreduce", "quick_int6"),
    ("QuickReduce", "QR-Q4"): ("quickreduce", "quick_int4"),
    ("custom", "vLLM custom all-reduce"): ("vllm", "graph"),
    ("custom", "aiter custom all-reduce"): ("aiter", "graph"),
    ("vLLM", "baseline = min(vLLM custom all-reduce, RCCL)"): ("vllm", "graph"),
    ("vLLM (ROCm)", "vLLM custom all-reduce (tuned two-stage)"): ("vllm", "graph"),
}


def collective_rows(folder: Path) -> Mapping[Operator, Rows]:
    """16-bit rows of communication.csv.gz, and AMD's all-reduces of collectives*.csv."""
    columns = read_columns(folder / "kernels" / "communication.csv.gz")
    wide = columns["dtype"] != "int8"
    work = [2.0 * numbers(columns["message_elements"])]
    shape = [numbers(columns["num_gpus"])]
    variant = renamed(columns["kernel"], _ALGORITHMS)
    found = {
        operator: rows_of(columns, variant, shape, work, wide & (columns["op"] == name))
        for name, operator in _OPERATIONS.items()
    }
    amd = [_amd_rows(folder / name) for name in ("collectives.csv", "collectives_2026.csv")]
    return found | {ALL_REDUCE: concatenate([found[ALL_REDUCE], *amd])}


def _amd_rows(path: Path) -> Rows:
    raw = read_columns(path)
    pairs = list(zip(raw["backend"].tolist(), raw["kernel"].tolist(), strict=True))
    named = np.array([_AMD.get(pair, ("", "")) for pair in pairs])
    columns = {
        "gpu_id": raw["gpu"],
        "engine_id": named[:, 0],
        "version": raw["source_id"],
        "latency_us": raw["latency_us"],
    }
    shape, work = [numbers(raw["world_size"])], [numbers(raw["size_bytes"])]
    return rows_of(columns, named[:, 1], shape, work, named[:, 0] != "")


def mla_rows(folder: Path) -> Mapping[Operator, Rows]:
    """mla_context.csv.gz and mla_generation.csv.gz: kernels alone, and whole blocks ("module")."""
    found = {}
    for name, kernel, block in (
        ("mla_context", MLA_PREFILL, MLA_PREFILL_BLOCK),
        ("mla_generation", MLA_DECODE, MLA_DECODE_BLOCK),
    ):
        columns = read_columns(folder / "kernels" / f"{name}.csv.gz")
        pair = _joined(columns["mla_dtype"], columns["kv_cache_dtype"])
        heads = numbers(columns["num_heads"])
        work = [
            numbers(columns["batch_size"]),
            numbers(columns["isl"]) + numbers(columns["step"]),
        ]
        whole = np.char.endswith(columns["op_name"], "_module")
        found[kernel] = rows_of(columns, pair, [heads], work, ~whole)
        variant = _joined(pair, columns["gemm_type"])
        shape = [heads, np.full(len(heads), 7168.0)]  # DeepSeek-V3 and Kimi-K3, from their configs
        found[block] = rows_of(columns, variant, shape, work, whole)
    return found


def sparse_rows(folder: Path) -> Mapping[Operator, Rows]:
    """sparse_attention.csv.gz: whole blocks. Prefill excludes rows with a cached token."""
    columns = read_columns(folder / "kernels" / "sparse_attention.csv.gz")
    variant = _joined(_joined(columns["mla_dtype"], columns["kv_dtype"]), columns["gemm_type"])
    skips = np.char.find(columns["kernel"], "skip_indexer") >= 0
    variant = np.where(skips, np.char.add(variant, "+skip"), variant)
    deepseek = np.char.startswith(columns["model"], "deepseek-ai/DeepSeek-V3.2")
    hidden = np.where(deepseek, 7168.0, 6144.0)  # DeepSeek-V3.2 and GLM-5, from their configs
    shape = [numbers(columns["num_heads"]), hidden]
    batch, isl = numbers(columns["batch_size"]), numbers(columns["isl"])
    prefill = columns["phase"] == "context"
    # engines do not use this kernel if both were measured
    chosen = ~np.char.endswith(columns["kernel"], "flashmla_sparse")
    cold = prefill & chosen & (columns["cached_tokens"] == "0")
    return {
        SPARSE_PREFILL: rows_of(columns, variant, shape, [batch, isl], cold),
        SPARSE_DECODE: rows_of(columns, variant, shape, [batch], ~prefill & chosen),
    }


def linear_rows(folder: Path) -> Mapping[Operator, Rows]:
    """linear_attention.csv.gz: convolutions and scans, prefill and decode."""
    columns = read_columns(folder / "kernels" / "linear_attention.csv.gz")
    mamba = columns["kind"] == "mamba2"
    names = ("num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim")
    mamba_names = ("n_groups", "nheads", "d_state", "head_dim")
    shape = [
        np.where(mamba, numbers(columns[b]), numbers(columns[a]))
        for a, b in zip(names, mamba_names, strict=True)
    ]
    batch, isl = numbers(columns["batch_size"]), numbers(columns["seq_len"])
    prefill = columns["phase"] == "context"
    convolution = np.char.startswith(columns["kernel"], "causal_conv1d")

    def part(work: list[Array], keep: npt.NDArray[np.bool_]) -> Rows:
        return rows_of(columns, columns["kind"], shape, work, keep)

    return {
        SCAN_PREFILL: part([batch, isl], prefill & ~convolution),
        SCAN_DECODE: part([batch], ~prefill & ~convolution),
        CONVOLUTION_PREFILL: part([batch, isl], prefill & convolution),
        CONVOLUTION_DECODE: part([batch], ~prefill & convolution),
    }


_MODES: Final = {
    "deepep_ht": "ht",
    "deepep_ll": "ll",
    "deepep_v2_context": "v2_ht",
    "deepep_v2_generation": "v2_ll",
    "trtllm_deepep_ht": "ht",
    "trtllm_deepep_ll": "ll",
}


def exchange_rows(folder: Path) -> Mapping[Operator, Rows]:
    """expert_exchange.csv.gz. vLLM's rows have no dtype; their times correspond to 16 bits."""
    columns = read_columns(folder / "kernels" / "expert_exchange.csv.gz")
    dtype = renamed(dtypes(columns["comm_dtype"]), {"default": "bf16", "fp4": "nvfp4"})
    variant = _joined(renamed(columns["comm_backend"], _MODES), dtype)
    shape = [numbers(columns[name]) for name in ("hidden_size", "topk", "num_experts", "ep_size")]
    work = [numbers(columns["num_tokens"])]
    dispatch = columns["phase"] == "dispatch"
    return {
        DISPATCH: rows_of(columns, variant, shape, work, dispatch),
        COMBINE: rows_of(columns, variant, shape, work, ~dispatch),
    }


def _joined(first: Names, second: Names) -> Names:
    return np.char.add(np.char.add(dtypes(first), "/"), dtypes(second))


READERS: Final[tuple[Reader, ...]] = (
    gemm_rows,
    expert_rows,
    attention_rows,
    mla_rows,
    sparse_rows,
    linear_rows,
    collective_rows,
    exchange_rows,
)
