"""Compare a start-up log with a prediction: weights, KV cache and tokens, and the wrong assumption.

Only `memory_of` uses the memory model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.architecture.model import Model
from shardwise.hardware.gpu import Gpu
from shardwise.node.reading.startup import Startup
from shardwise.units import GIB

#: Tolerated errors of a prediction in percent.
WEIGHTS_PCT: Final = 3.0
TOKENS_PCT: Final = 10.0


class Flags(msgspec.Struct, frozen=True):
    """Start flags found in a log; 0, "" or None if missing."""

    engine: str = "vllm"
    version: str = ""
    tp_size: int = 1
    attention_dp: int = 1
    dcp_size: int = 1
    pp_size: int = 1
    utilization: float = 0.0
    weight_dtype: str = "auto"
    kv_dtype: str = ""
    max_num_seqs: int = 0
    max_num_batched_tokens: int = 0
    max_model_len: int = 0
    total_bytes: float | None = None  #: memory of the GPU, if the log states it


class Prediction(msgspec.Struct, frozen=True):
    """Bytes per GPU, tokens per replica."""

    weights_bytes: float
    kv_bytes: float
    kv_tokens: float
    bytes_per_token: float  #: of one GPU


Predict = Callable[[str, str, Flags], Prediction]


class Quantity(msgspec.Struct, frozen=True):
    """One quantity, logged and predicted."""

    name: str
    unit: str
    logged: float
    predicted: float
    tolerance_pct: float

    @property
    def error_pct(self) -> float:
        """Predicted over logged, minus 1, in percent."""
        return 100.0 * (self.predicted / self.logged - 1.0)

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance."""
        return abs(self.error_pct) <= self.tolerance_pct


class Comparison(msgspec.Struct, frozen=True):
    """One start: its quantities, and the assumptions that wrong ones point to."""

    start: str
    quantities: tuple[Quantity, ...]
    off: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Return the printed lines."""
        yield f"{self.start}: predicted and logged"
        for q in self.quantities:
            mark = "within" if q.holds else "outside"
            yield (
                f"  {q.name}: logged {q.logged:,.2f} {q.unit}, predicted {q.predicted:,.2f} "
                f"({q.error_pct:+z.1f} %, {mark} {q.tolerance_pct:.0f} %)"
            )
        for reason in self.off:
            yield f"  off: {reason}"


def predict_memory(model: str, gpu: str, flags: Flags) -> Prediction:
    """Predict weights, KV cache and tokens of one GPU with `flags`. UnknownNameError for model or
    GPU."""
    from shardwise.architecture.models import load

    return memory_of(load(model), _gpu(gpu, flags.total_bytes), flags)


def memory_of(arch: Model, known: Gpu, flags: Flags) -> Prediction:
    """Predict the memory of a given model and GPU."""
    from shardwise.engines import get
    from shardwise.engines.device import device_of
    from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout
    from shardwise.perfmodel.memory import plan

    layout = Layout(
        flags.tp_size, flags.pp_size, attention_dp=flags.attention_dp, dcp_size=flags.dcp_size
    )
    usual = get(flags.engine).defaults(device_of(known), flags.version, layout.replica_gpus)
    limits = EngineLimits(
        flags.max_num_seqs or usual.max_num_seqs,
        flags.max_num_batched_tokens or usual.max_num_batched_tokens,
        flags.utilization or usual.memory_fraction,
        flags.max_model_len,
    )
    kv_dtype = "fp8" if flags.kv_dtype.startswith("fp8") else "auto"
    asked = Deployment(
        arch.id,
        known.id,
        layout,
        limits,
        Dtypes(flags.weight_dtype, kv_dtype),
        flags.engine,
        flags.version,
    )
    length = flags.max_model_len or arch.max_context
    found = plan(arch, known, asked, length)
    per_token = found.kv_bytes_per_sequence / length
    return Prediction(
        found.weight_bytes, found.kv_budget_bytes, found.kv_budget_bytes / per_token, per_token
    )


def _gpu(name: str, total_bytes: float | None) -> Gpu:
    """Return the catalogue's GPU with the memory stated in the log."""
    from shardwise.hardware.catalogue import default_catalogue
    from shardwise.node.generations import catalogue_gpu

    known = catalogue_gpu(name) or default_catalogue().gpu(name)
    if total_bytes is None:
        return known
    return replace(known, memory_bytes=total_bytes, runtime_memory_bytes=total_bytes)


def compare(
    starts: Sequence[Startup],
    model: str,
    gpu: str,
    predict: Predict = predict_memory,
    *,
    tp_size: int = 0,
    pp_size: int = 0,
    weight_dtype: str = "auto",
    version: str = "",
) -> tuple[Comparison, ...]:
    """Return a comparison per start that states weights or a cache. Raises the errors of `predict`.

    `tp_size`, `pp_size` and the engine's `version` are taken where a log does not say them; 0 and
    "": not known. `weight_dtype` is what the model was loaded in, where that is not its
    checkpoint's.
    """
    found = []
    for start in starts:
        if start.weights_bytes is None and start.kv_bytes is None:
            continue
        own = version if start.engine == starts[0].engine else ""  # a log may hold two engines
        flags = flags_of(start, tp_size, pp_size, weight_dtype, own)
        made = predict(model, gpu, flags)
        quantities = tuple(_quantities(start, made))
        label = f"{start.engine} {flags.version}".strip()
        found.append(
            Comparison(
                f"{label}, lines {start.first_line} to {start.last_line}",
                quantities,
                tuple(_off(start, made, quantities)),
            )
        )
    return tuple(found)


