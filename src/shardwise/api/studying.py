"""`study`: latency, throughput and cost of each TP size and batch on one node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shardwise.api.hardware import hardware_of
from shardwise.api.result import Result
from shardwise.files import AnyPath
from shardwise.layout.deployment import FixedLimits
from shardwise.layout.speculation import Speculation
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.reports.study_output import StudyOutput
from shardwise.workload.workload import TRAFFIC_CV, Mode, Slo

if TYPE_CHECKING:
    from shardwise.evidence.record import Evidence
    from shardwise.reports.figure_style import Figure
    from shardwise.reports.table import Table

TP_SIZES: Final = (1, 2, 4, 8)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class StudyResult(Result):
    """A grid of predictions and its analysis."""

    kind = "study"

    def __init__(self, output: StudyOutput) -> None:
        self.output = output

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """A prediction of one replica for each TP size and batch."""
        return self.output.study.evidence

    def summary(self) -> str:
        """Return the recommendations, and the TP sizes that do not fit."""
        from shardwise.reports.advice_words import advice_lines

        skipped = [f"skipped TP={s.tp_size}: {s.reason}" for s in self.output.study.skipped]
        return "\n".join([*advice_lines(self.output.advice), *skipped])

    def tables(self) -> list[Table]:
        """Return the grid, then the tables derived from it."""
        from shardwise.reports.study_output import study_tables

        return study_tables(self.output)

    def charts(self) -> dict[str, Figure]:
        """Return the figures of the report: `frontier`, `time_breakdown`, `cost`, …."""
        from shardwise.reports.figure_style import Figure
        from shardwise.reports.study_output import study_figures

        return {name: Figure(chart) for name, chart in study_figures(self.output).items()}

    def write(
        self, folder: AnyPath, progress: Callable[[str, int, int], None] = lambda *_: None
    ) -> list[Path]:
        """Write JSON, CSV and figures into `folder`, which `shardwise report` and `compare` read.

        Raises:
            InputError: The folder cannot be written.
        """
        from shardwise.reports.files import prepare_folder
        from shardwise.reports.study_output import write_study

        return write_study(self.output, prepare_folder(Path(folder)), progress)

    def _answer(self) -> dict[str, Any]:
        return {"study": self.output.study, "advice": self.output.advice}


def study(
    model: str,
    *,
    gpu: str = "",
    gpus: int | None = None,
    tp_sizes: Sequence[int] = TP_SIZES,
    concurrencies: Sequence[int] = BATCHES,
    isl: int = 2048,
    osl: int = 2048,
    cached_tokens: int = 0,
    length_cv: float = TRAFFIC_CV,
    mode: Mode = "closed_loop",
    requests: int = 0,
    ttft_s: float = 2.0,
    tpot_s: float = 0.05,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    engine: str = "vllm",
    engine_version: str = "",
    limits: FixedLimits | None = None,
    profile: str = "reference",
    catalogue_files: Sequence[AnyPath] = (),
    usd_per_gpu_hour: float | None = None,
    node_file: AnyPath | None = None,
    speculation: str = "none",
    acceptance: float | None = None,
    command: str = "",
) -> StudyResult:
    """Predict how the TP size changes latency, throughput and cost on one node.

    Args:
        model: A bundled id, a folder, a `config.json` or a Hugging Face id.
        gpu: GPU id of the catalogue; may be left out with `node_file`.
        gpus: GPUs in the node; None: those of the node file, else 8.
        tp_sizes: TP sizes to compare.
        concurrencies: Requests in flight per replica.
        isl: Input tokens of a request.
        osl: Output tokens of a request.
        cached_tokens: Tokens of `isl` that all prompts begin with, in the prefix cache.
        length_cv: Standard deviation of lengths over their means; 0: all equal.
        mode: `closed_loop` keeps the requests in flight, `static_batch` runs them once.
        requests: Requests of each run; 0: ten for each one in flight.
        ttft_s: Bound on time to first token for online use, in seconds.
        tpot_s: Bound on time per output token for online use, in seconds.
        dtype: Weight dtype; `auto` is the checkpoint's.
        kv_dtype: KV cache dtype; `auto` is what the checkpoint asks for.
        engine: `vllm`, `sglang`, `trtllm`, `atom` or `builtin`.
        engine_version: Version of the engine; "" takes what holds for every known one.
        limits: Engine limits that are fixed instead of chosen.
        profile: Name of a profile, or a shared profile file.
        catalogue_files: TOML files with your own GPUs and prices.
        usd_per_gpu_hour: Price; None takes the catalogue's.
        node_file: Node file that `shardwise doctor --save` wrote; gives GPUs, links and devices.
        speculation: Drafted tokens a step: `mtp:3` by the model's own heads, or `DRAFT-MODEL:4`.
        acceptance: Share of drafted tokens that is accepted; None assumes one, with a range.
        command: Command that makes the study again, kept in its files.

    Raises:
        InputError: An argument cannot be used.
        DoesNotFitError: No TP size has the memory.
    """
    from shardwise.analysis.run import Question
    from shardwise.reports.answering import Wanted, answer

    taken = hardware_of(gpu, gpus, node_file, catalogue_files)
    asked = Asked(
        model, taken.gpu, engine, dtype, kv_dtype, profile, taken.files, engine_version,
        Speculation.parse(speculation, acceptance),
    )  # fmt: skip
    subject, catalogue = subject_of(asked)
    question = Question(
        taken.gpus, tuple(tp_sizes), tuple(concurrencies), isl, osl, mode, requests,
        limits or FixedLimits(), cached_tokens, length_cv,
    )  # fmt: skip
    slo = Slo(ttft_s=ttft_s, tpot_s=tpot_s)
    wanted = Wanted(question, slo, usd_per_gpu_hour, command, asked=asked)
    return StudyResult(answer(subject, catalogue, wanted))
