"""Which columns of the reference files are a class's variant, shape and work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from shardwise.kernels.attention import DECODE, NO_WINDOW, PREFILL
from shardwise.kernels.ingest.rows import (
    Columns,
    Names,
    Rows,
    concatenate,
    numbers,
    read_columns,
)
from shardwise.kernels.collectives import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, REDUCE_SCATTER
from shardwise.kernels.experts import EXPERTS
from shardwise.kernels.gemm import GEMM
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array

Reader = Callable[[Path], Mapping[Operator, Rows]]


def renamed(column: Names, names: Mapping[str, str]) -> Names:
    """A column with some of its values spelt another way."""
    found, which = np.unique(column, return_inverse=True)
    return np.array([names.get(str(name), str(name)) for name in found])[which]


def dtypes(column: Names) -> Names:
    """Dtypes as the tables name them."""
    return renamed(column, {"bfloat16": "bf16", "float16": "bf16", "half": "bf16"})


def rows_of(
    columns: Columns,
    variant: Names,
    shape: list[Array],
    work: list[Array],
    keep: npt.NDArray[np.bool_] | None = None,
) -> Rows:
    """Rows from a file's columns, those that `keep` names."""
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
    """moe.csv.gz. AITER's rows name what one rank holds, so their layout columns are empty."""
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
    """attention.csv.gz, prefill and decode apart."""
    columns = read_columns(folder / "kernels" / "attention.csv.gz")
    variant = np.char.add(
        np.char.add(dtypes(columns["attn_dtype"]), "/"), dtypes(columns["kv_dtype"])
    )
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


#: Kernels of communication.csv.gz -> algorithm. Engines' eager rows hold the host's launch, and
#: are what an engine without CUDA graphs pays.
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
#: (backend, kernel) of collectives*.csv for AMD -> (engine, algorithm). Kernels before tuning, and
#: one-machine boxes with NVLink between pairs only, are left out.
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
    """communication.csv.gz, 16-bit rows, and AMD's all-reduces of collectives*.csv."""
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


READERS: Final[tuple[Reader, ...]] = (gemm_rows, expert_rows, attention_rows, collective_rows)
