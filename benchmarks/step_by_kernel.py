"""Kernels of vLLM's steps on one H100, profiled, and the time that the model predicts for each.

    python benchmarks/step_by_kernel.py [--write]

`results/step_by_kernel.json` has the measured time of each kernel and says how they were measured.
Nothing is fitted to them; docs/step-by-kernel.md says which constants were chosen with them in
sight. `--write` keeps that page.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from shardwise.layout.arrays import Layouts
from shardwise.layout.deployment import Deployment, Dtypes
from shardwise.perfmodel.grids import TOKENS, along, place
from shardwise.perfmodel.memory import Platform
from shardwise.perfmodel.operators import GEMM_MATRIX, GEMM_WEIGHTS
from shardwise.perfmodel.step import Setting, step_time
from shardwise.perfmodel.step_operators import experts_s
from shardwise.reports.table import Column, Table, markdown, text_cell
from shardwise.simulator.fleet import subject_for

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "results" / "step_by_kernel.json"
DOCUMENT = ROOT / "docs" / "step-by-kernel.md"
CLASSES = ("gemm", "experts", "attention", "small")
#: Classes of kernels by a part of their name; the first one counts, and all others are small.
#: torch.compile fuses norms and activations into the quantization of a product's inputs.
PARTS = (
    *(("reshape_and_cache", "small"), ("scaled_mm", "gemm"), ("triton_", "small")),
    *(("flash::", "attention"), ("fused_moe_kernel", "experts"), ("moe_align", "experts")),
    *(("count_and_sort_expert", "experts"), ("act_and_mul", "experts")),
    *(("reduce_kernel<128", "experts"), ("nvjet", "gemm"), ("gemm", "gemm")),
    *(("splitKreduce", "gemm"), ("gemv", "gemm")),
)
NOTE = (
    "- Classes: gemm with the sums of split-K and, in fp8, the quantization of inputs, into which "
    "torch.compile fuses norms and activations; experts with alignment, activation and sum; "
    "attention with its combine; small is all else: norms, rotary embedding, cache writes, "
    "routing, sampling, copies."
)


class Step(msgspec.Struct, frozen=True):
    """One profiled step: decoding sequences at a mean context, or prompts of one length. Kernels
    are (index of the name, calls, milliseconds)."""

    sequences: int
    context: int
    prompts: int
    isl: int
    kernels: list[tuple[int, float, float]]

    @property
    def name(self) -> str:
        """What the step computes."""
        if self.prompts:
            return f"{self.prompts} x {self.isl:,} prompt tokens"
        return f"decode of {self.sequences} at {self.context:,}"


class Profiled(msgspec.Struct, frozen=True):
    """The steps of one model, and the names of its kernels."""

    model: str
    weight_dtype: str
    steps: list[Step]
    names: list[str]

    def kernels_ms(self, step: Step) -> dict[str, float]:
        """Milliseconds of a step by class of kernels."""
        found: dict[str, float] = {}
        for index, _, ms in step.kernels:
            name = class_of(self.names[index])
            found[name] = found.get(name, 0.0) + ms
        return found


def class_of(name: str) -> str:
    """Return the class of a kernel."""
    return next((known for part, known in PARTS if part in name), "small")


def setting_of(profiled: Profiled) -> Setting:
    """Return the inputs of step times of a model on that GPU and engine."""
    dtypes = Dtypes(weight=profiled.weight_dtype, kv="bf16")
    return subject_for(
        Deployment(profiled.model, "h100", dtypes=dtypes, engine_version="0.20.2")
    ).setting


def predicted_ms(setting: Setting, step: Step) -> dict[str, float]:
    """Return the predicted milliseconds of a step by class of kernels, and the engine's own."""
    layout = Deployment("", "").layout
    c, kernels = setting.coefficients, setting.kernels(Layouts.of([layout]))
    tokens = float(step.sequences + step.prompts * step.isl)
    scheduling = Platform(setting.gpu, setting.engine, setting.version).scheduling
    graph_tokens = scheduling.prompt_graphs.tokens(setting.arch, layout, drafts=False)
    whole = step_time(
        setting,
        kernels,
        np.array([float(step.sequences)]),
        np.array([float(step.context)]),
        np.array([float(step.prompts * step.isl)]),
        np.array([step.isl / 2.0]),
        as_graphs=float(tokens <= graph_tokens),
    )

    def at(table: np.ndarray, rows: float) -> np.ndarray:
        return np.asarray(along(table, np.zeros(1, np.int64), place(np.array([rows]), TOKENS))[0])

    dense = at(kernels.dense, tokens)
    found = {
        "gemm": c["gemm"] * dense[GEMM_WEIGHTS] + c["matrix"] * dense[GEMM_MATRIX],
        "experts": experts_s(setting, layout, tokens),
    }
    found["gemm"] += c["gemm"] * float(at(kernels.head, float(step.sequences + step.prompts)))
    products = found["gemm"] + found["experts"]
    found["attention"] = float((whole.weights + whole.compute + whole.kv)[0]) - products
    found["engine"] = c["step"] + c["sequence"] * step.sequences
    found["small"] = float(whole.overhead[0]) - found["engine"]
    return {name: 1e3 * float(seconds) for name, seconds in found.items()}


