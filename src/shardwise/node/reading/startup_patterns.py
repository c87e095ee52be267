"""Patterns of the lines that vLLM and SGLang log while they start.

Patterns match a whole text with any blanks between words, so wrapped lines match too. Both engines
print "GB" and mean GiB (they divide by 2**30).
"""

from __future__ import annotations

import re
from typing import Final

NUMBER: Final = r"-?\d[\d,]*(?:\.\d+)?"
_SIZE: Final = rf"({NUMBER})\s*([KMGT]i?B|B)\b"
UNITS: Final = {"B": 0, "K": 10, "M": 20, "G": 30, "T": 40}
#: Anything within one log record, which may be wrapped: none of its further lines starts a record.
_GAP: Final = r"(?:(?!\n\s*(?:[\[(]|\d{4}-))[\s\S]){0,300}?"

_RESULTS: Final = "Memory profiling results:GAP"  #: vLLM 0.6: all of it as key=value


def _words(pattern: str) -> re.Pattern[str]:
    """Compile a pattern. A blank matches any run of blanks and line ends; @ is a size, # a number,
    HASH the character itself, and GAP anything up to the next record.
    """
    spelled = pattern.replace("@", _SIZE).replace("#", f"({NUMBER})").replace("HASH", "[#]")
    return re.compile(spelled.replace(" ", r"\s+").replace("GAP", _GAP), re.IGNORECASE)


