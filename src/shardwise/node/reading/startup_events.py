"""What vLLM and SGLang write while they start, found anywhere in a text: one event a match.

Patterns run over the whole text with any blanks between words, so that a line that a terminal
wrapped reads like one that it did not. Both engines print "GB" and mean GiB (they divide by 2**30).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from shardwise.node.reading.startup_args import Args, from_command, from_dictionary, from_fields
from shardwise.node.reading.text import Line

_NUMBER: Final = r"-?\d[\d,]*(?:\.\d+)?"
_SIZE: Final = rf"({_NUMBER})\s*([KMGT]i?B|B)\b"
_UNITS: Final = {"B": 0, "K": 10, "M": 20, "G": 30, "T": 40}


@dataclass(frozen=True)
class Event:
    """One thing an engine said. `process` tells the workers of one start apart."""

    offset: int
    line: int
    engine: str
    key: str
    values: tuple[float, ...] = ()
    text: str = ""
    process: str = ""
    tp_rank: int | None = None
    args: Args = field(default_factory=dict)


def _words(pattern: str) -> re.Pattern[str]:
    """Blanks match any run of blanks, line ends included; @ is a size, # a number and
    HASH the sign itself."""
    spelled = pattern.replace("@", _SIZE).replace("#", f"({_NUMBER})").replace("HASH", "[#]")
    return re.compile(spelled.replace(" ", r"\s+"), re.IGNORECASE)


_VLLM: Final = {
    "weights": _words(r"(?:Loading model weights|Model loading) took @"),
    "weights_table": _words(r"model weights takes? @"),
    "non_torch": _words(r"non_torch_memory(?: takes)? @"),
    "activation": _words(r"PyTorch activation peak memory(?: takes)? @"),
    "total": _words(r"total_gpu_memory(?: \(| )@"),
    "utilization": _words(r"(?<![-`])gpu_memory_utilization(?: \(| )#"),
    "capacity": _words(r"has a total capacity of @"),
    "usable": _words(r"the current vLLM instance can use (?:total_gpu_memory[^=]*=\s*)?@"),
    "kv": _words(
        r"(?:Available KV cache memory: |available_kv_cache_memory "
        r"|the rest of the memory reserved for KV Cache is )@"
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
_SGLANG: Final = {
    "weights": _words(r"Load weight end\.[^\n]*?mem usage=@"),
    "avail_begin": _words(r"Load weight begin\.[^\n]*?avail mem=@"),
    "avail_loaded": _words(r"Load weight end\.[^\n]*?avail mem=@"),
    "kv_two": _words(r"KV Cache is allocated\.[^\n]*?HASHtokens: #, K size: @, V size: @"),
    "kv_one": _words(r"KV Cache is allocated\.[^\n]*?HASHtokens: #, KV size: @"),
    "left": _words(r"Memory pool end\. avail mem=@"),
    "graph_begin": _words(r"Capture (?:\w+ )?graph begin\.[^\n]*?avail mem=@"),
    "graph_step": _words(r"Capturing batches \((?:[^)\n]*? )?avail_mem=@\)"),
    "graph_end": _words(r"Capture (?:\w+ )?graph end\.[^\n]*?avail mem=@"),
    "max_tokens": _words(r"max_total_num_tokens=#"),
    "context_len": _words(r"context_len=#"),
    "profiled": _words(r"is larger than the profiled value #"),
    "fail_memory": _words(r"Not enough memory\. Please try to increase --mem-fraction-static"),
    "fail_scheduler": _words(r"Scheduler hit an exception"),
}
#: The text itself is the fact.
_SAID: Final = (
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
    ("sglang", "model_class", _words(r"Load weight end\.[^\n]*?type=(\w+)")),
    ("", "fail_oom", _words(r"((?:CUDA|HIP) out of memory)")),
)
#: Terminals narrower than this are not looked for.
_NARROWEST: Final = 60
#: How a line starts that does not continue another.
_RECORD: Final = re.compile(
    r"\s*(?:$|[(\[{$#=<]|INFO|WARN|ERROR|DEBUG|Traceback|\d{2,4}[-:/]|[^\W\d]{3,4}\.? +\d|\S+\s+\|)"
)
_PROCESS: Final = re.compile(r"\((\w+)(?: rank=(\d+))?,? (?:pid=(\w+)|ip=[^)]*)[^)]*\)")
_TP_TAG: Final = re.compile(r"(?<![A-Za-z])TP(\d+)(?!\d)")
_SGLANG_TAG: Final = re.compile(r"\[[^\]\n]*?\d\d:\d\d:\d\d((?: [A-Z]{2}\d+)+)\]")


def events(lines: Sequence[Line]) -> tuple[Event, ...]:
    """Every event of `lines` in the order of the text."""
    text, starts = _joined(lines)
    found = [*_measured(text), *_said(text), *_started(lines, starts)]
    return tuple(sorted((_placed(e, text, starts, lines) for e in found), key=lambda e: e.offset))


def _joined(lines: Sequence[Line]) -> tuple[str, list[int]]:
    """The text and where each line starts in it. Lines that a terminal cut at its width, in the
    middle of a word as it may be, go on without a break."""
    widths = Counter(len(line.text) for line in lines)
    width = max(widths, default=0)
    is_cut = widths[width] > 1 and width >= _NARROWEST
    parts, starts, at = [], [], 0
    for i, line in enumerate(lines):
        following = lines[i + 1].text if i + 1 < len(lines) else ""
        goes_on = is_cut and len(line.text) == width and not _RECORD.match(following)
        part = line.text + ("" if goes_on else "\n")
        starts.append(at)
        parts.append(part)
        at += len(part)
    return "".join(parts), starts


def _measured(text: str) -> Iterator[Event]:
    for engine, patterns in (("vllm", _VLLM), ("sglang", _SGLANG)):
        for key, pattern in patterns.items():
            for match in pattern.finditer(text):
                yield Event(match.start(), 0, engine, key, _values(match))


def _said(text: str) -> Iterator[Event]:
    for engine, key, pattern in _SAID:
        for match in pattern.finditer(text):
            said = re.sub(r"\s+", " ", match[1]).strip()
            yield Event(match.start(), 0, engine, key, text=said)


def _started(lines: Sequence[Line], starts: Sequence[int]) -> Iterator[Event]:
    """Command lines, argument dictionaries and configurations."""
    for i, line in enumerate(lines):
        if "non-default args:" in line.text:
            yield Event(starts[i], 0, "vllm", "args", args=from_dictionary(line.text))
        elif "ServerArgs(" in line.text:
            yield Event(starts[i], 0, "sglang", "args", args=from_fields(line.text))
        elif re.search(r"LLM engine \(v[^)]*\) with config:", line.text):
            yield Event(starts[i], 0, "vllm", "config", args=from_fields(line.text))
        elif (command := from_command(_continued(lines, i))) is not None:
            yield Event(starts[i], 0, command[0], "command", args=command[1])


def _continued(lines: Sequence[Line], at: int) -> str:
    """A line with those that its closing backslashes add to it."""
    text = lines[at].text
    while text.rstrip().endswith("\\") and at + 1 < len(lines):
        at += 1
        text = f"{text.rstrip()[:-1]} {lines[at].text.strip()}"
    return text


def _values(match: re.Match[str]) -> tuple[float, ...]:
    """The numbers of a match, sizes in bytes."""
    values: list[float] = []
    for group in match.groups():
        if group is None:
            continue
        if re.fullmatch(_NUMBER, group):
            values.append(float(group.replace(",", "")))
        else:
            values[-1] *= 2.0 ** _UNITS[group[0].upper()]
    return tuple(values)


def _placed(event: Event, text: str, starts: Sequence[int], lines: Sequence[Line]) -> Event:
    """`event` with its line and with the process whose prefix stands before it."""
    low, high = 0, len(lines) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if starts[middle] <= event.offset else (low, middle - 1)
    before = text[starts[low] : event.offset]
    process, rank = _process(before)
    return Event(
        event.offset, lines[low].number, event.engine, event.key, event.values, event.text,
        process, rank, event.args,
    )  # fmt: skip


def _process(prefix: str) -> tuple[str, int | None]:
    """The last process named in a line's prefix, and its TP rank where the tag says it."""
    tags = list(_PROCESS.finditer(prefix))
    if tags:
        name, rank, pid = tags[-1].groups()
        tp = _TP_TAG.search(name)
        number = tp[1] if tp else rank
        return pid or f"{name}{rank or ''}", int(number) if number else None
    tag = _SGLANG_TAG.search(prefix)
    if tag:
        tp = _TP_TAG.search(tag[1])
        return tag[1].strip(), int(tp[1]) if tp else None
    return "", None
