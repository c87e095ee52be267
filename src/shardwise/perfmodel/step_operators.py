"""The operators of a decode step, with their times and provenance."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from shardwise.evidence.record import Evidence
from shardwise.kernels import experts as experts_kernel
from shardwise.kernels import gemm as gemm_kernel
from shardwise.kernels.provenance import Provenance
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import Layout
from shardwise.layout.shards import rank_shards
from shardwise.perfmodel.attention_operators import decode_provenance
from shardwise.perfmodel.best_tables import fastest, own_or_fastest
from shardwise.perfmodel.estimate import Subject
from shardwise.perfmodel.grids import TOKENS, along, place
from shardwise.perfmodel.loads import Offered, make_load
from shardwise.perfmodel.messages import Node, reduce_provenance
from shardwise.perfmodel.operators import (
    EXPERT_MATRIX,
    EXPERT_WEIGHTS,
    expert_operators,
    head_products,
    products,
)
from shardwise.perfmodel.serving_steps import decode_step, mean_context
from shardwise.perfmodel.step import Setting

ATTENTION: Final = {
    "Attention": "attention, reading the KV cache",
    "Mla": "latent attention, reading the KV cache",
    "LinearAttention": "linear attention, its state",
    "Mamba2": "Mamba2, its state",
}


class OperatorTime(msgspec.Struct, frozen=True):
    """One kind of operator in a step of one rank.

    Attributes:
        seconds: Time of all its calls in a step, with fitted factors.
        provenance: Provenance of its kernel time; None for the engine's own time, which is
            calibrated on rows.
    """

    name: str
    seconds: float
    provenance: Provenance | None


class StepOperators(msgspec.Struct, frozen=True):
    """A decode step of `sequences` (mean number) at a mean `context`. The times of the operators
    add up to `step_s`."""

    sequences: float
    context: float
    step_s: float
    operators: tuple[OperatorTime, ...]


def step_operators(subject: Subject, evidence: Evidence) -> StepOperators:
    """Return the operators of the decode step that determines a prediction's TPOT.

    The number of decoding sequences follows from Little's law: requests in flight times the share
    of a request's time that it decodes.

    Args:
        subject: Model, GPU and engine of `evidence`, without speculative decoding.
        evidence: A prediction of one replica, with TTFT and E2E latency.
    """
    layout, load = evidence.deployment.layout, evidence.workload
    e2e, ttft = (evidence.metrics[name].value for name in ("e2e_latency_s", "ttft_s"))
    share = 1.0 if load.mode == "static_batch" else 1.0 - ttft / e2e
    sequences = max(load.concurrency * share, 1.0)
    one = [evidence.deployment]
    whole = make_load(
        subject.arch,
        subject.platform,
        subject.setting.kv_dtype,
        Deployments.of(one),
        Offered(*(np.array([float(x)]) for x in (load.concurrency, load.isl, load.osl, 1.0))),
    )
    step = decode_step(subject.setting, whole, np.array([sequences]))
    context = float(mean_context(whole)[0])
    c = subject.setting.coefficients
    own = sequences / layout.pp_size / layout.attention_dp
    attention = float(step.kv[0])
    host = c["step"] * layout.pp_size + c["sequence"] * own
    found = _products(subject, evidence, own, float(step.weights[0] + step.compute[0]))
    found += _attention(subject, evidence, own, context, attention)
    if step.communication[0] > 0:
        name = "all-reduce" if layout.tp_size > 1 else "passing to the next stage"
        found.append(
            OperatorTime(name, float(step.communication[0]), _message(subject, evidence, own))
        )
    rest = float(step.overhead[0]) - host
    found.append(OperatorTime("norms, activations, launches", max(rest, 0.0), Provenance.ROOFLINE))
    found.append(OperatorTime("engine, between steps", host + min(rest, 0.0), None))
    ordered = sorted(found, key=lambda o: -o.seconds)
    return StepOperators(sequences, context, float(step.total[0]), tuple(ordered))


def _products(
    subject: Subject, evidence: Evidence, tokens: float, total: float
) -> list[OperatorTime]:
    """Return dense and expert GEMMs by name, scaled so that they add up to `total` seconds."""
    gpu, engine, c = subject.gpu, subject.engine, subject.setting.coefficients
    layout = evidence.deployment.with_layout(replicas=1).layout
    rank = rank_shards(subject.arch, layout)
    raw: dict[str, tuple[float, Provenance]] = {}

    def add(name: str, seconds: float, code: int) -> None:
        before, nearest = raw.get(name, (0.0, Provenance.MEASURED))
        raw[name] = (before + seconds, max(nearest, Provenance(code)))

    for p in (*products(rank, gpu), *head_products(rank, gpu)):
        times = fastest(lambda e, p=p: gemm_kernel(gpu, e, p.format, [tokens], p.n, p.k), engine)  # type: ignore[misc]
        add(p.name, p.count * c["gemm"] * float(times.seconds[0]), int(times.provenance[0]))
    stage = tokens * layout.attention_dp
    kinds = []
    for x in expert_operators(rank, gpu):
        sizes = ([stage], x.hidden, x.inter, x.num_experts, x.top_k, x.ep_size, x.gated)
        times = own_or_fastest(
            lambda e, x=x, sizes=sizes: experts_kernel(gpu, e, x.format, *sizes),  # type: ignore[misc]
            engine,
        )
        kinds.append(int(times.provenance[0]))
    if kinds:
        add("experts, grouped", experts_s(subject.setting, layout, stage), max(kinds))
    factor = total / max(sum(seconds for seconds, _ in raw.values()), 1e-12)
    return [OperatorTime(name, factor * seconds, code) for name, (seconds, code) in raw.items()]


def experts_s(setting: Setting, layout: Layout, tokens: float) -> float:
    """Return the seconds of the routed experts of all layers in a step; 0 without experts.

    Args:
        setting: Coefficients and kernels.
        layout: Of one replica.
        tokens: Tokens of the stage, on all copies of attention together.
    """
    c, routed = setting.coefficients, setting.kernels(Layouts.of([layout])).experts
    if routed is None:
        return 0.0
    one = along(routed, np.zeros(1, np.int64), place(np.array([tokens]), TOKENS))[0]
    return float(c["experts"] * one[EXPERT_WEIGHTS] + c["matrix_experts"] * one[EXPERT_MATRIX])


def _attention(
    subject: Subject, evidence: Evidence, sequences: float, context: float, total: float
) -> list[OperatorTime]:
    if total <= 0:
        return []
    rank = rank_shards(subject.arch, evidence.deployment.with_layout(replicas=1).layout)
    kv_dtype = subject.setting.kv_dtype
    kinds = decode_provenance(rank, subject.gpu, subject.engine, kv_dtype, sequences, context)
    name = " and ".join(ATTENTION.get(kind, kind) for kind in kinds)
    return [OperatorTime(name, total, max(kinds.values(), default=Provenance.ROOFLINE))]


def _message(subject: Subject, evidence: Evidence, tokens: float) -> Provenance:
    world = evidence.deployment.tp_size
    if world == 1:
        return Provenance.ROOFLINE
    node = Node(subject.gpu, subject.engine, subject.engine_version)
    return reduce_provenance(node, world, 2.0 * tokens * subject.arch.hidden_size)
