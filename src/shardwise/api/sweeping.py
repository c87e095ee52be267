"""`bench_sweep`: start an engine at each TP size on this machine, and measure it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from shardwise.api.benchmarking import STUDY
from shardwise.api.extras import BENCH, require_modules
from shardwise.api.loads import CONCURRENCIES, Loads
from shardwise.api.measurements import Measurements
from shardwise.api.seeds import require_seed
from shardwise.errors import InputError
from shardwise.files import AnyPath
from shardwise.workload.workload import Mode

if TYPE_CHECKING:
    from shardwise.bench.sweep import Engine

FIRST_PORT = 8390


def bench_sweep(
    model: str,
    *,
    store: AnyPath,
    tp_sizes: Sequence[int] = (1, 2),
    engine: Literal["builtin", "vllm", "sglang"] = "builtin",
    devices: Sequence[int] = (),
    concurrencies: Sequence[int] = CONCURRENCIES,
    request_rates: Sequence[float] = (),
    isl: int = 512,
    osl: int = 128,
    mode: Mode = "closed_loop",
    requests: int = 0,
    min_repeats: int = 3,
    max_repeats: int = 5,
    precision_pct: float = 5.0,
    cell_time_s: float | None = None,
    stall_timeout_s: float = 120.0,
    first_token_timeout_s: float | None = None,
    request_timeout_s: float = 3600.0,
    api: Literal["completions", "chat"] = "completions",
    actual_lengths: bool = False,
    shared_prefix: int = 0,
    seed: int = 0,
    gpu: str = "",
    dtype: str = "auto",
    python: str = "",
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    port: int = FIRST_PORT,
    ready_timeout_s: float = 600.0,
    study: str = STUDY,
    say: Callable[[str], None] = lambda _: None,
) -> Measurements:
    """Start an engine at each TP size, measure it under each load, and stop it.

    Only cells that the store lacks are measured, so an interrupted call can be repeated.

    Args:
        model: A folder, a .gguf file, or a Hugging Face id.
        store: SQLite file for the cells, with every request.
        tp_sizes: TP sizes to compare.
        engine: Engine to start: `builtin`, `vllm` or `sglang`.
        devices: GPUs or CPU cores to use; empty takes all.
        concurrencies: Requests in flight; one cell each.
        request_rates: Requests/s with Poisson arrivals instead; one cell each.
        isl: Input tokens of a request.
        osl: Output tokens of a request.
        mode: `closed_loop` keeps the requests in flight, `static_batch` runs them once.
        requests: Requests of each run; 0: ten for each one in flight, or 64 at a rate.
        min_repeats: Runs of each cell.
        max_repeats: Most runs of a cell, if the intervals are wider than `precision_pct`.
        precision_pct: Half-width of the intervals at which no further run is made, in percent.
        cell_time_s: Seconds after which no further run of a cell is started; None: no limit.
        stall_timeout_s: Seconds without an event after which a request fails.
        first_token_timeout_s: Longest wait for the first token; None: `stall_timeout_s`.
        request_timeout_s: Seconds after which a request fails.
        api: `completions` or `chat`.
        actual_lengths: Whether to accept answers of any length, for servers without `ignore_eos`.
        shared_prefix: Tokens that all prompts begin with.
        seed: Random seed of arrivals and the shared prefix; other prompt text is always new.
        gpu: GPU id in the results; "" is `cpu`, or what is found.
        dtype: Weight dtype; `auto` is fp32 on CPU, else as stored.
        python: Interpreter of the engine's environment; "" is this one.
        flags: Added to the engine's command.
        env: Variables for the engine.
        port: Port that the engine listens on.
        ready_timeout_s: Longest wait for an engine to start, in seconds.
        study: Name of the study in the store.
        say: Called with each line of progress.

    Returns:
        All cells of the study in the store, and those that could not be kept.

    Raises:
        InputError: The model cannot be sharded so, or an argument cannot be used.
        ShardwiseError: The engine did not start; `last_lines` is the end of its log.
    """
    require_modules(BENCH, "bench")
    from shardwise.architecture.models import load
    from shardwise.bench.shards import terminable
    from shardwise.bench.sweep import Sweep, missing, run_sweep
    from shardwise.evidence.store import open_store
    from shardwise.layout.deployment import Layout
    from shardwise.layout.rules import require_layout
    from shardwise.replica.probing import require_port

    loads = Loads(
        concurrencies=concurrencies, request_rates=request_rates, isl=isl, osl=osl, mode=mode,
        requests=requests, min_repeats=min_repeats, max_repeats=max_repeats,
        precision_pct=precision_pct, cell_time_s=cell_time_s, stall_timeout_s=stall_timeout_s,
        first_token_timeout_s=first_token_timeout_s, request_timeout_s=request_timeout_s,
    )  # fmt: skip
    require_seed(seed)
    if not tp_sizes:
        raise InputError("0 TP sizes", "needed: at least 1", field="tp_sizes")
    require_port(port)
    architecture = load(model)
    for tp in tp_sizes:
        require_layout(architecture, Layout(tp))
    asked = Sweep(
        study, model, tuple(tp_sizes), loads.workloads(), loads.effort, seed, shared_prefix, api,
        not actual_lengths,
    )  # fmt: skip
    started = _engine(
        _Asked(
            model, engine, tuple(devices), isl + osl, gpu, dtype, python, tuple(flags),
            dict(env or {}), port, ready_timeout_s,
        )
    )  # fmt: skip
    for tp in asked.tp_sizes:
        started.devices_of(tp)
    with open_store(Path(store)) as opened, terminable():
        measured = run_sweep(asked, started, opened, say)
        kept = opened.cells(study)
        left = len(missing(asked, started, opened))
    if left:
        say(f"{left} cells have no completed request")
    there = {cell.key for cell in kept}
    unkept = [cell for cell in measured if cell.repeats and cell.key not in there]
    return Measurements([*kept, *unkept], measured, unkept)


class _Asked(msgspec.Struct, frozen=True):
    """How to start the engine."""

    model: str
    engine: str
    devices: tuple[int, ...]
    tokens: int  #: of a request
    gpu: str
    dtype: str
    python: str
    flags: tuple[str, ...]
    env: dict[str, str]
    port: int
    ready_timeout_s: float


def _engine(asked: _Asked) -> Engine:
    from shardwise.bench.sweep import Engine
    from shardwise.layout.deployment import Deployment, EngineLimits
    from shardwise.replica.command import Instance
    from shardwise.replica.devices import kind_here

    kind = "cpu" if asked.gpu == "cpu" else kind_here()
    path = Path(asked.model).expanduser()
    deployment = Deployment(
        str(path.resolve()) if path.exists() else asked.model,
        asked.gpu,
        limits=EngineLimits(max_model_len=_rounded(asked.tokens)),
        engine=asked.engine,
    )
    return Engine(
        instance=Instance(deployment, flags=asked.flags, python=asked.python, env=asked.env),
        weight_dtype="fp32" if asked.dtype == "auto" and kind == "cpu" else asked.dtype,
        gpu=asked.gpu or kind,
        kind=kind,
        devices=devices_here(kind, asked.devices),
        port=asked.port,
        ready_timeout_s=asked.ready_timeout_s,
    )


def devices_here(kind: str, asked: Sequence[int]) -> tuple[int, ...]:
    """Return the GPUs or CPU cores to use: those asked for, else all of this machine.

    Raises:
        InputError: One of them is not here.
    """
    from shardwise.replica.devices import present

    there = present(kind)
    if not there or not set(asked) <= there:
        listed = ", ".join(map(str, sorted(there)))
        raise InputError(
            f"devices {', '.join(map(str, asked))}",
            f"allowed on this machine: {listed}",
            field="devices",
        )
    return tuple(asked) or tuple(sorted(there))


def _rounded(tokens: int) -> int:
    """Round up to a multiple of 256, with room for tokens that a server adds to a prompt."""
    return -(-(tokens + 16) // 256) * 256
