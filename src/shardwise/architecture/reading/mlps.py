"""Feed-forward parts: gated and plain MLP, mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass

from shardwise.architecture.feed_forward import Mlp, Moe
from shardwise.architecture.fields import MAX_EXPERTS, Fields
from shardwise.architecture.reading.decoder import linear
from shardwise.architecture.tensor import Part, Tensor


@dataclass(frozen=True)
class MlpNames:
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


#: Gate and up are one tensor in the checkpoint.
FUSED = MlpNames("gate_up_proj", "gate_up_proj")
#: Names of Mixtral's experts.
W123 = MlpNames("w1", "w3", "w2")


def gated_mlp(
    hidden: int, width: int, *, at: str = "mlp", names: MlpNames = MlpNames(), bias: bool = False
) -> Mlp:
    return Mlp(width, True, gated_tensors(hidden, width, at, "mlp", "", names=names, bias=bias))


def plain_mlp(
    hidden: int,
    width: int,
    *,
    at: str = "mlp",
    names: tuple[str, str] = ("up_proj", "down_proj"),
    bias: bool = False,
) -> Mlp:
    """Up, activation, down."""
    return Mlp(width, False, plain_tensors(hidden, width, at, "mlp", "", names=names, bias=bias))


def gated_tensors(
    hidden: int,
    width: int,
    at: str,
    part: Part,
    gemm: str,
    *,
    copies: int = 1,
    names: MlpNames = MlpNames(),
    bias: bool = False,
) -> tuple[Tensor, ...]:
    """Gate, up and down; GEMMs `gemm`gate_up_proj and `gemm`down_proj."""
    up = f"{gemm}gate_up_proj"
    return (
        *linear(f"{at}.{names.gate}", width, hidden, part, "rows", up, copies=copies, bias=bias),
        *linear(f"{at}.{names.up}", width, hidden, part, "rows", up, copies=copies, bias=bias),
        *linear(
            f"{at}.{names.down}", hidden, width, part, "cols", f"{gemm}down_proj",
            copies=copies, bias=bias,
        ),
    )  # fmt: skip


def plain_tensors(
    hidden: int,
    width: int,
    at: str,
    part: Part,
    gemm: str,
    *,
    copies: int = 1,
    names: tuple[str, str] = ("up_proj", "down_proj"),
    bias: bool = False,
) -> tuple[Tensor, ...]:
    up, down = names
    return (
        *linear(
            f"{at}.{up}", width, hidden, part, "rows", f"{gemm}up_proj", copies=copies, bias=bias
        ),
        *linear(
            f"{at}.{down}", hidden, width, part, "cols", f"{gemm}down_proj",
            copies=copies, bias=bias,
        ),
    )  # fmt: skip


def moe(
    hidden: int,
    num_experts: int,
    top_k: int,
    expert_width: int,
    *,
    shared_width: int = 0,
    shared_gate: bool = False,
    at: str = "mlp",
    shared_at: str = "shared_experts",
    router: str = "gate",
    router_bias: bool = False,
    correction_bias: bool = False,
    names: MlpNames = MlpNames(),
    bias: bool = False,
    gated: bool = True,
) -> Moe:
    """Routed experts with a router and, where there are any, shared experts in one MLP.

    Args:
        shared_gate: The shared experts' output is weighed by a gate of one output (Qwen2-MoE).
        correction_bias: The router has a bias that only selects (DeepSeek-V3).
    """
    experts = f"{at}.experts.*"
    tensors = linear(
        f"{at}.{router}", num_experts, hidden, "router", "replicated", "router", bias=router_bias
    )
    if correction_bias:
        name = f"{at}.{router}.e_score_correction_bias"
        tensors += (Tensor(name, num_experts, 1, "router"),)
    if gated:
        tensors += gated_tensors(
            hidden, expert_width, experts, "experts", "experts.",
            copies=num_experts, names=names, bias=bias,
        )  # fmt: skip
    else:
        tensors += plain_tensors(
            hidden, expert_width, experts, "experts", "experts.", copies=num_experts, bias=bias,
        )  # fmt: skip
    if shared_width:
        tensors += _shared(hidden, shared_width, f"{at}.{shared_at}", gated, names)
        if shared_gate:
            tensors += linear(
                f"{at}.{shared_at}_gate", 1, hidden, "router", "replicated", "shared_expert_gate"
            )
    return Moe(num_experts, top_k, expert_width, hidden, shared_width, gated, tensors)


def _shared(hidden: int, width: int, at: str, gated: bool, names: MlpNames) -> tuple[Tensor, ...]:
    if gated:
        return gated_tensors(hidden, width, at, "shared_experts", "shared_experts.", names=names)
    return plain_tensors(hidden, width, at, "shared_experts", "shared_experts.")


def experts_of(config: Fields, count: str, top_k: str = "num_experts_per_tok") -> tuple[int, int]:
    """(experts, experts of a token), with the second at most the first."""
    experts = config.size(count, hi=MAX_EXPERTS)
    chosen = config.size(top_k, hi=MAX_EXPERTS)
    if chosen > experts:
        raise config.bad(top_k, f"at most the {experts} experts")
    return experts, chosen
