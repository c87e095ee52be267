"""Parse start-up logs: one `Startup` per start of an engine in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.node.reading.startup_args import Value
from shardwise.node.reading.startup_events import Event, events
from shardwise.node.reading.text import Line

V0_BLOCK_TOKENS: Final = 16  #: vLLM's default block size before V1.
#: Largest relative difference between tokens and concurrency x length of a model whose cache grows
#: per token only. A larger one means states per sequence or sliding windows.
_SAME: Final = 0.03
#: Facts that a process logs once per start. A second occurrence belongs to the next start.
_ONCE: Final = (
    "weights", "weights_table", "kv", "tokens", "blocks", "concurrency", "non_torch", "activation",
)  # fmt: skip
_MEASURED: Final = frozenset(_ONCE) | {
    "kv_one", "kv_two", "kv_bare", "kv_count", "max_tokens", "left", "graphs", "profiled",
    "avail_loaded", "startup_total", "startup_weights", "startup_kv", "graphs_pool", "swa_pool",
    "trt_kv",
}  # fmt: skip
_PLAIN_FAILURES: Final = {
    "fail_no_blocks": "no memory is left for the KV cache",
    "fail_memory": "no memory is left for the KV cache",
    "fail_start": "other processes hold memory of the GPU",
    "fail_oom": "out of memory",
}
_OPENING: Final = ("command", "args", "config")


class Failure(msgspec.Struct, frozen=True):
    """Why a start failed, and the longest context that fits according to the message."""

    what: str
    line: int
    needed_bytes: float | None = None
    max_model_len: int | None = None  #: longest context that fits, according to the message


class Startup(msgspec.Struct, frozen=True, dict=True):
    """One start of an engine. `by_process` is key -> process -> values logged by each worker."""

    engine: str
    first_line: int
    last_line: int
    by_process: Mapping[str, Mapping[str, tuple[float, ...]]]
    said: Mapping[str, str]
    args: Mapping[str, Value]
    tp_ranks: tuple[int, ...]
    failure: Failure | None = None
    draft_kv_bytes: float | None = None  #: SGLang: cache of the drafter
    all_reduce: tuple[str, ...] = msgspec.field(
        default=()
    )  #: backends in vLLM's order, if it lists them

    def _all(self, key: str, at: int = 0) -> list[float]:
        return [values[at] for values in self.by_process.get(key, {}).values()]

    def _most(self, key: str, at: int = 0) -> float | None:
        return max(self._all(key, at), default=None)

    def _least(self, key: str, at: int = 0) -> float | None:
        return min(self._all(key, at), default=None)

    @property
    def version(self) -> str:
        """Engine version; "" if not logged."""
        return self.said.get("version", "")

    @property
    def model(self) -> str:
        """Loaded model; "" if not logged."""
        return str(self.args.get("model") or self.said.get("model", ""))

    @property
    def processes(self) -> int:
        """Number of workers that logged their weights."""
        return len(self.by_process.get("weights", self.by_process.get("weights_table", {})))

    @property
    def tp_size(self) -> int | None:
        """TP size in the arguments; None if they have none, even if ranks appear in the log."""
        given = self.args.get("tensor_parallel_size")
        return int(given) if given is not None else None

    @property
    def tp_at_least(self) -> int:
        """Smallest TP size that is consistent with the ranks in the log."""
        return max((self.tp_size or 1, *(rank + 1 for rank in self.tp_ranks)))

    @property
    def attention_dp(self) -> int:
        """Attention DP size according to SGLang's tags, e.g. "DP7 TP7".

        In "DP1 TP0" each replica numbers its own TP ranks: these are replicas of the whole model,
        not copies of attention.
        """
        tags = {p for processes in self.by_process.values() for p in processes}
        found = [match for tag in tags if (match := re.search(r"\bDP(\d+) TP(\d+)", tag))]
        ranks = [(int(match[1]), int(match[2])) for match in found]
        if any(dp and not tp for dp, tp in ranks):
            return 1
        return max((dp for dp, _ in ranks), default=0) + 1

    @property
    def weights_bytes(self) -> float | None:
        """Bytes of weights per GPU, on the fullest rank."""
        for key in ("weights", "weights_table", "startup_weights"):
            if (found := self._most(key)) is not None:
                return found
        # older versions of SGLang log the free memory before and after
        before, after = self._least("avail_begin"), self._least("avail_loaded")
        return before - after if before is not None and after is not None else None

    @property
    def kv_bytes(self) -> float | None:
        """Bytes of KV cache per GPU, on the rank with the least."""
        for key in ("kv", "kv_one", "startup_kv", "trt_kv"):
            if (found := self._least(key, 1 if key == "kv_one" else 0)) is not None:
                return found
        two = self.by_process.get("kv_two", {}).values()
        if two:
            return min(k + v for _, k, v in two)
        bare = self.by_process.get("kv_bare", {}).values()
        return min((k + v for k, v in bare), default=self._least("fail_kv_needed", 2))

    @property
    def block_tokens(self) -> int:
        """Tokens per block: from the arguments, else from the concurrency, else V0's default."""
        if "block_size" in self.args:
            return int(self.args["block_size"])
        blocks = self._least("blocks")
        if blocks and self.concurrency and self.concurrency_len:
            return round(self.concurrency * self.concurrency_len / blocks) or V0_BLOCK_TOKENS
        return V0_BLOCK_TOKENS

    @property
    def kv_tokens(self) -> int | None:
        """KV cache tokens as the engine counts them; negative if no memory is left."""
        if (found := self._least("trt_kv", 1)) is not None:
            return int(found)
        for key in ("tokens", "swa_pool", "kv_two", "kv_one", "kv_count", "max_tokens", "profiled"):
            if (found := self._least(key)) is not None:
                return int(found)
        blocks = self._least("blocks")
        if blocks is not None:
            return int(blocks) * self.block_tokens
        full = self.by_process.get("fail_max_len", {}).values()
        return min((int(held) for _, held in full), default=None)

    @property
    def concurrency(self) -> float | None:
        """Number of requests of maximum length that fit in the KV cache; None if not logged."""
        return self._least("concurrency", 1)

    @property
    def concurrency_len(self) -> int | None:
        """Tokens of each of those requests; None if not logged."""
        found = self._most("concurrency")
        return int(found) if found is not None else None

    @property
    def max_model_len(self) -> int | None:
        """Maximum length from the arguments, else the first one logged; then come drafters'."""
        given = self.args.get("max_model_len")
        if given is not None:
            return int(given)
        for key in ("max_len", "fail_kv_needed", "fail_max_len", "context_len", "concurrency"):
            for values in self.by_process.get(key, {}).values():
                return int(values[0])
        return None

    @property
    def tokens_follow_concurrency(self) -> bool | None:
        """Whether tokens = concurrency x length; None if the log lacks one of them.

        False for models with sliding windows, or states besides the cache per token.
        """
        if not (self.kv_tokens and self.concurrency and self.concurrency_len):
            return None
        return abs(self.concurrency * self.concurrency_len / self.kv_tokens - 1) <= _SAME

    @property
    def activation_bytes(self) -> float | None:
        """Peak activation memory in bytes; None if not logged."""
        found = self._most("activation")
        return found if found is not None else self._most("startup_activation")

    @property
    def non_torch_bytes(self) -> tuple[float, float] | None:
        """Minimum and maximum over ranks; negative if another process freed memory meanwhile."""
        found = self._all("non_torch") or self._all("startup_non_torch")
        return (min(found), max(found)) if found else None

    @property
    def graph_bytes(self) -> float | None:
        """Bytes taken by graph capture: as logged, else free memory before minus after."""
        for key, at in (("graphs", 1), ("graphs_pool", 0), ("startup_graphs", 0)):
            if (found := self._most(key, at)) is not None:
                return found
        captured = self.by_process.get("graph_usage", {}).values()
        if captured:
            return max(sum(each) for each in captured)
        before = self._least("graph_begin")
        after = self._least("graph_end") if "graph_end" in self.by_process else None
        if after is None:
            after = self._least("graph_step")
        return before - after if before is not None and after is not None else None

    @property
    def graph_avail_bytes(self) -> tuple[float, float] | None:
        """SGLang: free memory before and after graph capture."""
        before, after = self._least("graph_begin"), self._least("graph_end")
        after = self._least("graph_step") if after is None else after
        return (before, after) if before is not None and after is not None else None

    @property
    def graph_estimate_bytes(self) -> float | None:
        """Estimate of CUDA-graph memory in bytes; None if not logged."""
        found = self._most("graphs_estimate")
        return found if found is not None else self._most("graphs_pool", 1)

    @property
    def graph_estimate_deducted(self) -> bool | None:
        """Whether the estimate was subtracted from the KV cache; None if not logged."""
        if "graphs_deducted" in self.by_process:
            return True
        return False if "graphs_not_deducted" in self.by_process else None

    @property
    def gpu_memory_utilization(self) -> float | None:
        """Share of GPU memory that the engine may use; None if not logged."""
        given = self.args.get("gpu_memory_utilization")
        found = self._most("utilization")
        for key in ("equivalent", "startup_utilization"):
            found = self._most(key) if found is None else found
        return float(given) if given is not None else found

    @property
    def total_bytes(self) -> float | None:
        """Bytes of GPU memory.

        As logged, else memory of weights plus free memory, else from the two utilizations that vLLM
        logs as equivalent, which differ by the graph estimate.
        """
        known = (("total", 0), ("startup_total", 1), ("avail_begin", 0), ("capacity", 0))
        for key, at in (*known, ("trt_total", 0)):
            if (found := self._most(key, at)) is not None:
                return found
        loaded, left = self.by_process.get("weights", {}), self.by_process.get("avail_loaded", {})
        if loaded and left:
            return max(loaded[p][0] + left[p][0] for p in loaded if p in left)
        pairs = self.by_process.get("equivalent", {}).values()
        estimate = self.graph_estimate_bytes
        gap = max((abs(a - b) for a, b in pairs), default=0.0)
        return estimate / gap if estimate and gap else None

    @property
    def usable_bytes(self) -> float | None:
        """Bytes that the engine may use; None if not logged."""
        return self._most("usable")

    @property
    def left_bytes(self) -> float | None:
        """SGLang: free memory after allocating the pools, or after loading if it stopped there."""
        found = self._least("left")
        return found if found is not None else self._least("avail_loaded")

    @property
    def kv_dtype(self) -> str:
        """KV cache dtype; "" if not logged."""
        return str(self.args.get("kv_cache_dtype") or self.said.get("kv_dtype", ""))

    @property
    def nodes(self) -> int:
        """Number of nodes of the ranks."""
        given = self.args.get("nnodes")
        if given is not None:
            return int(given)
        world = next(iter(self.by_process.get("world", {}).values()), None)
        return max(round(world[0] / world[1]), 1) if world else 1

    @property
    def blocks_override(self) -> int | None:
        """Number of blocks that overrides the profiled one (0 for models without KV cache)."""
        found = self._most("override", 1)
        return int(found) if found is not None else None

    @cached_property
    def custom_all_reduce(self) -> bool | None:
        """Whether the engine's own all-reduce kernel is enabled; None if not logged."""
        if self.all_reduce:
            return "CUSTOM" in self.all_reduce
        if "custom_off" in self.said or self.args.get("disable_custom_all_reduce") is True:
            return False
        return True if "custom_on" in self.said else None