VLLM: Final = {
    "weights": _words(r"(?:Loading model weights|Model loading) took @"),
    "weights_table": _words(r"(?:model weights takes?|[;,] weights memory:) @"),
    "non_torch": _words(
        rf"(?:non_torch_memory(?: takes)? |non-torch forward increase memory: "
        rf"|{_RESULTS}non_torch_memory=)@"
    ),
    "activation": _words(
        r"(?:PyTorch activation peak memory(?: takes)?|torch peak memory increase:) @"
    ),
    "total": _words(rf"(?:total_gpu_memory(?: \(| )|{_RESULTS}total_gpu_memory=)@"),
    "utilization": _words(
        rf"(?:(?<![-`])gpu_memory_utilization(?: \(| )|{_RESULTS}gpu_memory_utilization=)#"
    ),
    "capacity": _words(r"has a total capacity of @"),
    "usable": _words(r"the current vLLM instance can use (?:total_gpu_memory[^=]*=\s*)?@"),
    "kv": _words(
        r"(?:Available KV cache memory: |available_kv_cache_memory "
        rf"|the rest of the memory reserved for KV Cache is |{_RESULTS}kv_cache_size=)@"
    ),
    "tokens": _words(r"GPU KV cache size: # tokens"),
    "blocks": _words(r"HASH (?:GPU|CUDA|ROCM|XPU|HPU) blocks: #"),
    "override": _words(r"Overriding num_gpu_blocks=# with num_gpu_blocks_override=#"),
    "concurrency": _words(r"Maximum concurrency for # tokens per request: #x"),
    "graphs": _words(r"Graph capturing finished in # secs?, took @"),
    "graphs_estimate": _words(r"Estimated CUDA graph memory: @"),
    "graphs_deducted": _words(r"CUDA graph memory profiling is enabled"),
    "graphs_not_deducted": _words(
        r"CUDA graph memory profiling (?:is disabled|will be enabled by default)"
    ),
    "equivalent": _words(
        r"(?:current --gpu-memory-utilization=# is equivalent to --gpu-memory-utilization=#"
        r"|increas(?:e|ing) --gpu-memory-utilization from # to #)"
    ),
    "max_len": _words(r"Using max model len #"),
    "world": _words(r"world_size=#[,\s].{0,40}?local_world_size=#"),
    # the summary at the end of a start has separate keys, because it repeats earlier lines
    "startup_total": _words(r"Free memory on device(?: \S+)? \(#/@\) on startup\. Desired"),
    "startup_utilization": _words(r"on startup\. Desired GPU memory utilization is \(#, @\)"),
    "startup_weights": _words(r"Actual usage is @ for weight"),
    "startup_activation": _words(r"@ for peak activation"),
    "startup_non_torch": _words(r"@ for non-torch memory"),
    "startup_graphs": _words(r"@ for CUDAGraph memory"),
    "startup_kv": _words(r"Current kv cache memory in use is (?:@|# bytes)"),
    "graphs_pool": _words(r"CUDA graph pool memory: @ \(actual\), @ \(estimated\)"),
    "fail_no_blocks": _words(r"No available memory for the cache blocks"),
    "fail_max_len": _words(
        r"max seq len \(#\) is larger than the maximum number of tokens that can be stored in "
        r"KV cache \(#\)"
    ),
    "fail_kv_needed": _words(
        r"max seq len \(#\),? \(?@ KV cache is needed, which is larger than the available KV cache "
        r"memory \(@\)(?:[\s\S]{0,80}?estimated maximum model length is #)?"
    ),
    "fail_start": _words(
        r"Free memory on device(?: \S+)? \(#/@\) on startup is less than desired GPU memory "
        r"utilization \(#, @\)"
    ),
}
SGLANG: Final = {
    "weights": _words(r"Load weight end\.GAPmem usage=@"),
    "avail_begin": _words(r"Load weight begin\.GAPavail mem=@"),
    "avail_loaded": _words(r"Load weight end\.GAPavail mem=@"),
    "kv_two": _words(r"KV Cache is allocated\.GAPHASHtokens: #, K size: @, V size: @"),
    "kv_one": _words(r"KV Cache is allocated\.GAPHASHtokens: #, KV size: @"),
    "kv_bare": _words(r"KV Cache is allocated\. K size: @, V size: @"),
    "kv_count": _words(r"KV Cache is allocated\.GAPHASHtokens: #"),
    "swa_pool": _words(r"Use sliding window memory pool\. full_layer_tokens=#, swa_layer_tokens=#"),
    "left": _words(r"Memory pool end\. avail mem=@"),
    "graph_begin": _words(r"Capture (?:[\w-]+ ){0,4}graph begin\.GAPavail mem=@"),
    "graph_step": _words(r"Capturing batches \((?:[^)\n]*? )?avail_mem=@\)"),
    "graph_end": _words(r"Capture (?:[\w-]+ ){0,4}graph end\.GAPavail mem=@"),
    "graph_usage": _words(r"Capture (?:[\w-]+ ){0,4}graph end\.GAPmem usage=@"),
    "max_tokens": _words(r"max_total_num_tokens=#"),
    "context_len": _words(r"context_len=#"),
    "profiled": _words(r"is larger than the profiled value #"),
    "fail_memory": _words(r"Not enough memory\. Please try to increase --mem-fraction-static"),
    "fail_scheduler": _words(r"Scheduler hit an exception"),
}
#: The cache is allocated twice: for profiling, and finally.
TRTLLM: Final = {
    "trt_kv": _words(r"\[MemUsageChange\] Allocated @ for max tokens in paged KV cache \(#\)"),
    "trt_total": _words(
        r"Memory usage when calculating max tokens in paged kv cache: total: @, available: @"
    ),
}
#: Patterns whose matched text is the value.
SAID: Final = (
    (
        "vllm",
        "version",
        _words(r"(?:API server version\s*|LLM engine \(v|[▀-▟] version )(\d+\.\d+[\w.+-]*)"),
    ),
    (
        "",
        "custom_off",
        _words(
            r"Custom allreduce is disabled (?:because|due to) (?:of )?(.{3,120}?)(?:\. |$|\n|: )"
        ),
    ),
    (
        "vllm",
        "backends",
        _words(r"Using (\[[^\]]*\]) all-reduce backends \(in dispatch order\) for group 'tp:0'"),
    ),
    ("vllm", "custom_on", _words(r"((?:PCIe )?custom allreduce enabled via \w+)")),
    ("", "custom_on", _words(r"(Registering \d+ cuda graph addresses)")),
    ("vllm", "gpu", _words(r"device_name=([A-Za-z0-9_.-]+?)(?:,|\.json)")),
    ("sglang", "kv_dtype", _words(r"Using KV cache dtype: (?:torch\.)?(\w+)")),
    ("vllm", "kv_dtype", _words(r"Using (fp8\w*) data type to store kv cache")),
    ("vllm", "kv_dtype", _words(r"Using DeepSeek's (fp8_ds_mla) KV cache format")),
    ("vllm", "model", _words(r"Starting to load model (\S+?)\.{3}(?=\s|$)")),
    ("sglang", "model_class", _words(r"Load weight end\.GAPtype=(\w+)")),
    ("", "fail_oom", _words(r"((?:CUDA|HIP) out of memory)")),
)
