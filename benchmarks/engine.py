"""The engine against transformers and against this machine's own peak_rates.

    python benchmarks/engine.py [--threads N] [--rounds N] [--parts LIST] [--vllm PYTHON] [--out F]

One run, one machine, one random Llama (248M parameters, fp32), the same threads for all. What it
teaches: decode at batch 1 reads every weight once a token, so bandwidth bounds it; prefill reuses
each weight for every token of the prompt, so the matrix rate does; TP divides both, and pays in
messages; and requests of mixed lengths waste a static batch on its shorter members. Rounds of the
contestants alternate, since other work on the machine drifts; vLLM, in its own Python, runs its
rounds at a stretch. Takes 5 to 8 minutes on 2 cores, and wants them to itself. Prints a table,
then one JSON line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from shardwise.engine import peak_rates, sharding
from shardwise.engine.engine import Engine
from shardwise.engine.options import EngineOptions
from shardwise.engine.rank import AllReduce
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


class Arrival(msgspec.Struct, frozen=True):
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


def compare(mine: list[float], theirs: list[float], who: str = "transformers") -> dict[str, Any]:
    a, b = statistics.median(mine), statistics.median(theirs)
    return {
        "engine_tok_s": round(a, 2),
        f"{who}_tok_s": round(b, 2),
        "ratio": round(a / b, 2),
        "engine_range": [round(min(mine), 2), round(max(mine), 2)],
        f"{who}_range": [round(min(theirs), 2), round(max(theirs), 2)],
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
        best = peak_rates.measure(torch.float32, torch.device("cpu"))
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
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (tp_size, threads, all_reduce) in cases.items():
            with engine(path, tp_size, threads, all_reduce) as ours:
                step_times(ours, 512, 1)
                times[name].append(step_times(ours, 512, 1))
    found: dict[str, Any] = {"n": rounds}
    for name, each in times.items():
        decodes, prefills = [[1e3 * t[part] for t in each] for part in (0, 1)]
        found[name] = {
            "decode_ms": round(statistics.median(decodes), 2),
            "decode_range_ms": [round(min(decodes), 2), round(max(decodes), 2)],
            "prefill_512_ms": round(statistics.median(prefills), 1),
            "prefill_range_ms": [round(min(prefills), 1), round(max(prefills), 1)],
        }
    for what, other in (
        ("over_tp1_one_core", "tp1_one_core"),
        ("over_tp1_two_cores", "tp1_two_cores"),
        ("of_shared_memory_over_gloo", "tp2_gloo"),
    ):
        found[f"speedup_{what}"] = {
            part: round(found[other][part] / found["tp2_shared_memory"][part], 2)
            for part in ("decode_ms", "prefill_512_ms")
        }
    return found


def against_vllm(
    path: Path, python: Path, threads: int, rounds: int, eager: bool
) -> dict[str, Any]:
    """Output tokens/s of the same static batches, the engine's rounds after vLLM's."""
    sizes = (1, 16)
    batches = path / "batches.json"
    batches.write_text(json.dumps([prompts(size, ISL) for size in sizes]))
    command = [python, Path(__file__).with_name("engine_vllm.py"), path, "--prompts", batches]
    command += ["--threads", str(threads), "--rounds", str(rounds), "--osl", str(OSL)]
    # the engine's own settings of OpenMP and of import paths are not vLLM's
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    done = subprocess.run(
        [*map(str, command), *(["--eager"] if eager else [])],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=kept,
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    found = {"vllm": theirs["version"], "eager": theirs["eager"]}
    params = SamplingParams(max_tokens=OSL, ignore_eos=True)
    with engine(path, 1, threads) as ours:
        for size in sizes:
            work = partial(ours.generate, prompts(size, ISL), params)
            work()
            mine = [size * OSL / timed(work) for _ in range(rounds)]
            found[f"batch_{size}"] = compare(mine, theirs["tok_s"][str(size)], "vllm")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--parts", default="shares,static,arrivals,tp", help="which of these, comma-separated"
    )
    parser.add_argument("--vllm", type=Path, help="a Python with vLLM: its static batches as well")
    parser.add_argument("--vllm-eager", action="store_true", help="vLLM without compilation")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    start = time.perf_counter()
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
        chosen = [name for name in options.parts.split(",") if name]
        if unknown := sorted(set(chosen) - set(parts)):
            parser.error(f"--parts has {', '.join(unknown)}; allowed: {', '.join(parts)}")
        if options.rounds < 3:
            print("fewer than 3 rounds: a trial, not a comparison", file=sys.stderr)
        for name in chosen:
            result[name] = report(name, parts[name]())
        if options.vllm:
            result["vllm"] = report(
                "vllm", against_vllm(path, options.vllm, threads, rounds, options.vllm_eager)
            )
    result["seconds"] = round(time.perf_counter() - start, 1)
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
