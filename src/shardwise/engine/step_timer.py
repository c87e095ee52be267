"""Time of a step on each rank: attention, MLP, all-reduce, and each GEMM.

Layers are wrapped only while a step is timed, so serving is not slowed down. On CUDA, events on
the stream are read after the step. A step that the server replays as a CUDA graph is timed as a
graph too: launched kernel by kernel, decode steps of a 1B model take four to eight times as long on
an H100. Its parts come from a second capture, with events between them.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import msgspec
import torch

from shardwise.engine import peak_rates
from shardwise.engine.decode_graphs import Step
from shardwise.engine.layers import ExpertMlp
from shardwise.engine.model import ShardedModel
from shardwise.engine.peak_rates import PeakRates
from shardwise.engine.rank import Rank
from shardwise.engine.scheduler import Segment, StepPlan


class Product(msgspec.Struct, frozen=True):
    """One kind of matrix product in a step: y [rows, outputs] = x [rows, inputs] W^T."""

    name: str
    rows: int
    inputs: int
    outputs: int
    calls: int  #: per step
    seconds: float  #: median of one call
    flops_per_s: float
    bytes_per_s: float  #: of weight, input and output


class Message(msgspec.Struct, frozen=True):
    """All-reduces of one size in a step; the time includes waiting for the slowest rank."""

    bytes: int
    calls: int
    seconds: float  #: median of one call


class RankProfile(msgspec.Struct, frozen=True):
    """One rank's median step. attention, mlp, all_reduce and other add up to total."""

    tp_rank: int
    seconds: dict[str, float]
    totals_s: list[float]  #: times of every repeat
    products: list[Product]
    messages: list[Message]


@dataclass
class _Mark:
    label: str
    shape: tuple[int, ...]
    size: int  #: rows, or bytes of a message
    inside: str  #: label of the enclosing part
    start: Any
    end: Any = None


@dataclass
class _Watch:
    """Timed intervals of one step, in order of their start."""

    device: torch.device
    marks: list[_Mark] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def now(self) -> Any:
        if self.device.type == "cpu":
            return perf_counter()
        # an external event is part of a captured graph, and each replay records it again
        event = torch.cuda.Event(
            enable_timing=True, external=torch.cuda.is_current_stream_capturing()
        )
        event.record()
        return event

    def timed(
        self, label: str, shape: tuple[int, ...], work: Callable[..., Any]
    ) -> Callable[..., Any]:
        def run(x: torch.Tensor, *rest: Any) -> Any:
            size = x.numel() * x.element_size() if label == "all_reduce" else x.shape[0]
            inside = self._open[-1] if self._open else ""
            mark = _Mark(label, shape, size, inside, self.now())
            self.marks.append(mark)
            self._open.append(label)
            y = work(x, *rest)
            mark.end = self.now()
            self._open.pop()
            return y

        return run

    def seconds(self, mark: _Mark) -> float:
        if self.device.type == "cpu":
            return float(mark.end - mark.start)
        return float(mark.start.elapsed_time(mark.end)) / 1e3


def _watched(model: ShardedModel) -> Iterator[tuple[object, str, str, tuple[int, ...]]]:
    """Return (owner, attribute, label, weight shape) of each timed call."""
    for layer in model.layers:
        yield layer, "attention", "attention", ()
        yield layer, "mlp", "mlp", ()
        attention = layer.attention
        yield attention.qkv, "linear", "qkv", attention.qkv.linear.shape
        yield attention.output, "linear", "output", attention.output.linear.shape
        local = layer.mlp.local
        for mlp in local.experts if isinstance(local, ExpertMlp) else [local]:
            yield mlp.gate_up, "linear", "gate_up", mlp.gate_up.linear.shape
            yield mlp, "down", "down", mlp.down.shape
    yield model.head, "linear", "lm_head", model.head.linear.shape
    yield model.embed.collectives, "all_reduce", "all_reduce", ()


@contextmanager
def _watching(model: ShardedModel, watch: _Watch) -> Iterator[None]:
    """Make the parts of the model report to `watch` within the context."""
    replaced = []
    try:
        for owner, name, label, shape in list(_watched(model)):
            before = getattr(owner, name)
            replaced.append((owner, name, before))
            setattr(owner, name, watch.timed(label, shape, before))
        yield
    finally:
        for owner, name, before in replaced:
            setattr(owner, name, before)