def read_startups(lines: Sequence[Line]) -> tuple[Startup, ...]:
    """Return every start of vLLM, SGLang or TensorRT-LLM in `lines`, in order."""
    found = [_startup(group) for group in _groups(events(lines))]
    return tuple(start for start in found if start is not None)


def _groups(found: Sequence[Event]) -> Iterator[list[Event]]:
    """Yield the events of each start."""
    group: list[Event] = []
    for event in found:
        if group and _opens_another(group, event):
            yield group
            group = []
        group.append(event)
    if group:
        yield group


def _opens_another(group: Sequence[Event], event: Event) -> bool:
    engines = {e.engine for e in group} - {""}
    if event.engine and engines and event.engine not in engines:
        return True
    measured = [e for e in group if e.key in _MEASURED]
    if event.key in _OPENING:
        same = any(e.key == event.key and e.process == event.process for e in group)
        return bool(measured) and (event.key != "config" or same)
    if event.key == "fail_kv_needed":
        return _contradicts(group, event)
    if event.engine == "sglang":
        # in one start, a drafter loads and allocates after the target model
        return event.key == "weights" and any(e.key.startswith("fail_") for e in group)
    again = [e for e in group if e.key == event.key and e.process == event.process]
    return event.key in _ONCE and bool(again)


def _contradicts(group: Sequence[Event], event: Event) -> bool:
    """Return whether a refusal belongs to a different start than the successful one in `group`."""
    if any(e.key in ("tokens", "concurrency") for e in group):
        return True
    stated = [e.values[0] for e in group if e.key == "kv"]
    return bool(stated) and all(abs(kv / event.values[2] - 1) > 0.01 for kv in stated)


