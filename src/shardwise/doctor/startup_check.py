"""A start-up log beside a prediction: weights, KV cache and tokens, and which assumption is off.

`predict_memory` is the only function here that knows the memory model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from shardwise.node.reading.startup import Startup
from shardwise.units import GIB

#: How far a prediction may be off before it is called so, in percent.
WEIGHTS_PCT: Final = 3.0
TOKENS_PCT: Final = 10.0
#: SGLang's --mem-fraction-static where a log does not say: its smallest default. Source:
#: sglang/srt/server_args.py, which lowers it from 0.9 with GPU memory and TP.
_MEM_FRACTION: Final = 0.85


@dataclass(frozen=True)
class Flags:
    """What a log says of how the engine was started; 0, "" or None where it does not."""

    engine: str = "vllm"
    tp_size: int = 1
    pp_size: int = 1
    utilization: float = 0.0
    kv_dtype: str = ""
    max_num_seqs: int = 0
    max_num_batched_tokens: int = 0
    max_model_len: int = 0
    total_bytes: float | None = None  #: memory of the GPU, where the log tells


@dataclass(frozen=True)
class Prediction:
    """Per GPU in bytes, tokens of the replica."""

    weights_bytes: float
    kv_bytes: float
    kv_tokens: float
    bytes_per_token: float  #: of one GPU


Predict = Callable[[str, str, Flags], Prediction]


@dataclass(frozen=True)
class Quantity:
    """One quantity logged and predicted."""

    name: str
    unit: str
    logged: float
    predicted: float
    tolerance_pct: float

    @property
    def error_pct(self) -> float:
        return 100.0 * (self.predicted / self.logged - 1.0)

    @property
    def holds(self) -> bool:
        return abs(self.error_pct) <= self.tolerance_pct


@dataclass(frozen=True)
class Comparison:
    """One start: its quantities, and the assumptions that a wrong one points to."""

    start: str
    quantities: tuple[Quantity, ...]
    off: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """What is printed of it."""
        yield f"{self.start}: predicted beside logged"
        for q in self.quantities:
            mark = "within" if q.holds else "outside"
            yield (
                f"  {q.name}: logged {q.logged:,.2f} {q.unit}, predicted {q.predicted:,.2f} "
                f"({q.error_pct:+.1f} %, {mark} {q.tolerance_pct:.0f} %)"
            )
        for reason in self.off:
            yield f"  off: {reason}"


def predict_memory(model: str, gpu: str, flags: Flags) -> Prediction:
    """Weights, KV cache and tokens of one GPU with `flags`. UnknownNameError for model or GPU."""
    from shardwise.architecture.models import load
    from shardwise.hardware.catalogue import default_catalogue
    from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout
    from shardwise.perfmodel.memory import plan

    arch = load(model)
    known = default_catalogue().gpu(gpu)
    if flags.total_bytes:
        known = replace(known, memory_bytes=flags.total_bytes)
    asked = Deployment(
        arch.id,
        known.id,
        Layout(flags.tp_size, flags.pp_size),
        EngineLimits(
            flags.max_num_seqs or 256,
            flags.max_num_batched_tokens or 8192,
            flags.utilization or 0.9,
        ),
        Dtypes(kv="fp8" if flags.kv_dtype.startswith("fp8") else "auto"),
        flags.engine or "vllm",
    )
    length = flags.max_model_len or arch.max_context
    found = plan(arch, known, asked, length)
    per_token = found.kv_bytes_per_sequence / length
    kv_bytes = found.kv_budget_bytes
    if flags.engine == "sglang":
        # weights and cache share the fraction; activations and graphs live in what is left
        share = flags.utilization or _MEM_FRACTION
        kv_bytes = known.memory_bytes * share - found.weight_bytes
    return Prediction(found.weight_bytes, kv_bytes, kv_bytes / per_token, per_token)


def compare(
    starts: Sequence[Startup], model: str, gpu: str, predict: Predict = predict_memory
) -> tuple[Comparison, ...]:
    """A comparison per start that states weights or a cache. Errors are those of `predict`."""
    found = []
    for start in starts:
        if start.weights_bytes is None and start.kv_bytes is None:
            continue
        made = predict(model, gpu, flags_of(start))
        quantities = tuple(_quantities(start, made))
        label = f"{start.engine} {start.version}".strip()
        found.append(
            Comparison(
                f"{label}, lines {start.first_line} to {start.last_line}",
                quantities,
                tuple(_off(start, made, quantities)),
            )
        )
    return tuple(found)


def flags_of(start: Startup) -> Flags:
    """The flags of a log: as given, else what its ranks and sizes prove."""
    args = start.args
    seqs = args.get("max_num_seqs", args.get("max_running_requests", 0))
    batched = args.get("max_num_batched_tokens", args.get("chunked_prefill_size", 0))
    share = args.get("mem_fraction_static", start.gpu_memory_utilization or 0.0)
    return Flags(
        engine=start.engine,
        tp_size=start.tp_size or start.tp_at_least,
        pp_size=int(args.get("pipeline_parallel_size", 1)),
        utilization=float(share),
        kv_dtype=start.kv_dtype,
        max_num_seqs=int(seqs),
        max_num_batched_tokens=int(batched),
        max_model_len=start.max_model_len or 0,
        total_bytes=start.total_bytes,
    )


def _quantities(start: Startup, made: Prediction) -> Iterator[Quantity]:
    if start.weights_bytes is not None:
        yield Quantity(
            "weights", "GiB", start.weights_bytes / GIB, made.weights_bytes / GIB, WEIGHTS_PCT
        )
    if start.kv_bytes:
        yield Quantity("KV cache", "GiB", start.kv_bytes / GIB, made.kv_bytes / GIB, TOKENS_PCT)
    if start.kv_tokens and start.kv_tokens > 0 and start.blocks_override is None:
        yield Quantity("KV tokens", "tokens", start.kv_tokens, made.kv_tokens, TOKENS_PCT)


def _off(start: Startup, made: Prediction, found: Sequence[Quantity]) -> Iterator[str]:
    """Assumptions that the wrong quantities point to, each with the size of the gap."""
    wrong = {q.name: q for q in found if not q.holds}
    if q := wrong.get("weights"):
        yield (
            f"weights by {q.predicted - q.logged:+.2f} GiB: another dtype, parts that stay in 16 "
            "bits, a drafter, or another TP size"
        )
    if "KV tokens" in wrong and start.kv_bytes and start.kv_tokens:
        logged = start.kv_bytes / start.kv_tokens
        if abs(made.bytes_per_token / logged - 1) > TOKENS_PCT / 100:
            yield (
                f"bytes of cache a token: {logged / 1024:.1f} KiB logged, "
                f"{made.bytes_per_token / 1024:.1f} predicted: KV dtype, layers without a cache, "
                "or KV heads that TP cannot cut"
            )
    if q := wrong.get("KV cache"):
        rest = q.predicted - q.logged
        yield f"memory left for the cache by {rest:+.2f} GiB: {_share(start, made)}"


def _share(start: Startup, made: Prediction) -> str:
    """Where the memory went that was predicted to be left for the cache."""
    parts = []
    if start.weights_bytes is not None:
        parts.append(f"weights {(start.weights_bytes - made.weights_bytes) / GIB:+.2f}")
    if start.activation_bytes is not None:
        parts.append(f"activations took {start.activation_bytes / GIB:.2f}")
    if start.non_torch_bytes is not None:
        parts.append(f"driver and NCCL took {start.non_torch_bytes[1] / GIB:.2f}")
    if start.graph_bytes is not None and start.graph_estimate_deducted is not False:
        parts.append(f"graphs took {start.graph_bytes / GIB:.2f}")
    if start.total_bytes is None:
        parts.append("the log does not say how much memory the GPU has")
    return ", ".join(parts) if parts else "the log does not say what the rest was used for"
