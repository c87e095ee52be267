"""How fast an hour of traffic is simulated: 8 TP=1 replicas of a 70B model, 72,000 requests.

Twenty requests/s of 1,000 input and 500 output tokens for 3,600 s. What counts as one step for an
engine is one entry of a quadratic here: nothing happens inside most steps, so they are summed.
Simulated tokens per second is output tokens over CPU time of one core, compilation apart. The same
hour with half and double the output tokens shows how cost grows; quarters of an hour in which
prompts share beginnings, and conversations, show it with prefix caching at work, and that it is
linear in requests. python benchmarks/traffic.py [--vidur /path/to/venv/bin/python] [--write] With
`--vidur`, the Python of an environment that has Vidur (`pip install vidur==0.0.26`), both simulate
the first half minute of that traffic with the same step times, and their latencies stand beside
each other. Prints one JSON line last; `--write` keeps it in results/traffic.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.perfmodel.step import HOST_KNEE, PIECEWISE_SHARE
from shardwise.simulator.compiling import HAS_NUMBA
from shardwise.simulator.fleet import Group, make_group
from shardwise.simulator.scheduling import PLAIN
from shardwise.simulator.sessions import SessionTraffic, draw_sessions
from shardwise.simulator.simulate import simulate
from shardwise.simulator.trace import Trace
from shardwise.simulator.traffic import Lengths, Traffic, draw

RATE, HOUR_S = 20.0, 3600.0
PAIRED_S = 30.0
ROOT = Path(__file__).parents[1]
EIGHT = Deployment("llama-3.1-70b", "h200", Layout(replicas=8), dtypes=Dtypes("fp8"))


def pair(python: str, group: Group) -> dict[str, Any]:
    """The same requests through both simulators, behind round robin, with the same step times.

    Vidur starts a request when it arrives, so the time until a scheduler sees it is left out.
    """
    plain = replace(group, delay_s=0.0, tokenize_s=0.0, delay_steps=0.0, scheduling=PLAIN)
    trace = draw(Traffic(RATE, Lengths(1000), Lengths(500), PAIRED_S))
    started = time.process_time()
    ours = simulate([plain], trace, policy="round_robin")
    cpu_s = time.process_time() - started
    theirs = ask_vidur(python, plain, trace)
    tokens = len(trace) * 500
    found: dict[str, Any] = {
        "version": theirs["version"],
        "requests": len(trace),
        "output_tokens": tokens,
        "tok_per_s": {"shardwise": tokens / cpu_s, "vidur": tokens / theirs["cpu_s"]},
        "speedup": theirs["cpu_s"] / cpu_s,
    }
    for metric in ("ttft_s", "e2e_latency_s"):
        columns = {"shardwise": ours.latency(metric), "vidur": np.array(theirs[metric])}
        found[metric] = {
            tool: [float(np.percentile(values, at)) for at in (50, 99)]
            for tool, values in columns.items()
        }
    return found


def cached(group: Group) -> dict[str, Any]:
    """How fast it is with prefix caching at work: shared beginnings, and conversations."""
    found: dict[str, Any] = {}
    for hours in (0.25, 0.5, 1.0):
        span_s = hours * HOUR_S
        lengths = Lengths(500), Lengths(500)
        shared = Traffic(RATE, *lengths, span_s, prefixes=20, prefix_tokens=500)
        talk = SessionTraffic(2.0, 5, Lengths(300, 1.0), Lengths(400, 0.5), 20.0, span_s, 5, 800)
        for name, trace, policy in (
            ("shared prompts", draw(shared), "least_loaded"),
            ("sessions", draw_sessions(talk), "session_sticky"),
        ):
            started = time.process_time()
            result = simulate([group], trace, policy=policy)
            cpu_s = time.process_time() - started
            line = {
                "requests": len(trace),
                "cpu_s": round(cpu_s, 4),
                "us_per_request": round(1e6 * cpu_s / len(trace), 2),
                "simulated_tok_per_cpu_s": round(int(trace.osl.sum()) / cpu_s),
                "hit_rate": round(result.hit_rate(), 3),
            }
            found.setdefault(name, []).append(line)
            print(f"{name}: {line}")
    return found


def ask_vidur(python: str, group: Group, trace: Trace) -> dict[str, Any]:
    table = group.table
    job = {
        "arrival_s": trace.arrival_s.tolist(),
        "isl": trace.isl.tolist(),
        "osl": trace.osl.tolist(),
        "replicas": group.deployment.replicas,
        "decode_s": table.decode.tolist(),
        "prompt_s": table.prompt.tolist(),
        "beside_s": table.beside.tolist(),
        "reads": msgspec.to_builtins(table.reads, enc_hook=np.ndarray.tolist),
        "scores": msgspec.to_builtins(table.scores, enc_hook=np.ndarray.tolist),
        "launch": table.launch,
        "graph_tokens": table.graph_tokens,
        "piecewise_share": PIECEWISE_SHARE,
        "host_knee": HOST_KNEE,
        "max_num_seqs": group.max_num_seqs,
        "max_num_batched_tokens": group.max_num_batched_tokens,
        "kv_capacity_tokens": group.kv_capacity_tokens,
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(job), "utf-8")
        child = ROOT / "benchmarks" / "peers" / "ask_vidur.py"
        ended = subprocess.run(
            [python, str(child), str(asked), str(answer)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise SystemExit(f"vidur: {ended.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(answer.read_text("utf-8"))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--vidur", default="", help="a Python that has Vidur")
    parser.add_argument("--write", action="store_true", help="keep the line in results/")
    asked = parser.parse_args()
    started = time.perf_counter()
    group = make_group(EIGHT)
    simulate([group], draw(Traffic(RATE, Lengths(1000), Lengths(500), 10.0)))
    compile_s = time.perf_counter() - started
    seconds, cpu = {}, {}
    for osl in (250, 500, 1000):
        trace = draw(Traffic(RATE, Lengths(1000), Lengths(osl), HOUR_S))
        started, cpu_started = time.perf_counter(), time.process_time()
        result = simulate([group], trace)
        seconds[osl] = time.perf_counter() - started
        cpu[osl] = time.process_time() - cpu_started
        tokens = len(trace) * osl
        print(
            f"osl {osl:5d}: {len(trace)} requests in {cpu[osl]:.3f} s of a core, "
            f"{tokens / cpu[osl]:.3g} tokens/s simulated, "
            f"{int(result.loop.counts[3])} jumps, overloaded {result.overloaded}"
        )
        if osl == 500:
            line = {
                "benchmark": "traffic",
                "requests": len(trace),
                "output_tokens": tokens,
                "wall_s": round(seconds[osl], 4),
                "cpu_s": round(cpu[osl], 4),
                "simulated_tok_per_s": round(tokens / cpu[osl]),
                "compiled": HAS_NUMBA,
                "first_use_s": round(compile_s, 2),
                "tpot_p50_ms": round(1e3 * result.percentiles("tpot_s").values[50.0], 3),
                "ttft_p99_s": round(result.percentiles("ttft_s").values[99.0], 4),
            }
    line["prefix_caching"] = cached(group)
    line["wall_s_by_osl"] = {str(osl): round(s, 4) for osl, s in seconds.items()}
    if asked.vidur:
        found = line["paired_with_vidur"] = pair(asked.vidur, group)
        speeds = ", ".join(f"{k} {v:.3g}" for k, v in found["tok_per_s"].items())
        print(f"{found['requests']} requests in both, tokens/s simulated: {speeds}")
        for metric in ("ttft_s", "e2e_latency_s"):
            print(f"{metric} p50 and p99: {found[metric]}")
    line["machine"] = f"one core of {platform.processor() or platform.machine()}"
    if asked.write:
        (ROOT / "results" / "traffic.json").write_text(json.dumps(line, indent=1) + "\n", "utf-8")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
