"""Feed-forward parts: gated and plain MLP, mixtures of experts."""

from __future__ import annotations

import msgspec

from shardwise.architecture.feed_forward import Mlp, Moe
from shardwise.architecture.fields import MAX_EXPERTS, Fields
from shardwise.architecture.reading.decoder import linear
from shardwise.architecture.tensor import Part, Tensor


class MlpNames(msgspec.Struct, frozen=True):
    """Names of a gated MLP's projections in the checkpoint."""

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
    """Gated MLP of intermediate size `width`."""
    return Mlp(width, True, gated_tensors(hidden, width, at, "mlp", "", names=names, bias=bias))


def plain_mlp(
    hidden: int,
    width: int,
    *,
    at: str = "mlp",
    names: tuple[str, str] = ("up_proj", "down_proj"),
    bias: bool = False,
) -> Mlp:
    """MLP without a gate: up, activation, down."""
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
        *linear(below(at, names.gate), width, hidden, part, "rows", up, copies=copies, bias=bias),
        *linear(below(at, names.up), width, hidden, part, "rows", up, copies=copies, bias=bias),
        *linear(
            below(at, names.down), hidden, width, part, "cols", f"{gemm}down_proj",
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
    """Tensors of an MLP without a gate, `copies` times."""
    up, down = names
    return (
        *linear(
            below(at, up), width, hidden, part, "rows", f"{gemm}up_proj", copies=copies, bias=bias
        ),
        *linear(
            below(at, down), hidden, width, part, "cols", f"{gemm}down_proj",
            copies=copies, bias=bias,
        ),
    )  # fmt: skip


class Experts(msgspec.Struct, frozen=True):
    """Routed experts: their number, the number per token, and their matrices."""

    count: int
    top_k: int
    width: int
    names: MlpNames = MlpNames()
    bias: bool = False
    gated: bool = True
    at: str = "experts"
    input_size: int = 0  #: input and output features of an expert; 0: the hidden size


class Router(msgspec.Struct, frozen=True):
    """The router's tensor. `correction`: name of a bias used only for selection (DeepSeek-V3)."""

    name: str = "gate"
    bias: bool = False
    correction: str = ""


#: DeepSeek-V3's router.
CORRECTED = Router(correction="gate.e_score_correction_bias")


class Shared(msgspec.Struct, frozen=True):
    """Shared experts as one MLP of `width`. `gate`: its output has a gate (Qwen2-MoE)."""

    width: int
    at: str = "shared_experts"
    gate: str = ""
    names: MlpNames = MlpNames()


def moe(
    hidden: int,
    experts: Experts,
    *,
    router: Router = Router(),
    shared: Shared | None = None,
    at: str = "mlp",
    extra: tuple[Tensor, ...] = (),
) -> Moe:
    """Return a mixture of experts: router, routed experts, shared experts if any, and `extra`
    tensors."""
    tensors = _router(hidden, experts, router, at) + _routed(hidden, experts, at)
    width = shared.width if shared else 0
    if shared and width:
        tensors += _shared(hidden, shared, at, gated=experts.gated)
    return Moe(
        experts.count,
        experts.top_k,
        experts.width,
        experts.input_size or hidden,
        width,
        experts.gated,
        tensors + extra,
    )


def below(at: str, name: str) -> str:
    """Return `name` within the module `at`; `name` itself if `at` is empty."""
    return f"{at}.{name}" if at else name


def _router(hidden: int, experts: Experts, router: Router, at: str) -> tuple[Tensor, ...]:
    tensors = linear(
        below(at, router.name), experts.count, hidden, "router", "replicated", "router",
        bias=router.bias,
    )  # fmt: skip
    if router.correction:
        tensors += (Tensor(below(at, router.correction), experts.count, 1, "router"),)
    return tensors


def _routed(hidden: int, e: Experts, at: str) -> tuple[Tensor, ...]:
    name, size = below(at, f"{e.at}.*"), e.input_size or hidden
    if e.gated:
        return gated_tensors(
            size, e.width, name, "experts", "experts.", copies=e.count, names=e.names, bias=e.bias
        )
    return plain_tensors(
        size, e.width, name, "experts", "experts.",
        copies=e.count, names=(e.names.up, e.names.down), bias=e.bias,
    )  # fmt: skip


def _shared(hidden: int, shared: Shared, at: str, *, gated: bool) -> tuple[Tensor, ...]:
    name, names = below(at, shared.at), shared.names
    gate: tuple[Tensor, ...] = ()
    if shared.gate:
        gate = linear(
            below(at, shared.gate), 1, hidden, "router", "replicated", "shared_expert_gate"
        )
    if gated:
        return gate + gated_tensors(
            hidden, shared.width, name, "shared_experts", "shared_experts.", names=names
        )
    return gate + plain_tensors(
        hidden, shared.width, name, "shared_experts", "shared_experts.",
        names=(names.up, names.down),
    )  # fmt: skip


def experts_of(config: Fields, count: str, top_k: str = "num_experts_per_tok") -> tuple[int, int]:
    """Return (number of experts, experts per token). Raises InputError if the second is larger."""
    experts = config.size(count, hi=MAX_EXPERTS)
    chosen = config.size(top_k, hi=MAX_EXPERTS)
    if chosen > experts:
        raise config.bad(top_k, f"at most the {experts} experts")
    return experts, chosen
