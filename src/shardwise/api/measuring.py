"""`measure_study`: run a study on this machine and compare it with its prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shardwise.api.model_folder import bundled_folder
from shardwise.api.result import Result
from shardwise.errors import InputError
from shardwise.files import AnyPath

if TYPE_CHECKING:
    from shardwise.experiment.outcome import Outcome
    from shardwise.experiment.run import Wanted
    from shardwise.replica.command import Instance
    from shardwise.reports.figure_style import Figure
    from shardwise.reports.table import Table

THIS_MACHINE: Final = "this-machine"
_TORCH_NAMES: Final = {"fp32": "float32", "bf16": "bfloat16"}


class MeasuredStudy(Result):
    """Measured cells with predictions, the corrected profile, and the verdicts on the claims."""

    kind = "study_measure"

    def __init__(self, outcome: Outcome, interrupted: bool) -> None:
        self.outcome = outcome
        self.interrupted = interrupted  #: whether cells are missing; the same call measures them

    @property
    def profile(self) -> str:
        """Name of the corrected profile; "" if there was too little data for a correction."""
        return self.outcome.profile if self.outcome.corrected.profile else ""

    def summary(self) -> str:
        """Report how the time was spent."""
        from shardwise.reports.experiment_tables import time_lines

        return "\n".join(time_lines(self.outcome))

    def tables(self) -> list[Table]:
        """Return measured and predicted cells, errors, and the claims."""
        from shardwise.reports.experiment_tables import experiment_tables

        return experiment_tables(self.outcome)

    def charts(self) -> dict[str, Figure]:
        """Return the figures of the report."""
        from shardwise.reports.figure_style import Figure
        from shardwise.reports.html.experiment import experiment_figures

        return {name: Figure(chart) for name, chart in experiment_figures(self.outcome).items()}

    def write(
        self,
        folder: AnyPath,
        progress: Callable[[str, int, int], None] = lambda *_: None,
        *,
        command: str = "",
    ) -> Path:
        """Write JSON, CSV, figures and the report into `folder`, and return the report's path.

        Args:
            folder: Where to write.
            progress: Called with the current figure, its number, and the total.
            command: Command that repeats the study, shown in the report.

        Raises:
            InputError: The folder cannot be written.
        """
        from shardwise.evidence.portable import portable
        from shardwise.reports.figures import save
        from shardwise.reports.files import write_bytes, write_csv, write_json
        from shardwise.reports.html.experiment import experiment_html

        folder = Path(folder)
        write_json(folder / "experiment.json", portable(self.outcome))
        for table in self.tables():
            write_csv(folder / f"{table.name}.csv", table)
        charts = self.charts()
        for done, (name, figure) in enumerate(charts.items(), start=1):
            progress(f"figure {name}", done, len(charts))
            save(figure.chart, folder, name)
        page = experiment_html(self.outcome, command).encode()
        return write_bytes(folder / "report.html", page)

    def _answer(self) -> dict[str, Any]:
        return {"outcome": self.outcome}


def measure_study(
    model: str,
    *,
    folder: AnyPath,
    tp_sizes: Sequence[int] | None = None,
    concurrencies: Sequence[int] = (1, 4, 16),
    isl: int = 128,
    osl: int = 32,
    gpu: str = "",
    engine: str = "builtin",
    dtype: str = "auto",
    kv_dtype: str = "auto",
    profile: str = "reference",
    name: str = THIS_MACHINE,
    minutes: float | None = None,
    python: str = "",
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> MeasuredStudy:
    """Predict a study, run its missing cells on this machine, and correct the profile.

    The call can be interrupted at any point; call it again with the same folder to resume.

    Args:
        model: A bundled id (random weights), a folder, or a model id of the engine.
        folder: Folder for measured cells.
        tp_sizes: TP sizes to compare; None takes every power of two that the machine has ranks for.
        concurrencies: Requests in flight per replica.
        isl: Input tokens of a request.
        osl: Output tokens of a request.
        gpu: GPU id of the catalogue; "" measures this machine first.
        engine: An engine that is started here: `builtin`, `vllm` or `sglang`.
        dtype: Weight dtype; `auto` is fp32 on CPU, else bf16.
        kv_dtype: KV cache dtype; `auto` is what the checkpoint asks for.
        profile: Profile that predicts, by name or as a shared file.
        name: Name of the corrected profile, kept for `profile=name` from then on.
        minutes: Budget; None measures every cell.
        python: Interpreter of the engine's environment; "" is this one.
        flags: Added to the engine's command.
        env: Variables for the engine.
        say: Called with each line of progress.

    Raises:
        InputError: An argument cannot be used, a library is missing, or the budget is too short.
        ShardwiseError: The engine did not start; `last_lines` is the end of its log.
    """
    from shardwise.api.extras import MEASURE, require_modules

    require_modules(MEASURE, "measure")
    from shardwise.experiment.outcome import outcome
    from shardwise.experiment.run import run
    from shardwise.experiment.timeline import Timeline
    from shardwise.perfmodel.profiles import load_profile, save_profile

    folder = Path(folder)
    asked = _Asked(
        model, folder, tp_sizes, tuple(concurrencies), isl, osl, gpu, engine, dtype, kv_dtype,
        load_profile(profile), minutes, python, tuple(flags), dict(env or {}),
    )  # fmt: skip
    wanted = _wanted(asked, say)
    clock = Timeline()
    ran = run(wanted, folder, clock, say)
    spent = clock.spent()
    if not ran.measured:
        raise InputError(
            f"{minutes or 0:g} minutes are too short for one cell",
            "allowed: at least the time of one engine start and one cell",
            field="minutes",
        )
    found = outcome(wanted, ran, name or THIS_MACHINE, _machine_words(wanted), spent)
    if found.corrected.profile:
        save_profile(found.corrected.profile)
    return MeasuredStudy(found, ran.interrupted)


class _Asked(msgspec.Struct, frozen=True):
    """The arguments of `measure_study` that define the study."""

    model: str
    folder: Path
    tp_sizes: Sequence[int] | None
    concurrencies: tuple[int, ...]
    isl: int
    osl: int
    gpu: str
    engine: str
    dtype: str
    kv_dtype: str
    profile: Any
    minutes: float | None
    python: str
    flags: tuple[str, ...]
    env: dict[str, str]


def _wanted(asked: _Asked, say: Callable[[str], None]) -> Wanted:
    from shardwise.architecture.models import bundled, load
    from shardwise.engines import managed
    from shardwise.experiment.run import Wanted
    from shardwise.experiment.split import machine_here, splits
    from shardwise.layout.deployment import Layout
    from shardwise.layout.rules import require_layout

    if asked.engine not in managed():
        raise InputError(
            f"engine {asked.engine}",
            f"allowed to be measured: {', '.join(managed())}",
            field="engine",
        )
    machine = machine_here(gpu=asked.gpu)
    ranks = len(machine.devices)
    every = [2**k for k in range(ranks.bit_length()) if 2**k <= ranks]
    chosen = tuple(every if asked.tp_sizes is None else asked.tp_sizes)
    splits(machine, chosen)
    architecture = load(asked.model)
    for tp in chosen:
        require_layout(architecture, Layout(tp))
    dtype = asked.dtype
    if dtype == "auto":
        dtype = "fp32" if machine.kind == "cpu" else "bf16"
    instance = _instance(asked, dtype, say)
    return Wanted(
        model=asked.model if asked.model in bundled() else instance.model,
        machine=machine,
        instance=instance,
        weight_dtype=dtype,
        tp_sizes=chosen,
        concurrencies=asked.concurrencies,
        isl=asked.isl,
        osl=asked.osl,
        hardware_name=THIS_MACHINE,
        profile=asked.profile,
        budget_s=60.0 * asked.minutes if asked.minutes else float("inf"),
    )


def _instance(asked: _Asked, dtype: str, say: Callable[[str], None]) -> Instance:
    """Return how the engine is started."""
    from shardwise.architecture.models import bundled
    from shardwise.experiment.design import longest
    from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits
    from shardwise.replica.command import Instance

    own = asked.engine == "builtin"
    flags = [*asked.flags, "--dtype", dtype if own else _TORCH_NAMES.get(dtype, dtype)]
    path = Path(asked.model).expanduser()
    loads = str(path.resolve()) if path.exists() else asked.model
    if own:
        flags += ["--max-queue", "100000"]
        if asked.model in bundled():
            loads = str(bundled_folder(asked.model, asked.folder))
            flags.append("--random-weights")
            say(f"{asked.model}: random weights, which take the same time")
    deployment = Deployment(
        loads,
        "",
        limits=EngineLimits(max_model_len=longest(asked.isl, asked.osl)),
        dtypes=Dtypes(kv=asked.kv_dtype),
        engine=asked.engine,
    )
    return Instance(deployment, flags=tuple(flags), python=asked.python, env=asked.env)


def _machine_words(wanted: Wanted) -> str:
    from shardwise.bench.machine import describe

    about = describe()
    if wanted.machine.kind == "cpu":
        return f"{len(wanted.machine.devices)} cores of {about['cpu']}"
    return ", ".join(about["gpus"]) or f"{len(wanted.machine.devices)} GPUs"
