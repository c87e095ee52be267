"""How fast an hour of traffic is simulated: 8 TP=1 replicas of a 70B model, 72,000 requests.

Twenty requests/s of 1,000 input and 500 output tokens for 3,600 s. What counts as one step for an
engine is one entry of a quadratic here: nothing happens inside most steps, so they are summed.
Simulated tokens per second is output tokens over wall time, compilation apart. The same hour with
half and double the output tokens shows how cost grows. Prints one JSON line last.
"""

from __future__ import annotations

import json
import time

from shardwise.evidence.record import Deployment
from shardwise.simulator.compiling import HAS_NUMBA
from shardwise.simulator.fleet import make_group
from shardwise.simulator.simulate import simulate
from shardwise.simulator.traffic import Lengths, Traffic, draw

RATE, HOUR_S = 20.0, 3600.0
EIGHT = Deployment("llama-3.1-70b", "h200", 1, replicas=8)


def main() -> None:
    started = time.perf_counter()
    group = make_group(EIGHT)
    simulate([group], draw(Traffic(RATE, Lengths(1000), Lengths(500), 10.0)))
    compile_s = time.perf_counter() - started
    seconds = {}
    for osl in (250, 500, 1000):
        trace = draw(Traffic(RATE, Lengths(1000), Lengths(osl), HOUR_S))
        started = time.perf_counter()
        result = simulate([group], trace)
        seconds[osl] = time.perf_counter() - started
        tokens = len(trace) * osl
        print(
            f"osl {osl:5d}: {len(trace)} requests in {seconds[osl]:.3f} s, "
            f"{tokens / seconds[osl]:.3g} tokens/s simulated, "
            f"{int(result.loop.counts[3])} jumps, overloaded {result.overloaded}"
        )
        if osl == 500:
            line = {
                "benchmark": "traffic",
                "requests": len(trace),
                "output_tokens": tokens,
                "wall_s": round(seconds[osl], 4),
                "simulated_tok_per_s": round(tokens / seconds[osl]),
                "compiled": HAS_NUMBA,
                "first_use_s": round(compile_s, 2),
                "tpot_p50_ms": round(1e3 * result.percentiles("tpot_s").values[50.0], 3),
                "ttft_p99_s": round(result.percentiles("ttft_s").values[99.0], 4),
            }
    line["wall_s_by_osl"] = {str(osl): round(s, 4) for osl, s in seconds.items()}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
