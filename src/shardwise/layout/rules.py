"""Rules for the layouts that a model allows.

The rules follow from the tensors: whole heads, whole scale blocks, whole experts. Exceptions of
single engines (padding, halved groups) are in `shardwise.engines`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Final

import msgspec

from shardwise.architecture.cache import KV_BYTES
from shardwise.architecture.mixers import Attention, LinearAttention, Mamba2, Mla
from shardwise.architecture.model import Model
from shardwise.architecture.tensor import Tensor
from shardwise.errors import InputError
from shardwise.hardware.gpu import Gpu
from shardwise.layout.deployment import FixedLimits, Layout
from shardwise.layout.stages import stage_sizes

MAX_TP: Final = 1024
#: Formats whose scale blocks an engine pads instead of refusing to cut them (vLLM, mxfp4 experts).
_PADDED: Final = frozenset({"mxfp4"})
_MOST_LISTED: Final = 64


class Violation(msgspec.Struct, frozen=True):
    """A broken rule in one sentence, and the nearest valid size."""

    rule: str
    message: str
    nearest: int


#: (tensor, ranks that it is cut over) -> why that does not work, or ""
Refusal = Callable[[Tensor, int], str]


def even_cut(tensor: Tensor, ranks: int) -> str:
    """What holds in every engine: an even cut, and whole scale blocks where none pads them."""
    size = tensor.rows if tensor.cut == "rows" else tensor.cols
    if ranks == 1 or (tensor.units and ranks % tensor.units == 0):
        return ""
    what = _NAMES.get(tensor.part, "width")
    if size % ranks:
        # heads have their own rule
        return "" if tensor.units else f"TP={ranks} does not divide the {what} {size}"
    block = tensor.format.block[0 if tensor.cut == "rows" else 1]
    if block > 1 and (size // ranks) % block and tensor.format.dtype not in _PADDED:
        return (
            f"TP={ranks} cuts the {what} {size} into {size // ranks}, which "
            f"{tensor.format.dtype} scale blocks of {block} do not divide"
        )
    return ""


def violations(model: Model, layout: Layout, refusal: Refusal = even_cut) -> list[Violation]:
    """Return every rule that `layout` breaks for `model`, in its dtype; empty if it is valid.

    `refusal` is what an engine says to a cut tensor (an `engines.loading.Loader`).

    Returns:
        Violations whose `nearest` is the nearest TP (or, for a PP rule, PP) that breaks none.
    """
    if not 1 <= layout.tp_size <= MAX_TP:
        return [Violation("tp_range", f"TP={layout.tp_size} is not from 1 to {MAX_TP}", 1)]
    if none := [f"{mark}={n}" for mark, n in _sizes(layout) if n < 1]:
        return [Violation("sizes", f"{none[0]} is not 1 or more", layout.tp_size)]
    broken = [
        *_copies(model, layout.attention_dp),
        *dict.fromkeys(_context_parallel(model, layout.tp_size, layout.dcp_size)),
        *_broken(model, layout.tp_size, layout.stage_gpus, layout.ep_size, refusal),
    ]
    whole = layout.expert_parallel
    nearest = nearest_tp(model, layout.tp_size, whole, refusal) if broken else layout.tp_size
    found = [Violation(rule, message, nearest) for rule, message in broken]
    if not 1 <= layout.pp_size <= model.num_layers:
        message = f"PP={layout.pp_size} is not from 1 to the {model.num_layers} layers"
        found.append(Violation("pp_range", message, min(max(layout.pp_size, 1), model.num_layers)))
    return found


def _sizes(layout: Layout) -> tuple[tuple[str, int], ...]:
    return (
        ("attention DP", layout.attention_dp),
        ("EP", layout.ep_size),
        ("DCP", layout.dcp_size),
        ("replicas", layout.replicas),
    )


def allowed_tp(
    model: Model, limit: int = 8, *, expert_parallel: bool = False, refusal: Refusal = even_cut
) -> tuple[int, ...]:
    """Every TP from 1 to `limit` that breaks no rule; with `expert_parallel`, whole experts are
    spread over as many ranks."""
    return tuple(
        tp for tp in range(1, limit + 1) if not _of_tp(model, tp, expert_parallel, refusal)
    )


def require_layout(model: Model, layout: Layout, refusal: Refusal = even_cut) -> None:
    """Raise InputError for the first rule that `layout` breaks, with the allowed sizes."""
    found = violations(model, layout, refusal)
    if not found:
        return
    first = found[0]
    if first.rule == "pp_range":
        raise InputError(f"{model.id}: {first.message}", f"nearest: PP={first.nearest}")
    if first.rule == "context_parallel":
        allowed = (1, *context_parallel_sizes(model, layout.tp_size))
        raise InputError(
            f"{model.id}: {first.message}",
            f"allowed DCP at TP={layout.tp_size}: {', '.join(map(str, allowed))}",
        )
    if first.rule in ("experts", "attention_dp", "sizes"):
        raise InputError(f"{model.id}: {first.message}")
    limit = min(model.num_heads, _MOST_LISTED)
    sizes = allowed_tp(model, limit, expert_parallel=layout.expert_parallel, refusal=refusal)
    raise InputError(
        f"{model.id}: {first.message}",
        f"allowed TP: {', '.join(map(str, sizes))}",
        f"nearest: TP={first.nearest}",
    )


def require_kv_dtype(kv_dtype: str, gpu: Gpu) -> None:
    """Raise InputError for a KV cache dtype that is unknown or not supported by `gpu`."""
    if kv_dtype not in KV_BYTES:
        raise InputError(
            f"KV cache dtype is {kv_dtype[:40]!r}",
            f"allowed: auto, {', '.join(KV_BYTES)}",
            field="kv_dtype",
        )
    if kv_dtype == "fp8" and not gpu.has_fp8_cache:
        raise InputError(
            f"an fp8 KV cache on {gpu.name}, which has no fp8 units",
            "allowed: auto, bf16",
            "engines refuse to start with it",
            field="kv_dtype",
        )


def require_length(limits: FixedLimits, tokens: float, model: Model) -> None:
    """Raise InputError if `max_model_len` is fixed below a request, or beyond the model's
    context."""
    longest = limits.max_model_len
    if longest is None:
        return
    if longest > model.max_context:
        raise InputError(
            f"max_model_len is {longest}",
            f"allowed: up to the {model.max_context} tokens of {model.id}'s context",
        )
    if tokens > longest:
        raise InputError(
            f"requests of {tokens:g} tokens with max_model_len {longest}",
            f"allowed: {tokens:g} or more",
        )


def model_lengths(tokens: float, model: Model) -> tuple[int, ...]:
    """Values of `max_model_len` to choose from for requests of `tokens` on average, largest first.

    A mean leaves out the longer requests, so twice the mean is wanted, then 1.5 times, then the
    mean itself: each rounded up to 256 tokens, within the model's context.
    """
    rounded = (-(-int(room * tokens) // 256) * 256 for room in (2.0, 1.5, 1.0))
    return tuple(dict.fromkeys(min(length, model.max_context) for length in rounded))


def undivided(batch: float, layout: Layout) -> InputError:
    """Describe a batch that is not a multiple of the attention DP size."""
    copies = layout.attention_dp
    return InputError(
        f"batch {batch:g} over the {copies} copies of attention of {layout.name}",
        f"allowed: multiples of {copies}",
    )


def uneven_stages(model: Model, pp_size: int) -> str:
    """Return a note if pipeline stages are unequal, else ""."""
    sizes = stage_sizes(model.num_layers, pp_size)
    if min(sizes) == max(sizes):
        return ""
    more = sum(size == max(sizes) for size in sizes)
    return f"PP={pp_size}: {more} of {pp_size} stages have {max(sizes)} layers, the others fewer"


def nearest_tp(
    model: Model, tp_size: int, expert_parallel: bool, refusal: Refusal = even_cut
) -> int:
    """The TP nearest to `tp_size` that breaks no rule, the smaller of two; 1 where an engine takes
    none."""
    highest = min(model.num_heads, MAX_TP)
    nearest_first = sorted(range(1, highest + 1), key=lambda tp: (abs(tp - tp_size), tp))
    allowed = (tp for tp in nearest_first if not _of_tp(model, tp, expert_parallel, refusal))
    return next(allowed, 1)


def _of_tp(
    model: Model, tp: int, expert_parallel: bool, refusal: Refusal
) -> tuple[tuple[str, str], ...]:
    whole = expert_parallel and model.moe is not None
    return _broken(model, tp, tp, tp if whole else 1, refusal)


@lru_cache(maxsize=8192)
def _broken(
    model: Model, tp_size: int, stage_gpus: int, ep_size: int, refusal: Refusal
) -> tuple[tuple[str, str], ...]:
    """(rule, message) of each rule that is broken, each message once."""
    found = [*_heads(model, tp_size), *_experts(model, ep_size, stage_gpus)]
    for tensor in _cut_tensors(model):
        ranks = stage_gpus // ep_size if tensor.part == "experts" else tp_size
        if message := refusal(tensor, max(ranks, 1)):
            found.append(("weight_cut", message))
    return tuple(dict.fromkeys(found))


def _cut_tensors(model: Model) -> Iterator[Tensor]:
    for group in model.groups:
        for tensor in group.tensors:
            if tensor.cut != "replicated" and tensor.gemm:
                yield tensor


def _heads(model: Model, tp: int) -> Iterable[tuple[str, str]]:
    for group in model.groups:
        mixer = group.mixer
        if not isinstance(mixer, Attention | Mla):
            continue
        if mixer.num_heads % tp:
            yield (
                "attention_heads",
                f"TP={tp} does not divide the {mixer.num_heads} attention heads",
            )
        if isinstance(mixer, Attention):
            kv = mixer.num_kv_heads
            if kv % tp and tp % kv:
                yield (
                    "kv_heads",
                    f"TP={tp} neither divides the {kv} KV heads nor is a multiple of them",
                )


def _copies(model: Model, attention_dp: int) -> Iterable[tuple[str, str]]:
    if attention_dp > 1 and model.moe is None:
        yield (
            "attention_dp",
            f"attention DP={attention_dp} needs experts; {model.id} has none: use "
            f"{attention_dp} replicas",
        )


def context_parallel_sizes(model: Model, tp_size: int) -> tuple[int, ...]:
    """Sizes of decode context parallelism above 1 that `tp_size` ranks of `model` allow."""
    return tuple(
        dcp for dcp in range(2, tp_size + 1) if not list(_context_parallel(model, tp_size, dcp))
    )


def _context_parallel(model: Model, tp: int, dcp: int) -> Iterable[tuple[str, str]]:
    """What vLLM (config/parallel.py, config/model.py: verify_with_parallel_config) and SGLang ask:
    ranks that would keep copies of a cache share its tokens instead. Windows are refused
    (v1/core/single_type_kv_cache_manager.py), and so is sparse attention; states stay as TP has
    them, which is known of latent attention beside them alone (Kimi K3)."""
    if dcp == 1:
        return
    rule = "context_parallel"
    if tp % dcp:
        yield rule, f"DCP={dcp} does not divide TP={tp}"
    states = any(isinstance(g.mixer, LinearAttention | Mamba2) for g in model.groups)
    for group in model.groups:
        mixer = group.mixer
        if isinstance(mixer, Attention | Mla) and mixer.indexer is not None:
            yield rule, f"DCP={dcp} with sparse attention, whose cache no engine cuts"
        if not isinstance(mixer, Attention):
            continue
        if mixer.window or mixer.chunk or states:
            what = "states" if states else "sliding windows"
            yield rule, f"DCP={dcp} with {what} beside attention, which engines refuse"
            continue
        kv, copies = mixer.num_kv_heads, max(tp // mixer.num_kv_heads, 1)
        if dcp > copies:
            held = f"{copies} copies" if copies > 1 else "no copy"
            yield rule, f"DCP={dcp} at TP={tp}, which keeps {held} of the {kv} KV heads' cache"
        elif (mixer.num_heads // kv) % dcp:
            yield rule, f"DCP={dcp} does not divide the {mixer.num_heads // kv} heads of a KV head"


def _experts(model: Model, ep: int, stage_gpus: int) -> Iterable[tuple[str, str]]:
    if ep == 1:
        return
    if model.moe is None:
        yield "experts", f"expert parallelism over {ep} ranks needs experts; {model.id} has none"
    elif model.moe.num_experts % ep:
        yield "experts", f"{ep} ranks do not divide the {model.moe.num_experts} experts"
    elif stage_gpus % ep:
        yield "experts", f"EP={ep} does not divide the {stage_gpus} ranks of a stage"


_NAMES: Final = {
    "attention": "attention width",
    "mlp": "intermediate_size",
    "experts": "expert intermediate_size",
    "shared_experts": "shared expert size",
}