def _startup(group: Sequence[Event]) -> Startup | None:
    """Return the start in one group; None if it has only a command or a stray match."""
    group = _with_one_pool(group)
    engines = [e.engine for e in group if e.engine]
    failure = _failure(group)
    telling = {*_MEASURED, *_OPENING, "custom_off", "backends"}
    if failure is None and not any(e.key in telling for e in group):
        return None
    by_process: dict[str, dict[str, tuple[float, ...]]] = {}
    said: dict[str, str] = {}
    args: dict[str, Value] = {}
    for event in group:
        if event.values or event.key.startswith("graphs_"):
            values = by_process.setdefault(event.key, {})
            if event.key in ("graph_step", "graph_end", "trt_kv"):
                values[event.process] = event.values  # the last value is used
            elif event.key == "graph_usage":  # includes the drafter's graphs
                values[event.process] = (*values.get(event.process, ()), *event.values)
            else:
                values.setdefault(event.process, event.values)
        if event.text:
            said.setdefault(event.key, event.text)
        args = {**event.args, **args}
    ranks = {e.tp_rank for e in group if e.tp_rank is not None and e.key in _MEASURED}
    kv_again = [
        e for e in group if e.key in ("kv_two", "kv_one") and e.process == _first(group, e.key)
    ]
    return Startup(
        engine=engines[0] if engines else "vllm",
        first_line=min(e.line for e in group),
        last_line=max(e.line for e in group),
        by_process=by_process,
        said=said,
        args=args,
        tp_ranks=tuple(sorted(ranks)),
        failure=failure,
        draft_kv_bytes=sum(kv_again[1].values[1:]) if len(kv_again) > 1 else None,
        all_reduce=tuple(part.strip(" '\"") for part in said["backends"].strip("[]").split(","))
        if said.get("backends")
        else (),
    )


