"""Print start-up logs and predictions for their flags as Markdown.

Run: python benchmarks/startup_logs.py > docs/startup-logs.md
Needs ../shared/samples and ../shared/configs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from shardwise.doctor.startup_check import Comparison, Quantity, compare
from shardwise.node.reading.read import read

SHARED: Final = Path(__file__).resolve().parents[2] / "shared"
LOGS: Final = SHARED / "samples" / "startup"
CONFIGS: Final = SHARED / "configs"


class Case(msgspec.Struct, frozen=True):
    """A log, and settings that it does not contain."""

    log: str
    model: str = ""  #: a bundled model or a configuration; empty if not predicted
    gpu: str = ""
    tp_size: int = 0
    pp_size: int = 0
    dtype: str = "auto"
    version: str = ""  #: the engine's, by the date of the report
    why: str = ""  #: why it is not predicted, or the cause of a difference
    assumed: str = ""  #: what the log does not contain


CASES: Final = (
    Case("vllm06_llama3_8b_tp2_memory_table", "llama-3-8b", "h100"),
    Case("vllm085_qwen3moe_tp4_compose_prefix_oom", "qwen3-30b-a3b", "h100"),
    Case(
        "vllm08_phi4_bnb_v0",
        "phi3/phi-4.json",
        "h100",
        dtype="int4",
        assumed="bitsandbytes, modelled as 4 bits in all linear layers",
    ),
    Case(
        "both_qwen3_235b_fp8_tp4_h100",
        "qwen3-235b-a22b-fp8",
        "h100",
        version="0.10.0",
        assumed="vLLM 0.10.0, by the date of the report",
    ),
    Case(
        "sglang_kimi_k25_tp8_rocm_capture_crash",
        "kimi_k25/Kimi-K2.5.json",
        "mi355x",
        why="the memory fraction is not in the log",
    ),
    Case(
        "vllm020fork_glm51_nvfp4_tp8_rtxpro6000",
        "glm_moe_dsa/GLM-5-NVFP4",
        "rtx-pro-6000",
        why="a fork; the model is GLM-5.1 with its MTP layer, the configuration is that of GLM-5",
    ),
    Case(
        "vllm021_dsv4flash_tp2_2nodes_gb10",
        "deepseek_v4/DeepSeek-V4-Flash.json",
        "gb10",
        why="MTP is in the logged weights, and the logged tokens are concurrency x length, "
        "not a capacity",
    ),
    Case(
        "vllm_v0_deepseek_r1_tp8pp2_ray_h20",
        "deepseek-r1",
        "h20-141gb",
        8,
        2,
        why="the log shows one pipeline stage, the prediction is for the larger one",
    ),
    Case(
        "sglang_deepseek_r1_dp8_rocm_negative",
        "deepseek-r1",
        "mi300x",
        dtype="bf16",
        assumed="loaded in 16 bits, as the logged size shows",
    ),
    Case(
        "vllm020_qwen36_35b_a3b_nvfp4_tp1_doubletime",
        "qwen3_5_moe/Qwen3.6-35B-A3B.json",
        "rtx-5090",
        dtype="nvfp4",
        why="the 16-bit configuration is modelled as NVFP4; it is unknown which parts stayed in 16 "
        "bits",
    ),
    Case(
        "sglang_qwen3omni30b_tp4",
        "qwen3-30b-a3b",
        "h100",
        4,
        assumed="an H100, and Qwen3-30B-A3B for Qwen3-Omni's language model, without its encoders",
    ),
    Case(
        "vllm0251_qwen27b_fp8_tp2_rtx3090_p2p",
        why="the log names neither the checkpoint, the memory utilization nor the cache dtype; "
        "18.6 KiB per token is near an fp8 cache of Qwen3.5-27B (16.3) plus its MTP layer",
    ),
    Case(
        "sglang_gemma3_tp0_2025_03",
        why="the configuration of Gemma 3 4B is not available",
    ),
    Case("vllm09_qwen25vl7b_awq_negative_kv", why="another process used the memory"),
    Case(
        "vllm_gguf_qwen35_blocks_override_0",
        why="the log names neither the model's size nor the GPU",
    ),
    Case("vllm_v100x4_tp4_journald_russian", why="the log does not name the model"),
    Case("vllm_omni_process_scoped", why="the log does not name the model"),
    Case(
        "vllm063_tp4_max_len_error",
        why="the log does not name the GPU; 3.77 GiB of weights per GPU fit Llama 3.1 8B (3.74)",
    ),
    Case(
        "vllm_fp8kv_kv_needed",
        why="the log names neither model nor GPU; 48 KiB per token fit an fp8 cache of "
        "Qwen3-30B-A3B",
    ),
)


def main() -> None:
    print("\n".join(_page()))


def _page() -> Iterator[str]:
    yield "# Start-up logs and predictions"
    yield ""
    yield "This page compares start-up logs that people posted with predictions for the logged"
    yield "flags. `python benchmarks/startup_logs.py` writes it. `shardwise doctor --from LOG"
    yield "--model MODEL` does the same for your log. Sizes are per GPU, logged / predicted. The"
    yield "target is an error of 3 % for weights and 10 % for KV tokens; larger errors are in bold."
    yield ""
    yield "| log | weights, GiB | | KV cache, GiB | | KV tokens | | remark |"
    yield "|---|---:|---:|---:|---:|---:|---:|---|"
    for case in CASES:
        if case.model:
            yield from _rows(case)
    yield ""
    yield "Parsed, but not predicted:"
    yield ""
    for case in CASES:
        if not case.model:
            yield f"- `{case.log}`: {case.why}"


def _rows(case: Case) -> Iterator[str]:
    path = CONFIGS / case.model
    model = str(path) if path.exists() else case.model
    found = compare(
        read((LOGS / f"{case.log}.txt").read_text("utf-8")).startups,
        model,
        case.gpu,
        tp_size=case.tp_size,
        pp_size=case.pp_size,
        weight_dtype=case.dtype,
        version=case.version,
    )
    for comparison in found:
        yield _row(case, comparison)


def _row(case: Case, found: Comparison) -> str:
    by_name = {q.name: q for q in found.quantities}
    cells = [
        part for name in ("weights", "KV cache", "KV tokens") for part in _cells(by_name, name)
    ]
    off = not all(q.holds for q in found.quantities)
    engine = found.start.split(",", maxsplit=1)[0]
    remark = "; ".join(filter(None, (case.assumed, case.why if off else "")))
    return f"| `{case.log}` ({engine}) | {' | '.join(cells)} | {remark} |"


def _cells(by_name: dict[str, Quantity], name: str) -> tuple[str, str]:
    """Logged and predicted, and the error."""
    if name not in by_name:
        return "–", ""
    q = by_name[name]
    places = 0 if q.unit == "tokens" else 2
    error = f"{q.error_pct:+.1f} %"
    return (
        f"{q.logged:,.{places}f} / {q.predicted:,.{places}f}",
        error if q.holds else f"**{error}**",
    )


if __name__ == "__main__":
    main()
