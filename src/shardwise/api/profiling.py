"""`profile_steps`: time of a prefill and a decode step on each rank, by component."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec.structs import replace

from shardwise.api.result import Result
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence
from shardwise.files import AnyPath

if TYPE_CHECKING:
    from shardwise.engine.profile_rows import Named
    from shardwise.engine.profiling import Profile, Question
    from shardwise.reports.table import Table


class StepProfile(msgspec.Struct, frozen=True):
    """One TP size and batch: the timed steps of every rank, and the latencies that follow."""

    profile: Any  #: `shardwise.engine.profiling.Profile`; named so in JSON
    evidence: Evidence


class StepProfiles(Result):
    """A profile for each TP size and batch. Latencies are sums of steps timed one by one."""

    kind = "profile"

    def __init__(self, found: Sequence[StepProfile]) -> None:
        self.found = tuple(found)

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The timed steps: time by component, GEMMs and all-reduces of each rank."""
        return tuple(one.profile for one in self.found)

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """The latencies of a static batch, one for each profile."""
        return tuple(one.evidence for one in self.found)

    def tables(self) -> list[Table]:
        """Return the latencies, then `parts`, `products` and `messages` of each profile.

        With several profiles, names of the latter end in TP and batch: `parts_tp2_batch16`.
        """
        from shardwise.reports.profile_tables import profile_tables
        from shardwise.reports.tables import evidence_table

        found = [evidence_table(self.evidence)]
        for one in self.profiles:
            end = f"_tp{one.tp_size}_batch{one.batch}" if len(self.found) > 1 else ""
            found += [replace(t, name=f"{t.name}{end}") for t in profile_tables(one)]
        return found

    def _answer(self) -> dict[str, Any]:
        return {"profiles": self.found}


def profile_steps(
    model: str,
    *,
    tp_sizes: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    isl: int = 512,
    osl: int = 128,
    repeats: int = 10,
    emulate: bool = False,
    random_weights: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    threads_per_rank: int = 0,
    gpu: str = "",
    node_file: AnyPath | None = None,
    model_id: str = "",
    rows_file: AnyPath | None = None,
    say: Callable[[str], None] = lambda _: None,
    done: Callable[[StepProfile], None] = lambda _: None,
) -> StepProfiles:
    """Time prefill and decode steps on each rank, split into attention, MLP and all-reduce.

    Args:
        model: A Hugging Face folder, a .gguf file, or a bundled id (`llama-51m`, random weights).
        tp_sizes: TP sizes to profile.
        batches: Batch sizes to profile.
        isl: Prompt tokens of a request.
        osl: Output tokens of a request.
        repeats: Timed runs of each step.
        emulate: Whether to run only rank 0's shard of each TP, on one GPU or CPU.
        random_weights: Whether to use random weights; only config.json is needed.
        device: Where to run; `auto` is a GPU if there is one.
        dtype: What to compute in; `auto` is fp32 on CPU, else as stored.
        threads_per_rank: CPU threads of a rank; 0 is an equal share of the cores.
        gpu: Name of the hardware in the results; "" is `cpu`, or the node file's. With `emulate`,
            a GPU of the catalogue adds its all-reduce.
        node_file: Node file that `shardwise doctor --save` wrote.
        model_id: Name of the model in the results; "" is the bundled id of its shape, or the path.
        rows_file: CSV file of rows for `calibrate`, written again after each profile.
        say: Called with a line before each profile.
        done: Called with each profile when it is finished.

    Raises:
        InputError: The engine's libraries are missing, or an argument cannot be used.
        UnknownNameError: The model is neither a path nor bundled.
    """
    from shardwise.api.extras import require_engine_extra

    require_engine_extra()
    from shardwise.api.model_folder import model_folder
    from shardwise.engine import profiling
    from shardwise.engine.options import EngineOptions

    question = profiling.Question(tuple(tp_sizes), tuple(batches), isl, osl, repeats, emulate)
    named = _named(model, model_id, gpu, node_file)
    if rows_file is not None and emulate and max(tp_sizes) > 1:
        from shardwise.engine.profile_rows import require_collectives

        require_collectives(named)
    threads = _threads(threads_per_rank, named)
    found: list[StepProfile] = []
    with model_folder(model, random_weights, say) as (path, random):
        options = EngineOptions(
            device=device, dtype=dtype, threads_per_rank=threads, random_weights=random
        )
        steps = profiling.profile(path, question, options, lambda what: say(f"profiling {what} …"))
        for one in _with_evidence(steps, question, named):
            found.append(one)
            if rows_file is not None:  # after each one: an interrupted run keeps its rows
                _write_rows(Path(rows_file), found)
            done(one)
    return StepProfiles(found)


def _named(model: str, model_id: str, gpu: str, node_file: AnyPath | None) -> Named:
    from shardwise.api.hardware import hardware_of
    from shardwise.engine import profile_rows

    files: tuple[Path, ...] = ()
    if node_file is not None:
        hardware = hardware_of(gpu, None, node_file)
        gpu, files = hardware.gpu, hardware.files
    at = Path(model).expanduser()
    name = model_id or (profile_rows.model_id(at) if at.exists() else model)
    return profile_rows.Named(name, gpu or "cpu", files)


def _threads(given: int, named: Named) -> int:
    """Return the threads per rank; for a measured CPU, those it was measured with."""
    gpu = named.known_gpu
    if gpu is None or gpu.vendor != "cpu":
        return given
    if given not in (0, gpu.num_compute_units):
        raise InputError(
            f"{given} threads per rank, but a rank of {gpu.id} has {gpu.num_compute_units}",
            remedy="leave it out, or measure such ranks with 'shardwise hardware detect'",
            field="threads_per_rank",
        )
    return gpu.num_compute_units


def _with_evidence(
    profiles: Iterator[Profile], question: Question, named: Named
) -> Iterator[StepProfile]:
    from shardwise.engine.profile_rows import evidence

    for profile in profiles:
        yield StepProfile(profile, evidence(profile, question, named))


def _write_rows(path: Path, found: Sequence[StepProfile]) -> None:
    from shardwise.engine.profile_rows import CSV_COLUMNS, csv_row
    from shardwise.reports.files import write_rows

    write_rows(path, CSV_COLUMNS, [csv_row(one.evidence) for one in found])
