"""The engine against transformers and against this machine's own ceilings.

    python benchmarks/engine.py [--threads N] [--rounds N] [--parts LIST] [--out FILE]

One run, one machine, one random Llama (248M parameters, fp32), the same threads for all. What it
teaches: decode at batch 1 reads every weight once a token, so bandwidth bounds it; prefill reuses
each weight for every token of the prompt, so the matrix rate does; TP divides both, and pays in
messages; and requests of mixed lengths waste a static batch on its shorter members. Rounds of the
contestants alternate, since other work on the machine drifts. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from shardwise.engine import ceilings, sharding
from shardwise.engine.engine import Engine
from shardwise.engine.options import EngineOptions
from shardwise.engine.ranks import AllReduce
from shardwise.engine.scheduler import SamplingParams

# its annotations hold no Mapping of settings, so it is taken as it comes
transformers: Any = importlib.import_module("transformers")

SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
ISL, OSL = 128, 64


@dataclass(frozen=True)
class Arrival:
    """One request of the mixed load."""

    at_s: float
    prompt: list[int]
    osl: int


def write_model(path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE, eos_token_id=None)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)


def prompts(batch: int, isl: int) -> list[list[int]]:
    draw = random.Random(1)
    return [[draw.randrange(SHAPE["vocab_size"]) for _ in range(isl)] for _ in range(batch)]


def engine(path: Path, tp_size: int, threads: int, all_reduce: AllReduce = "auto") -> Engine:
    return Engine(
        path,
        EngineOptions(
            tp_size=tp_size,
            device="cpu",
            dtype="fp32",
            all_reduce=all_reduce,
            threads_per_rank=threads,
            kv_cache_tokens=16384,
            max_num_seqs=32,
        ),
    )


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def hf_generate(model: Any, batch: list[list[int]], osl: int) -> None:
    """Left-padded to the longest, as generate needs."""
    longest = max(map(len, batch))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in batch])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch])
    model.generate(
        ids, attention_mask=mask, max_new_tokens=osl, min_new_tokens=osl, do_sample=False
    )


def static_batches(path: Path, model: Any, threads: int, rounds: int) -> dict[str, Any]:
    """Output tokens/s of one batch of equal requests, engine and transformers in turn."""
    found = {}
    params = SamplingParams(max_tokens=OSL, ignore_eos=True)
    with engine(path, 1, threads) as ours:
        for batch in (1, 16):
            ids = prompts(batch, ISL)
            mine, theirs = [], []
            for _ in range(rounds):
                mine.append(batch * OSL / timed(partial(ours.generate, ids, params)))
                theirs.append(batch * OSL / timed(partial(hf_generate, model, ids, OSL)))
            found[f"batch_{batch}"] = compare(mine, theirs)
    return found


def compare(mine: list[float], theirs: list[float]) -> dict[str, Any]:
    a, b = statistics.median(mine), statistics.median(theirs)
    return {
        "engine_tok_s": round(a, 2),
        "transformers_tok_s": round(b, 2),
        "ratio": round(a / b, 2),
        "engine_range": [round(min(mine), 2), round(max(mine), 2)],
        "transformers_range": [round(min(theirs), 2), round(max(theirs), 2)],
        "n": len(mine),
    }


def mixed_load(spread_s: float) -> list[Arrival]:
    """32 requests of 16 to 256 input and 8 to 128 output tokens, arriving over `spread_s`."""
    draw = random.Random(2)
    times = sorted(draw.uniform(0, spread_s) for _ in range(32))
    return [Arrival(at, prompts(1, draw.randint(16, 256))[0], draw.randint(8, 128)) for at in times]


def engine_arrivals(ours: Engine, load: list[Arrival]) -> float:
    """Output tokens/s while requests join the running batch as they come."""
    waiting, start = list(load), time.perf_counter()
    while waiting or ours.has_work:
        now = time.perf_counter() - start
        while waiting and waiting[0].at_s <= now:
            request = waiting.pop(0)
            params = SamplingParams(max_tokens=request.osl, ignore_eos=True)
            ours.add(str(len(waiting)), request.prompt, params)
        if not ours.step() and not ours.has_work and waiting:
            time.sleep(max(0.0, waiting[0].at_s - (time.perf_counter() - start)))
    return sum(r.osl for r in load) / (time.perf_counter() - start)


def hf_arrivals(model: Any, load: list[Arrival]) -> float:
    """Output tokens/s when each batch is what has arrived, and runs until its longest ends."""
    waiting, start = list(load), time.perf_counter()
    while waiting:
        now = time.perf_counter() - start
        batch = [r for r in waiting if r.at_s <= now][:32]
        if not batch:
            time.sleep(waiting[0].at_s - now)
            continue
        waiting = waiting[len(batch) :]
        hf_generate(model, [r.prompt for r in batch], max(r.osl for r in batch))
    return sum(r.osl for r in load) / (time.perf_counter() - start)


def arrivals(path: Path, model: Any, threads: int, rounds: int) -> dict[str, Any]:
    load = mixed_load(spread_s=10.0)
    mine, theirs = [], []
    with engine(path, 1, threads) as ours:
        for _ in range(rounds):
            mine.append(engine_arrivals(ours, load))
            theirs.append(hf_arrivals(model, load))
    return compare(mine, theirs)


def shares(path: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Decode at batch 1 as a share of copy bandwidth, prefill of 512 tokens of the matrix rate."""
    with engine(path, 1, threads) as ours:
        best = ceilings.measure(torch.float32, torch.device("cpu"))
        decode_s, prefill_s = step_times(ours, 512, rounds)
        config = ours.config
        matrices = (
            sum(w.shape[0] * w.shape[1] for w in sharding.weights(config) if len(w.shape) == 2)
            - config.vocab_size * config.hidden_size
        )  # the embedding is looked up, not multiplied
        context = 512 + 16
        read = 4 * (matrices + context * sharding.kv_elements_per_token(config, 1))
        head = config.vocab_size * config.hidden_size
        attention = 2 * 512**2 * config.num_heads * config.head_dim * config.num_layers
        flops = 2 * 512 * (matrices - head) + 2 * head + attention  # causal: half of 4 T^2 d
    return {
        "copy_gb_s": round(best.copy_bytes_per_s / 1e9, 1),
        "matrix_gflops": round(best.matrix_flops / 1e9),
        "decode_ms": round(decode_s * 1e3, 2),
        "decode_gb_s": round(read / decode_s / 1e9, 1),
        "decode_share_of_copy": round(read / decode_s / best.copy_bytes_per_s, 3),
        "prefill_512_ms": round(prefill_s * 1e3, 1),
        "prefill_gflops": round(flops / prefill_s / 1e9),
        "prefill_share_of_matrix": round(flops / prefill_s / best.matrix_flops, 3),
        "n": rounds,
    }