def flags_of(
    start: Startup,
    tp_size: int = 0,
    pp_size: int = 0,
    weight_dtype: str = "auto",
    version: str = "",
) -> Flags:
    """The flags of a log: as it gives them, else `tp_size`, `pp_size` and `version`, else what it
    proves.

    `weight_dtype`, the dtype that the model was loaded in, is not in a log.
    """
    args = start.args
    seqs = args.get("max_num_seqs", args.get("max_running_requests", 0))
    batched = args.get("max_num_batched_tokens", args.get("chunked_prefill_size", 0))
    share = args.get("mem_fraction_static", start.gpu_memory_utilization or 0.0)
    ranks = start.tp_size or tp_size or start.tp_at_least
    # SGLang counts attention DP ranks among the TP ranks
    replicas = start.attention_dp if ranks % start.attention_dp == 0 else 1
    return Flags(
        engine=start.engine,
        version=start.version or version,
        tp_size=ranks // replicas,
        attention_dp=replicas,
        dcp_size=int(args.get("decode_context_parallel_size", 1)),
        pp_size=int(args.get("pipeline_parallel_size", pp_size or 1)),
        utilization=float(share),
        weight_dtype=weight_dtype,
        kv_dtype=start.kv_dtype,
        max_num_seqs=int(seqs),
        max_num_batched_tokens=int(batched),
        max_model_len=start.max_model_len or 0,
        total_bytes=start.total_bytes,
    )


def _quantities(start: Startup, made: Prediction) -> Iterator[Quantity]:
    if start.weights_bytes:
        yield Quantity(
            "weights", "GiB", start.weights_bytes / GIB, made.weights_bytes / GIB, WEIGHTS_PCT
        )
    if start.kv_bytes:
        yield Quantity("KV cache", "GiB", start.kv_bytes / GIB, made.kv_bytes / GIB, TOKENS_PCT)
    if tokens := tokens_held(start):
        yield Quantity("KV tokens", "tokens", tokens, made.kv_tokens, TOKENS_PCT)


def tokens_held(start: Startup) -> float | None:
    """Return the tokens that fit in the cache for sequences of the log's length; None if unknown.

    For models with states or windows, the log's concurrency is used instead of its token count.
    """
    if start.blocks_override is not None or not start.kv_tokens or start.kv_tokens < 0:
        return None
    if start.tokens_follow_concurrency is False and start.concurrency and start.concurrency_len:
        return start.concurrency * start.concurrency_len
    return float(start.kv_tokens)


def _off(start: Startup, made: Prediction, found: Sequence[Quantity]) -> Iterator[str]:
    """Return the assumptions that wrong quantities point to, each with the size of the
    difference."""
    wrong = {q.name: q for q in found if not q.holds}
    if q := wrong.get("weights"):
        yield (
            f"weights by {q.predicted - q.logged:+.2f} GiB: another dtype, parts that remain in "
            "16 bits, a draft model, or another TP size"
        )
    if "KV tokens" in wrong and start.kv_bytes and (tokens := tokens_held(start)):
        logged = start.kv_bytes / tokens
        if abs(made.bytes_per_token / logged - 1) > TOKENS_PCT / 100:
            yield (
                f"bytes of cache per token: {logged / 1024:.1f} KiB logged, "
                f"{made.bytes_per_token / 1024:.1f} predicted: KV dtype, layers without a cache, "
                "or KV heads that TP cannot shard"
            )
    if q := wrong.get("KV cache"):
        rest = q.predicted - q.logged
        yield f"memory left for the cache by {rest:+.2f} GiB: {_share(start, made)}"


def _share(start: Startup, made: Prediction) -> str:
    """Say what used the memory that was predicted to remain for the cache."""
    parts = []
    if start.weights_bytes is not None:
        parts.append(f"weights {(start.weights_bytes - made.weights_bytes) / GIB:+.2f}")
    if start.activation_bytes is not None:
        parts.append(f"activations used {start.activation_bytes / GIB:.2f}")
    if start.non_torch_bytes is not None:
        parts.append(f"driver and NCCL used {start.non_torch_bytes[1] / GIB:.2f}")
    if start.graph_bytes is not None and start.graph_estimate_deducted is not False:
        parts.append(f"graphs used {start.graph_bytes / GIB:.2f}")
    if start.total_bytes is None:
        parts.append("the log does not state the GPU's memory")
    return ", ".join(parts) if parts else "the log does not state the use of the rest"
