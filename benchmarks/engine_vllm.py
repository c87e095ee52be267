"""The vLLM side of benchmarks/engine.py, run by the Python that has vLLM: static batches.

    python benchmarks/engine_vllm.py MODEL --threads N --rounds N --prompts FILE [--eager]

Prints one JSON line: output tokens/s of each round by batch size.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--osl", type=int, required=True)
    parser.add_argument("--prompts", type=Path, required=True, help="JSON: a list of batches")
    parser.add_argument("--eager", action="store_true", help="without compilation")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    vllm: Any = importlib.import_module("vllm")
    llm = vllm.LLM(
        model=options.model,
        dtype="float32",
        skip_tokenizer_init=True,
        max_model_len=1024,
        max_num_seqs=32,
        enforce_eager=options.eager,
        disable_log_stats=True,
    )
    params = vllm.SamplingParams(
        max_tokens=options.osl, ignore_eos=True, temperature=0.0, detokenize=False
    )
    found: dict[str, list[float]] = {}
    for batch in json.loads(options.prompts.read_text()):
        asked = [{"prompt_token_ids": ids} for ids in batch]
        llm.generate(asked, params, use_tqdm=False)
        rates = []
        for _ in range(options.rounds):
            start = time.perf_counter()
            made = llm.generate(asked, params, use_tqdm=False)
            seconds = time.perf_counter() - start
            rates.append(sum(len(out.outputs[0].token_ids) for out in made) / seconds)
        found[str(len(batch))] = rates
    print(json.dumps({"version": vllm.__version__, "eager": options.eager, "tok_s": found}))


if __name__ == "__main__":
    main()