def step_times(ours: Engine, isl: int, rounds: int) -> tuple[float, float]:
    """Medians of a decode step and of a whole prefill of `isl` tokens, batch 1, in seconds."""
    decodes, prefills = [], []
    for _ in range(rounds):
        ours.add("x", prompts(1, isl)[0], SamplingParams(max_tokens=33, ignore_eos=True))
        prefills.append(timed(ours.step))
        while ours.has_work:
            decodes.append(timed(ours.step))
    return statistics.median(decodes), statistics.median(prefills)


def tensor_parallel(path: Path, rounds: int) -> dict[str, Any]:
    """Step times of TP=2 on one core a rank against TP=1 on one core and on both."""
    cases: dict[str, tuple[int, int, AllReduce]] = {
        "tp1_one_core": (1, 1, "auto"),
        "tp1_two_cores": (1, 2, "auto"),
        "tp2_gloo": (2, 1, "torch"),
        "tp2_shared_memory": (2, 1, "shared_memory"),
    }
    found: dict[str, Any] = {}
    for name, (tp_size, threads, all_reduce) in cases.items():
        with engine(path, tp_size, threads, all_reduce) as ours:
            step_times(ours, 512, 1)
            decode_s, prefill_s = step_times(ours, 512, rounds)
        found[name] = {
            "decode_ms": round(decode_s * 1e3, 2),
            "prefill_512_ms": round(prefill_s * 1e3, 1),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--parts", default="shares,static,arrivals,tp", help="which of these, comma-separated"
    )
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {
        "model": SHAPE,
        "dtype": "fp32",
        "threads": options.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "load_before": os.getloadavg(),
        "date": time.strftime("%Y-%m-%d"),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_model(path)
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        threads, rounds = options.threads, options.rounds
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "shares": lambda: shares(path, threads, rounds),
            "static": lambda: static_batches(path, model, threads, rounds),
            "arrivals": lambda: arrivals(path, model, threads, rounds),
            "tp": lambda: tensor_parallel(path, rounds),
        }
        for name in options.parts.split(","):
            result[name] = report(name, parts[name]())
    result["load_after"] = os.getloadavg()
    line = json.dumps(result)
    if options.out:
        options.out.write_text(line + "\n")
    print(line)


def report(title: str, found: dict[str, Any]) -> dict[str, Any]:
    print(f"{title}:", file=sys.stderr)
    for name, value in found.items():
        print(f"  {name}: {value}", file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