def compared(models: Sequence[Profiled]) -> Iterator[tuple[Profiled, Step, dict[str, float]]]:
    """Every step with its prediction."""
    for profiled in models:
        setting = setting_of(profiled)
        for step in profiled.steps:
            yield profiled, step, predicted_ms(setting, step)


def cells(models: Sequence[Profiled]) -> Iterator[tuple[str, ...]]:
    """Rows of the page's table."""
    for profiled, step, ours in compared(models):
        theirs = profiled.kernels_ms(step)
        shown = [
            f"{theirs[name]:.2f} / {ours[name]:.2f}" if name in theirs else "" for name in CLASSES
        ]
        measured = sum(theirs.values())
        total = sum(ours[name] for name in CLASSES)
        both = f"{measured:.2f} / {total:.2f} ({100 * (total / measured - 1):+.0f} %)"
        name = f"{profiled.model}, {profiled.weight_dtype}"
        yield name, step.name, *shown, both, f"{ours['engine']:.2f}"


def medians(models: Sequence[Profiled]) -> dict[str, float]:
    """Median absolute error of each class over the decode steps, in percent."""
    errors: dict[str, list[float]] = {name: [] for name in CLASSES}
    for profiled, step, ours in compared(models):
        for name, measured in profiled.kernels_ms(step).items() if step.sequences else ():
            errors[name].append(100 * abs(ours[name] / measured - 1))
    return {name: round(statistics.median(found), 1) for name, found in errors.items()}


def document(data: Mapping[str, Any], models: Sequence[Profiled]) -> str:
    """Return the page."""
    hardware, software = data["hardware"], data["software"]
    titles = ("model", "step", *CLASSES, "all kernels", "engine, predicted")
    columns = tuple(Column(t, t, align="right" if k > 1 else "left") for k, t in enumerate(titles))
    rows = tuple(tuple(map(text_cell, row)) for row in cells(models))
    title = "Kernel times in a step in ms, measured / predicted"
    errors = ", ".join(f"{name} {error} %" for name, error in medians(models).items())
    machine = (
        f"{hardware['gpu']}; driver {hardware['driver']}; vLLM {software['vllm']}, torch "
        f"{software['torch']}; {data['date']}. Median absolute errors in decode steps: {errors}."
    )
    notes = "\n".join([*(f"- {note}" for note in data["notes"]), NOTE])
    head, tail = (
        (ROOT / "docs" / f"step-by-kernel.{part}.md").read_text("utf-8").strip()
        for part in ("head", "tail")
    )
    table = markdown(Table("steps", title, columns, (rows,))).strip()
    return "\n\n".join((head, machine, table, notes, tail)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true", help="write the page")
    asked = parser.parse_args()
    data = json.loads(MEASURED.read_text("utf-8"))
    models = msgspec.convert(data["models"], list[Profiled])
    text = document(data, models)
    if asked.write:
        DOCUMENT.write_text(text, "utf-8")
    else:
        print(text)
    print(json.dumps({"benchmark": "step_by_kernel", "median_error_pct": medians(models)}))


if __name__ == "__main__":
    main()
