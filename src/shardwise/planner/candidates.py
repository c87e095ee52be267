"""Enumerate the layouts and dtypes on a node; those that break a rule are kept with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
from msgspec.structs import replace

from shardwise.architecture.bundled import stored_in
from shardwise.engines.checks import problems
from shardwise.engines.device import device_of
from shardwise.engines.facts import Capabilities
from shardwise.engines.loading import Loader, refusals
from shardwise.engines.registry import get
from shardwise.hardware.node import Node
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.layout.nodes import replicas_on, straddles
from shardwise.layout.rules import context_parallel_sizes
from shardwise.planner.question import Question

Cause = Literal["sharding rule", "memory", "overload", "SLO"]


class Option(msgspec.Struct, frozen=True):
    """A layout in one weight dtype."""

    layout: Layout
    weight_dtype: str

    def __str__(self) -> str:
        one = self.layout.name
        return f"{self.layout.replicas} x {f'({one})' if ' ' in one else one} {self.weight_dtype}"


class Rejected(msgspec.Struct, frozen=True):
    """A candidate that cannot run or cannot sustain the load, with the reason in one sentence."""

    option: Option
    cause: Cause
    reason: str
    shortfall_bytes: float = 0.0  #: a GPU, for cause "memory"
    request_rate: float = 0.0  #: requests/s the node carries, for cause "overload"


def sizes(gpus: int) -> tuple[int, ...]:
    """Return sizes of TP, PP and attention DP: powers of two up to `gpus`, and the divisors of
    `gpus`."""
    return tuple(size for size in range(1, gpus + 1) if size & (size - 1) == 0 or gpus % size == 0)


def _none(tp_size: int) -> tuple[int, ...]:
    del tp_size
    return ()


def layouts(
    gpus: int,
    experts: bool,
    capabilities: Capabilities,
    sharers: Callable[[int], tuple[int, ...]] = _none,
) -> Iterator[Layout]:
    """Return layouts of one replica, with as many replicas as fit on `gpus`.

    Args:
        gpus: Number of GPUs in the node.
        experts: Whether the model has some: then they are also kept whole, and attention is also
            copied rather than cut, within one pipeline stage.
        capabilities: Of the engine; layouts without a flag are skipped.
        sharers: Sizes of decode context parallelism that a TP allows, within one pipeline stage.
    """
    for tp in sizes(gpus):
        for pp in sizes(gpus // tp):
            yield Layout(tp, pp, replicas=gpus // (tp * pp))
        shared = sharers(tp)
        for dcp in shared:
            yield Layout(tp, replicas=gpus // tp, dcp_size=dcp)
        if not experts:
            continue
        for dcp in (1, *shared) if tp > 1 else ():
            yield Layout(tp, ep_size=tp, replicas=gpus // tp, dcp_size=dcp)
        for copies in sizes(gpus // tp) if capabilities.attention_dp else ():
            if copies > 1 and (tp == 1 or capabilities.attention_dp_with_tp):
                ranks = tp * copies
                yield Layout(tp, 1, ranks, copies, replicas=gpus // ranks)


def enumerate_candidates(question: Question) -> tuple[list[Option], list[Rejected]]:
    """Return layouts that break no rule, and those that do. Replicas fill the node."""
    possible: list[Option] = []
    rejected: list[Rejected] = []
    can = get(question.engine).capabilities
    enumerated = list(
        layouts(question.node.gpus, question.arch.moe is not None, can, _sharers(question))
    )
    for dtype in question.dtypes():
        for layout in enumerated:
            option = Option(_placed(layout, question.node), dtype)
            reason = _broken(question, option)
            if reason:
                rejected.append(Rejected(option, "sharding rule", reason))
            else:
                possible.append(option)
    return possible, rejected


def _sharers(question: Question) -> Callable[[int], tuple[int, ...]]:
    """Ranks that may share a cache, by TP: where nothing keeps copies of it, or the engine cannot,
    none is worth a line of why not."""
    can, model = get(question.engine).capabilities.decode_context_parallel, question.arch
    if can is None or question.node.gpu.vendor not in can.vendors:
        return _none
    if can.caches == "latent" and model.mla is None:
        return _none
    return lambda tp_size: context_parallel_sizes(model, tp_size)


def _placed(layout: Layout, node: Node) -> Layout:
    """Return `layout` with as many replicas as fit on the nodes."""
    if node.nodes == 1:
        return layout
    held = replicas_on(layout, node.nodes, node.gpus_per_node)
    return replace(layout, replicas=max(held, 1))


def _across(question: Question, layout: Layout) -> str:
    """Return why a replica cannot span the question's nodes, or ""."""
    node, engine = question.node, get(question.engine)
    if node.nodes == 1 or layout.replica_gpus <= node.gpus_per_node:
        return ""
    if reason := straddles(layout, node.gpus_per_node):
        return reason
    if not engine.capabilities.multi_node:
        return f"{engine.title} across nodes: its flags are not known"
    return ""


def _broken(question: Question, option: Option) -> str:
    """Return the rules that it breaks; "" for none."""
    layout = option.layout
    if reason := _across(question, layout):
        return reason
    stored = stored_in(question.arch, option.weight_dtype)
    deployment = Deployment(
        stored.id,
        question.node.gpu.id,
        layout,
        dtypes=Dtypes(option.weight_dtype, question.kv_dtype),
        speculation=question.speculation,
        engine=question.engine,
        engine_version=question.engine_version,
    )
    device = device_of(question.node.gpu)
    unable = problems(get(question.engine), deployment, device, stored)
    loader = Loader(question.engine, device, question.engine_version)
    found = [*map(str, unable), *(v.message for v in refusals(loader, stored, layout))]
    return "; ".join(dict.fromkeys(found))