def _with_one_pool(group: Sequence[Event]) -> Sequence[Event]:
    """Return `group` with SGLang's sliding-window pool added to the pool of full layers."""
    tokens = next((e.values[0] for e in group if e.key == "swa_pool"), None)
    if tokens is None:
        return group
    made: list[Event] = []
    first: dict[str, int] = {}  # index of a process's first pool, until its second one is found
    done = set()
    for event in group:
        if event.key != "kv_two" or event.process in done:
            made.append(event)
        elif event.process not in first:
            first[event.process] = len(made)
            made.append(event)
        else:
            at = first[event.process]
            sizes = zip(made[at].values[1:], event.values[1:], strict=True)
            made[at] = replace(made[at], values=(tokens, *(a + b for a, b in sizes)))
            done.add(event.process)
    return made


def _first(group: Sequence[Event], key: str) -> str:
    return next(e.process for e in group if e.key == key)


def _failure(group: Sequence[Event]) -> Failure | None:
    """Return the first failure of a start."""
    for event in group:
        values = event.values
        if event.key in _PLAIN_FAILURES:
            return Failure(_PLAIN_FAILURES[event.key], event.line)
        if event.key == "fail_max_len":
            what = f"max_model_len {values[0]:.0f} is above the {values[1]:.0f} tokens of the cache"
            return Failure(what, event.line, max_model_len=int(values[1]))
        if event.key == "fail_kv_needed":
            fits = int(values[3]) if len(values) > 3 else None
            what = f"a sequence of {values[0]:.0f} tokens needs more KV cache than there is"
            return Failure(what, event.line, values[1], fits)
        if event.key == "profiled" and values[0] <= 0:
            return Failure(_PLAIN_FAILURES["fail_no_blocks"], event.line)
        if event.key == "fail_scheduler":
            keys = {e.key for e in group}
            capturing = "graph_begin" in keys and "graph_end" not in keys
            where = " while graphs were captured" if capturing else ""
            return Failure(f"the scheduler stopped on an exception{where}", event.line)
    return None
