"""The built-in engine on one NVIDIA GPU, and that GPU against the kernel tables of the package.

    python benchmarks/engine_cuda.py [--parts decode,kernels] [--rounds N] [--out FILE]
    python benchmarks/engine_cuda.py --page results/engine_cuda.json > docs/engine-on-gpu.md

Decode: steps of a random Llama 3.1 8B in bf16 through CUDA graphs, the same steps launched kernel
by kernel, and transformers' decode with its own cache, in alternating rounds; beside them, the
time in which the GPU's measured bandwidth reads the weights and the KV cache once.

Kernels: dense products of Llama 8B and 70B at TP 1 to 8 and causal prefill attention, timed here
with torch's own kernels (cuBLAS, flash attention) and compared with what the package predicts for
vLLM on this GPU. Weights rotate over more memory than the L2 cache holds, inside one CUDA graph, so
neither the cache nor the launch is measured. Nothing is fitted to these times.

Takes about 3 minutes on an H100. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from shardwise import __version__, kernels
from shardwise.engine import peak_rates
from shardwise.engine.decode_graphs import record_cuda
from shardwise.engine.engine import Engine
from shardwise.engine.options import EngineOptions
from shardwise.engine.step_timer import decode_plan
from shardwise.hardware.catalogue import default_catalogue

CONTEXT: Final = 512
BATCHES: Final = (1, 4, 16, 64)
ROWS: Final = (1, 8, 32, 64, 128, 256, 512, 2048, 8192)
#: (outputs, inputs) of qkv, output, gate and up, and down, per rank
LLAMA_8B: Final = {
    f"8B TP={tp}": (
        (6144 // tp, 4096),
        (4096, 4096 // tp),
        (28672 // tp, 4096),
        (4096, 14336 // tp),
    )
    for tp in (1, 2, 4)
}
LLAMA_70B: Final = {
    f"70B TP={tp}": (
        (10240 // tp, 8192),
        (8192, 8192 // tp),
        (57344 // tp, 8192),
        (8192, 28672 // tp),
    )
    for tp in (2, 4, 8)
}
PROMPTS: Final = ((1, 512), (1, 2048), (1, 8192), (8, 1024), (4, 4096))
COLD_BYTES: Final = 256 * 2**20


def event_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of `work` on the GPU, after two warm-up calls."""
    times = []
    for i in range(repeats + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if i >= 2:
            times.append(start.elapsed_time(end) / 1e3)
    return float(statistics.median(times))


def in_graph(calls: list[Callable[[], torch.Tensor]], repeats: int = 10) -> float:
    """Median seconds of one of `calls`, all of them captured in one graph as the engine does."""

    def work() -> torch.Tensor:
        return [call() for call in calls][-1]

    return event_seconds(record_cuda(work), repeats) / len(calls)


def decode(rounds: int) -> list[dict[str, Any]]:
    """Seconds of one decode step: graphs, kernel by kernel, transformers, and the memory bound."""
    import transformers

    folder = Path(tempfile.mkdtemp())
    try:
        config = _config(folder)
        blocks = max(BATCHES) * (CONTEXT // 16 + 1)
        options = EngineOptions(
            device="cuda", dtype="bf16", random_weights=True, kv_cache_tokens=blocks * 16
        )
        with Engine(folder, options) as engine, torch.inference_mode():
            rank = engine.group.local
            with torch.device("cuda"):
                peer = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
            bandwidth = max(
                peak_rates.copy_rate(rank.device, 5), peak_rates.read_rate(rank.device, 5)
            )
            weights = 2.0 * sum(p.numel() for p in peer.parameters())
            weights -= 2.0 * config.vocab_size * config.hidden_size  # the embedding is looked up
            found = []
            for batch in BATCHES:
                plan = decode_plan(batch, CONTEXT, 16)
                hf = _peer_step(peer, batch)
                times: dict[str, list[float]] = {"graph": [], "eager": [], "transformers": []}
                for _ in range(rounds):
                    times["graph"].append(wall(partial(rank.forward, plan)))
                    times["eager"].append(wall(partial(rank.call_by_call, plan)))
                    times["transformers"].append(wall(hf))
                graph, eager = rank.forward(plan), rank.call_by_call(plan)
                assert graph is not None
                assert eager is not None
                kv = batch * CONTEXT * 4.0 * config.num_key_value_heads * 128
                kv *= config.num_hidden_layers
                found.append(
                    {
                        "batch": batch,
                        "memory_bound_s": (weights + kv) / bandwidth,
                        **{f"{name}_s": statistics.median(of) for name, of in times.items()},
                        "same_argmax": int((graph.argmax(-1) == eager.argmax(-1)).sum()),
                    }
                )
        return found
    finally:
        shutil.rmtree(folder)


def _config(folder: Path) -> Any:
    """Write a config.json of Llama 3.1 8B's shape, and return it."""
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, max_position_embeddings=8192, rope_theta=5e5,
        dtype="bfloat16", tie_word_embeddings=False,
    )  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    return config


def _peer_step(peer: Any, batch: int) -> Callable[[], object]:
    """Return a decode step of transformers over a cache of CONTEXT tokens."""
    tokens = torch.ones(batch, CONTEXT - 1, dtype=torch.int64, device="cuda")
    cache = peer(tokens, use_cache=True, logits_to_keep=1).past_key_values
    one = tokens[:, :1]

    def step() -> None:
        peer(one, past_key_values=cache, use_cache=True)
        cache.crop(CONTEXT - 1)

    return step


def wall(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall seconds of `work`, waited for, after a warm-up."""
    return statistics.median(peak_rates.seconds(work, torch.device("cuda"), repeats))


def products() -> Iterator[dict[str, Any]]:
    """Yield each dense product's seconds here and as predicted."""
    gpu = default_catalogue().gpu(gpu_id())
    for label, shapes in (LLAMA_8B | LLAMA_70B).items():
        for n, k in shapes:
            for dtype in ("bf16", "fp8"):
                for m in ROWS:
                    here = _product_seconds(dtype, m, n, k)
                    told = kernels.gemm(gpu, "vllm", dtype, m=m, n=n, k=k)
                    yield {
                        "kind": "gemm", "of": label, "dtype": dtype, "m": m, "n": n, "k": k,
                        "here_s": here, "table_s": float(told.seconds),
                    }  # fmt: skip


def _product_seconds(dtype: str, m: int, n: int, k: int) -> float:
    size = 2 if dtype == "bf16" else 1
    copies = min(64, max(2, math.ceil(COLD_BYTES / (n * k * size + m * (k * size + 2 * n)))))
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    weights = [
        torch.randn(n, k, device="cuda", dtype=torch.bfloat16) / k**0.5 for _ in range(copies)
    ]
    if dtype == "bf16":
        return in_graph([partial(torch.nn.functional.linear, x, w) for w in weights])
    low = torch.float8_e4m3fn
    x8, one = x.to(low), torch.ones((), device="cuda")
    if m % 16:  # torch's fp8 product takes rows in multiples of 16
        x8 = torch.zeros(math.ceil(m / 16) * 16, k, device="cuda").to(low)
    options = {"scale_a": one, "scale_b": one, "out_dtype": torch.bfloat16, "use_fast_accum": True}
    return in_graph([partial(torch._scaled_mm, x8, w.to(low).t(), **options) for w in weights])


def prompts() -> Iterator[dict[str, Any]]:
    """Yield causal prefill attention of Llama 8B's heads, here and as predicted."""
    gpu = default_catalogue().gpu(gpu_id())
    for batch, isl in PROMPTS:
        q = torch.randn(batch, 32, isl, 128, device="cuda", dtype=torch.bfloat16)
        k, v = (torch.randn(batch, 8, isl, 128, device="cuda", dtype=torch.bfloat16) for _ in "kv")

        attend = partial(
            torch.nn.functional.scaled_dot_product_attention,
            q,
            k,
            v,
            is_causal=True,
            enable_gqa=True,
        )
        told = kernels.attention_prefill(gpu, "vllm", batch, isl, 32, 8, 128)
        yield {
            "kind": "attention_prefill", "batch": batch, "isl": isl,
            "here_s": in_graph([attend] * 4), "table_s": float(told.seconds),
        }  # fmt: skip


def gpu_id() -> str:
    """The catalogue's id of this GPU."""
    name = torch.cuda.get_device_name(0)
    ids = {"H100 80GB HBM3": "h100", "H200": "h200"}
    for part, known in ids.items():
        if part in name:
            return known
    raise SystemExit(f"engine_cuda.py: no kernel tables are compared on {name}; add its id")


def software() -> dict[str, str]:
    """Versions of what was measured."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    return {
        "shardwise": __version__, "torch": torch.__version__, "cuda": torch.version.cuda or "",
        "transformers": metadata.version("transformers"), "driver": driver,
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median of predicted over measured, by kind, dtype and rows of the step."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        name = row["kind"]
        if name == "gemm":
            size = "1 to 64" if row["m"] <= 64 else "128 to 512" if row["m"] <= 512 else "more"
            name += f" {row['dtype']}, {size} rows"
        groups.setdefault(name, []).append(row["table_s"] / row["here_s"])
    return {
        name: {
            "n": len(of),
            "median_ratio": statistics.median(of),
            "within_10_percent": sum(abs(math.log(r)) < math.log(1.1) for r in of) / len(of),
            "lowest": min(of),
            "highest": max(of),
        }
        for name, of in groups.items()
    }


PAGE: Final = """# On a real GPU

`python benchmarks/engine_cuda.py` measured this on one {gpu} ({date}; torch {torch}, CUDA {cuda},
driver {driver}, transformers {transformers}). `results/engine_cuda.json` has every row,
`results/gpu_checks_h100.json` the other checks on that machine. Nothing is fitted to them.

## Decode steps of the built-in engine

A step of a random Llama 3.1 8B in bf16 at {context} tokens of context, in ms (medians of
alternating rounds). The memory bound is the time in which the measured bandwidth reads the weights
and the KV cache once.

| batch | memory bound | CUDA graph | kernel by kernel | transformers |
| ---: | ---: | ---: | ---: | ---: |
{steps}

The server replays decode steps of dense models at TP=1 as CUDA graphs. Replays give the tokens of
plain calls (`tests/engine/test_cuda.py`). Attention copies the KV cache of a batch before it reads
it, which is most of the growth with the batch.

## Kernel tables

Predicted by the package's tables for vLLM on this GPU, divided by what torch's own kernels (cuBLAS,
flash attention) took here. Shapes are those of Llama 8B and 70B at TP 1 to 8.

| kernel | n | median ratio | lowest | highest | within 10 % |
| --- | ---: | ---: | ---: | ---: | ---: |
{kernels}

bf16 products agree. fp8 products are slower in the tables than cuBLAS is with one scale per tensor:
the tables' calls quantize the activations too, and SGLang's take a scale per token. vLLM's own
kernels with their quantization take as long as in the tables ([a step, kernel by
kernel](step-by-kernel.md)).
"""


def page(found: dict[str, Any]) -> str:
    """The page of a result, in Markdown."""
    steps = [
        f"| {step['batch']} | "
        + " | ".join(
            f"{1e3 * step[name]:.1f}"
            for name in ("memory_bound_s", "graph_s", "eager_s", "transformers_s")
        )
        + " |"
        for step in found["decode"]
    ]
    kernel_lines = [
        f"| {name.replace('_', ' ')} | {of['n']} | {of['median_ratio']:.2f} | {of['lowest']:.2f} | "
        f"{of['highest']:.2f} | {100 * of['within_10_percent']:.0f} % |"
        for name, of in found["kernels"]["summary"].items()
    ]
    return PAGE.format(
        gpu=found["gpu"],
        date=found["date"],
        context=CONTEXT,
        steps="\n".join(steps),
        kernels="\n".join(kernel_lines),
        **{name: found["software"][name] for name in ("torch", "cuda", "driver", "transformers")},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="decode,kernels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path, help="print the page of this result")
    asked = parser.parse_args()
    if asked.page:
        print(page(json.loads(asked.page.read_text())), end="")
        return
    start = time.perf_counter()
    found: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(0), "software": software(),
        "date": date.today().isoformat(),
    }  # fmt: skip
    if "decode" in asked.parts:
        found["decode"] = decode(asked.rounds)
        for step in found["decode"]:
            print(
                {name: round(v * 1e3, 2) if name.endswith("_s") else v for name, v in step.items()}
            )
    if "kernels" in asked.parts:
        rows = [*prompts(), *products()]
        found["kernels"] = {"summary": summary(rows), "rows": rows}
        for name, of in found["kernels"]["summary"].items():
            print(name, {key: round(value, 2) for key, value in of.items()})
    found["seconds"] = round(time.perf_counter() - start, 1)
    line = json.dumps(found)
    print(line if not asked.out else f"wrote {asked.out}")
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
