"""`study_layouts`: study a grid of layouts instead of TP sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardwise.api.hardware import hardware_of
from shardwise.api.result import Result
from shardwise.api.studying import BATCHES
from shardwise.files import AnyPath
from shardwise.layout.deployment import FixedLimits, Layout
from shardwise.layout.speculation import Speculation
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.workload.workload import TRAFFIC_CV, Mode

if TYPE_CHECKING:
    from shardwise.analysis.layout_steps import LayoutGrid
    from shardwise.evidence.record import Evidence
    from shardwise.reports.table import Table


class LayoutStudy(Result):
    """Predictions of each layout at each batch, and the steps between neighbouring layouts."""

    kind = "study_layouts"

    def __init__(self, grid: LayoutGrid) -> None:
        self.grid = grid

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Return a prediction of one replica for each layout and batch."""
        return self.grid.evidence

    def summary(self) -> str:
        """Report the layouts that do not fit, and why; "" if all fit."""
        return "\n".join(f"skipped {item.layout}: {item.reason}" for item in self.grid.left_out)

    def tables(self) -> list[Table]:
        """Return the grid, then the steps from each layout to the next."""
        from shardwise.reports.layout_tables import layout_tables

        return layout_tables(self.grid)

    def write(self, folder: AnyPath) -> list[Path]:
        """Write the grid as JSON and each table as CSV into `folder`.

        Raises:
            InputError: The folder cannot be written.
        """
        from shardwise.reports.files import prepare_folder, write_csv, write_json

        folder = prepare_folder(Path(folder))
        written = [write_json(folder / "layouts.json", self.grid)]
        return [*written, *(write_csv(folder / f"{t.name}.csv", t) for t in self.tables())]

    def _answer(self) -> dict[str, Any]:
        return {"layouts": self.grid}


def study_layouts(
    model: str,
    *,
    gpu: str = "",
    layouts: Sequence[str | Layout],
    gpus: int | None = None,
    concurrencies: Sequence[int] | None = None,
    isl: int = 2048,
    osl: int = 2048,
    cached_tokens: int = 0,
    length_cv: float = TRAFFIC_CV,
    mode: Mode = "closed_loop",
    requests: int = 0,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    engine: str = "vllm",
    engine_version: str = "",
    limits: FixedLimits | None = None,
    profile: str = "reference",
    catalogue_files: Sequence[AnyPath] = (),
    node_file: AnyPath | None = None,
    speculation: str = "none",
    acceptance: float | None = None,
) -> LayoutStudy:
    """Predict latency and throughput per GPU of each layout on one node.

    Args:
        model: A bundled id, a folder, a `config.json` or a Hugging Face id.
        gpu: GPU id of the catalogue; may be left out with `node_file`.
        layouts: Layouts to compare, e.g. `TP8`, `TP8xEP8`, `DP8xEP8` or `TP4xPP2`.
        gpus: GPUs in the node; None: those of the node file, else 8.
        concurrencies: Requests in flight per replica; None takes the defaults of `study` that are
            multiples of every layout's attention DP size.
        isl: Input tokens of a request.
        osl: Output tokens of a request.
        cached_tokens: Tokens of `isl` that all prompts begin with, in the prefix cache.
        length_cv: Standard deviation of lengths over their means; 0: all equal.
        mode: `closed_loop` keeps the requests in flight, `static_batch` runs them once.
        requests: Requests of each run; 0: ten for each one in flight.
        dtype: Weight dtype; `auto` is the checkpoint's.
        kv_dtype: KV cache dtype; `auto` is what the checkpoint asks for.
        engine: `vllm`, `sglang`, `trtllm`, `atom` or `builtin`.
        engine_version: Version of the engine; "" takes what holds for every known one.
        limits: Engine limits that are fixed instead of chosen.
        profile: Name of a profile, or a shared profile file.
        catalogue_files: TOML files with your own GPUs and prices.
        node_file: Node file that `shardwise doctor --save` wrote; gives GPUs, links and devices.
        speculation: Drafted tokens a step: `mtp:3` by the model's own heads, or `DRAFT-MODEL:4`.
        acceptance: Share of drafted tokens that is accepted; None assumes one, with a range.

    Raises:
        InputError: An argument cannot be used, or a layout is not possible.
        DoesNotFitError: No layout has the memory.
    """
    from shardwise.analysis.layout_steps import layout_grid
    from shardwise.analysis.run import Question
    from shardwise.layout.deployment import layout_of

    taken = hardware_of(gpu, gpus, node_file, catalogue_files)
    asked = Asked(
        model, taken.gpu, engine, dtype, kv_dtype, profile, taken.files, engine_version,
        Speculation.parse(speculation, acceptance),
    )  # fmt: skip
    named = [layout_of(item) if isinstance(item, str) else item for item in layouts]
    subject, _ = subject_of(asked)
    if concurrencies is None:
        copies = math.lcm(*(layout.attention_dp for layout in named))
        concurrencies = tuple(b for b in BATCHES if b % copies == 0) or (copies,)
    question = Question(
        taken.gpus, (), tuple(concurrencies), isl, osl, mode, requests, limits or FixedLimits(),
        cached_tokens, length_cv,
    )  # fmt: skip
    return LayoutStudy(layout_grid(subject, question, named))
