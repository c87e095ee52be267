"""Which TP x PP a model allows, and what broke where it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shardwise.architecture.model import Architecture
from shardwise.architecture.parameters import stored_dtype
from shardwise.errors import InputError

MAX_TP: Final = 1024
#: Dtypes whose scale blocks an engine will not cut. mxfp4 is padded instead (vLLM, gpt-oss).
_UNCUT_BLOCKS: Final = frozenset({"fp8", "int4", "int8", "nvfp4"})


@dataclass(frozen=True)
class Violation:
    """A rule that a sharding breaks, in one sentence, and the nearest size that keeps them all."""

    rule: str
    message: str
    nearest: int


def violations(
    arch: Architecture,
    tp_size: int,
    pp_size: int = 1,
    *,
    expert_parallel: bool = False,
    weight_dtype: str = "auto",
) -> list[Violation]:
    """Every rule that TP x PP breaks; empty if it is possible.

    `nearest` is the nearest TP (or, for a PP rule, PP) that breaks none.
    """
    if not 1 <= tp_size <= MAX_TP:
        return [Violation("tp_range", f"TP={tp_size} is not from 1 to {MAX_TP}", 1)]
    dtype = stored_dtype(arch, weight_dtype)
    broken = _tp_rules(arch, tp_size, expert_parallel, dtype)
    nearest = nearest_tp(arch, tp_size, expert_parallel, dtype) if broken else tp_size
    found = [Violation(rule, message, nearest) for rule, message in broken]
    if not 1 <= pp_size <= arch.num_layers:
        message = f"PP={pp_size} is not from 1 to the {arch.num_layers} layers"
        found.append(Violation("pp_range", message, min(max(pp_size, 1), arch.num_layers)))
    return found


def allowed_tp(
    arch: Architecture,
    limit: int = 8,
    *,
    expert_parallel: bool = False,
    weight_dtype: str = "auto",
) -> tuple[int, ...]:
    """Every TP from 1 to `limit` that breaks no rule."""
    dtype = stored_dtype(arch, weight_dtype)
    return tuple(
        tp for tp in range(1, limit + 1) if not _tp_rules(arch, tp, expert_parallel, dtype)
    )


def require_shardable(
    arch: Architecture,
    tp_size: int,
    pp_size: int = 1,
    *,
    expert_parallel: bool = False,
    weight_dtype: str = "auto",
) -> None:
    """Raises InputError for the first rule that TP x PP breaks, with the TP sizes allowed."""
    found = violations(
        arch, tp_size, pp_size, expert_parallel=expert_parallel, weight_dtype=weight_dtype
    )
    if not found:
        return
    first = found[0]
    if first.rule == "pp_range":
        raise InputError(f"{arch.id}: {first.message}", f"nearest: PP={first.nearest}")
    sizes = allowed_tp(
        arch, min(arch.num_heads, 64), expert_parallel=expert_parallel, weight_dtype=weight_dtype
    )
    raise InputError(f"{arch.id}: {first.message}", f"allowed TP: {', '.join(map(str, sizes))}")


def uneven_stages(arch: Architecture, pp_size: int) -> str:
    """A note where PP leaves the stages unequal, else ""."""
    rest = arch.num_layers % pp_size
    if not rest:
        return ""
    most = arch.num_layers // pp_size + 1
    return f"PP={pp_size}: {rest} of {pp_size} stages have {most} layers, the others {most - 1}"


def nearest_tp(arch: Architecture, tp_size: int, expert_parallel: bool, dtype: str) -> int:
    """The TP nearest to `tp_size` that breaks no rule, the smaller of two. TP=1 always works."""
    highest = min(arch.num_heads, MAX_TP)
    return min(
        (tp for tp in range(1, highest + 1) if not _tp_rules(arch, tp, expert_parallel, dtype)),
        key=lambda tp: (abs(tp - tp_size), tp),
    )


def _tp_rules(
    arch: Architecture, tp: int, expert_parallel: bool, dtype: str
) -> list[tuple[str, str]]:
    if tp == 1:
        return []
    rules: tuple[Callable[[], tuple[str, str] | None], ...] = (
        lambda: _heads(arch, tp),
        lambda: _kv_heads(arch, tp),
        *(
            (lambda name=name, width=width: _width(arch, tp, dtype, name, width))
            for name, width in _widths(arch, expert_parallel)
        ),
        lambda: _attention_block(arch, tp, dtype),
        lambda: _experts(arch, tp) if expert_parallel else None,
    )
    return [broken for rule in rules if (broken := rule())]


def _heads(arch: Architecture, tp: int) -> tuple[str, str] | None:
    if arch.num_heads % tp == 0:
        return None
    return "attention_heads", f"TP={tp} does not divide the {arch.num_heads} attention heads"


def _kv_heads(arch: Architecture, tp: int) -> tuple[str, str] | None:
    kv = arch.num_kv_heads
    if arch.mla or kv % tp == 0 or tp % kv == 0:
        return None
    return "kv_heads", f"TP={tp} neither divides the {kv} KV heads nor is a multiple of them"


def _widths(arch: Architecture, expert_parallel: bool) -> list[tuple[str, int]]:
    """The MLP widths that TP cuts."""
    widths = [("intermediate_size", arch.intermediate_size)] if arch.num_dense_layers else []
    if arch.moe:
        if not expert_parallel:
            widths.append(("expert intermediate_size", arch.moe.expert_intermediate_size))
        if arch.moe.shared_intermediate_size:
            widths.append(("shared expert size", arch.moe.shared_intermediate_size))
    return widths


def _width(
    arch: Architecture, tp: int, dtype: str, name: str, width: int
) -> tuple[str, str] | None:
    if width % tp:
        return "mlp_width", f"TP={tp} does not divide {name} {width}"
    block = _block(arch, dtype)
    if block and (width // tp) % block:
        return "quantization_block", (
            f"TP={tp} cuts {name} {width} into {width // tp}, "
            f"which {dtype} scale blocks of {block} do not divide"
        )
    return None


def _attention_block(arch: Architecture, tp: int, dtype: str) -> tuple[str, str] | None:
    """The output projection is cut along its input: whole scale blocks only."""
    block, per_head = _block(arch, dtype), arch.mla.v_head_dim if arch.mla else arch.head_dim
    width = arch.num_heads * per_head
    if not block or width % tp or (width // tp) % block == 0:
        return None
    return "quantization_block", (
        f"TP={tp} cuts the attention output {width} into {width // tp}, "
        f"which {dtype} scale blocks of {block} do not divide"
    )


def _block(arch: Architecture, dtype: str) -> int:
    own = dtype == arch.checkpoint_dtype and dtype in _UNCUT_BLOCKS
    return arch.quantization_block if own else 0


def _experts(arch: Architecture, ep: int) -> tuple[str, str] | None:
    if arch.moe is None:
        return "experts", f"expert parallelism over {ep} ranks needs experts; {arch.id} has none"
    if arch.moe.num_experts % ep == 0:
        return None
    return "experts", f"{ep} ranks do not divide the {arch.moe.num_experts} experts"