def profile_rank(rank: Rank, plan: StepPlan, repeats: int) -> RankProfile:
    """Time `repeats` runs of `plan` on this rank as the server runs it, after a warm-up run."""
    timed = _replayed if rank.replays(plan) else _called
    steps: list[dict[str, float]] = []
    calls: dict[tuple[str, tuple[int, ...], int], list[float]] = defaultdict(list)
    for watch, parts in timed(rank, plan, repeats):
        steps.append(parts)
        for mark in watch.marks:
            calls[mark.label, mark.shape, mark.size].append(watch.seconds(mark))
    middle = sorted(steps, key=lambda parts: parts["total"])[(repeats - 1) // 2]
    item = rank.model.norm.element_size()
    return RankProfile(
        tp_rank=rank.tp_rank,
        seconds=middle,
        totals_s=[parts["total"] for parts in steps],
        products=[_product(key, times, repeats, item) for key, times in calls.items() if key[1]],
        messages=[
            Message(size, len(times) // repeats, statistics.median(times))
            for (label, _, size), times in calls.items()
            if label == "all_reduce"
        ],
    )


def _called(rank: Rank, plan: StepPlan, repeats: int) -> Iterator[tuple[_Watch, dict[str, float]]]:
    """Yield the intervals and parts of each run, launched kernel by kernel."""
    rank.call_by_call(plan)
    for _ in range(repeats):
        watch = _Watch(rank.device)
        with _watching(rank.model, watch):
            watch.timed("step", (), lambda _: rank.call_by_call(plan))(torch.empty(1))
        peak_rates.settle(rank.device)
        yield watch, _parts(watch)


def _replayed(
    rank: Rank, plan: StepPlan, repeats: int
) -> Iterator[tuple[_Watch, dict[str, float]]]:
    """Yield the intervals of each replay with events, and the parts of a replay without them."""
    watch = _Watch(rank.device)

    def watched(work: Step) -> torch.Tensor:
        watch.marks.clear()  # those of the warm-up
        with _watching(rank.model, watch):
            return watch.timed("step", (), lambda _: work())(torch.empty(1))

    graphs = rank.graphs(lambda work: rank.record(partial(watched, work)))
    with torch.inference_mode():
        graphs.run(plan)
    rank.forward(plan)
    for _ in range(repeats):
        plain = _Watch(rank.device)
        plain.timed("step", (), lambda _: rank.forward(plan))(torch.empty(1))
        with torch.inference_mode():
            graphs.run(plan)
        peak_rates.settle(rank.device)
        yield watch, _scaled(_parts(watch), plain.seconds(plain.marks[0]))


def _scaled(parts: dict[str, float], total: float) -> dict[str, float]:
    """Return `parts` of a step that takes `total`: its events lengthen the parts a little."""
    shrunk = min(1.0, total / parts["total"])
    inside = {name: parts[name] * shrunk for name in ("attention", "mlp", "all_reduce")}
    return inside | {"other": total - sum(inside.values()), "total": total}


def _parts(watch: _Watch) -> dict[str, float]:
    """Return the seconds of a step by part. A part does not include the all-reduce at its end."""
    spent: dict[str, float] = defaultdict(float)
    for mark in watch.marks:
        if mark.label in ("attention", "mlp", "all_reduce", "step"):
            spent[mark.label] += watch.seconds(mark)
        if mark.label == "all_reduce" and mark.inside in ("attention", "mlp"):
            spent[mark.inside] -= watch.seconds(mark)
    parts = {name: spent[name] for name in ("attention", "mlp", "all_reduce")}
    return parts | {"other": spent["step"] - sum(parts.values()), "total": spent["step"]}


def _product(
    key: tuple[str, tuple[int, ...], int], times: list[float], repeats: int, item_bytes: int
) -> Product:
    name, (outputs, inputs), rows = key
    seconds = statistics.median(times)
    moved = item_bytes * (outputs * inputs + rows * (inputs + outputs))
    return Product(
        name=name,
        rows=rows,
        inputs=inputs,
        outputs=outputs,
        calls=len(times) // repeats,
        seconds=seconds,
        flops_per_s=2 * rows * inputs * outputs / seconds,
        bytes_per_s=moved / seconds,
    )


def measure_peak_rates(rank: Rank) -> PeakRates:
    """Return this rank's peak rates, measured at the same time as those of other ranks."""
    return peak_rates.measure(rank.model.dtype, rank.device)


def prefill_plan(batch: int, isl: int, block_size: int) -> StepPlan:
    """Return a plan of `batch` prompts of `isl` tokens in one step."""
    return _plan(batch, isl, isl, block_size)


def decode_plan(batch: int, context: int, block_size: int) -> StepPlan:
    """Return a plan of one token for each of `batch` sequences with `context` tokens then."""
    return _plan(batch, 1, context, block_size)


def _plan(batch: int, length: int, context: int, block_size: int) -> StepPlan:
    width = -(-context // block_size)
    segments = [
        Segment(length, context, tuple(range(i * width, (i + 1) * width)), True)
        for i in range(batch)
    ]
    return StepPlan([1 + i % 7 for i in range(batch * length)], segments)
