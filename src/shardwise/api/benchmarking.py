"""`bench_run`: measure an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from shardwise.api.extras import BENCH, require_modules
from shardwise.api.loads import CONCURRENCIES, Loads
from shardwise.api.measurements import Measurements
from shardwise.api.seeds import require_seed
from shardwise.errors import InputError, UnknownNameError
from shardwise.files import AnyPath
from shardwise.workload.workload import Mode, Workload

if TYPE_CHECKING:
    from shardwise.bench.arrivals import Arrivals
    from shardwise.bench.cell import Arranged, Effort, Subject
    from shardwise.bench.sharegpt import Turn
    from shardwise.bench.target import Target
    from shardwise.bench.tokenizer import Tokenizer
    from shardwise.evidence.measured import Measured

UNKNOWN, OTHER = "unknown", "other"
STUDY: Final = "bench"


def bench_run(
    url: str,
    *,
    model: str = "",
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
    api_key: str = "",
    ca_file: str = "",
    actual_lengths: bool = False,
    shared_prefix: int = 0,
    tokenizer: AnyPath | None = None,
    trace: AnyPath | None = None,
    sharegpt: AnyPath | None = None,
    seed: int = 0,
    architecture: str = "",
    gpu: str = UNKNOWN,
    engine: str = "",
    tp_size: int = 1,
    dtype: str = "auto",
    store: AnyPath | None = None,
    study: str = STUDY,
    say: Callable[[str], None] = lambda _: None,
    done: Callable[[Measured], None] = lambda _: None,
) -> Measurements:
    """Measure a running endpoint under each load.

    Failed requests are counted in the conditions of their cell. With more than 512 streams, the
    client starts processes, so a script needs `if __name__ == "__main__":` around the call.

    Args:
        url: Address of any OpenAI-compatible server, with or without /v1.
        model: Model name at the endpoint; "" is the model it serves.
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
        api_key: Key that is sent as a bearer token; it is kept nowhere.
        ca_file: PEM file of CA certificates to trust for https.
        actual_lengths: Whether to accept answers of any length, for servers without `ignore_eos`.
        shared_prefix: Tokens that all prompts begin with.
        tokenizer: A tokenizer.json, or its folder; None finds prompts of exact lengths without.
        trace: Trace file with arrival times and lengths, for one cell.
        sharegpt: ShareGPT file to take prompts from.
        seed: Random seed of arrivals and the shared prefix; other prompt text is always new.
        architecture: Model id for comparison with predictions; "" is `model`.
        gpu: GPU id for comparison with predictions.
        engine: Engine in the results; "" is what the endpoint reports.
        tp_size: TP size of the endpoint, for the results.
        dtype: Weight dtype, for comparison with predictions.
        store: SQLite file to add the cells to, with every request; None keeps them in memory.
        study: Name of the study in the store.
        say: Called with each line of progress.
        done: Called with each cell when it is finished.

    Raises:
        InputError: No server answers, or an argument cannot be used.
        UnknownNameError: A GPU, engine, dtype or `architecture` is unknown.
    """
    require_modules(BENCH, "bench")
    from shardwise.architecture.models import load
    from shardwise.bench.http import require_answer, served_engine, served_model
    from shardwise.bench.shards import terminable
    from shardwise.bench.target import parse_target

    loads = Loads(
        concurrencies=concurrencies, request_rates=request_rates, isl=isl, osl=osl, mode=mode,
        requests=requests, min_repeats=min_repeats, max_repeats=max_repeats,
        precision_pct=precision_pct, cell_time_s=cell_time_s, stall_timeout_s=stall_timeout_s,
        first_token_timeout_s=first_token_timeout_s, request_timeout_s=request_timeout_s,
        are_equal=trace is None and sharegpt is None, has_trace=trace is not None,
    )  # fmt: skip
    if trace is not None and sharegpt is not None:
        raise InputError(
            "a trace and a ShareGPT file",
            "allowed: one of them; a trace has arrival times and lengths, ShareGPT has prompts",
            field="sharegpt",
        )
    require_seed(seed)
    require_names(gpu, engine or UNKNOWN, dtype)
    if tp_size < 1:
        raise InputError(f"tp_size is {tp_size}", "allowed: 1 or more", field="tp_size")
    if architecture:
        load(architecture)
    prompts = _read_prompts(seed, shared_prefix, requests, isl, osl, tokenizer, trace, sharegpt)
    target = parse_target(url, api, model, api_key, ca_file, exact=not actual_lengths)
    with terminable():
        require_answer(target)
        target = target if target.model else target.named(served_model(target))
        labels = _Labels(
            study, architecture, gpu, engine or served_engine(target), tp_size, dtype, seed
        )
        return _measure(target, loads, labels, prompts, store, say, done)


class _Labels(msgspec.Struct, frozen=True):
    """What results say about the endpoint."""

    study: str
    architecture: str
    gpu: str
    engine: str
    tp_size: int
    dtype: str
    seed: int


class _Prompts(msgspec.Struct, frozen=True):
    """Where prompts come from."""

    seed: int
    shared_prefix: int
    isl: int
    osl: int
    tokenizer: Tokenizer | None
    trace: Arrivals | None
    trace_name: str
    turns: list[Turn] | None  #: of a ShareGPT file


def _read_prompts(
    seed: int,
    shared_prefix: int,
    requests: int,
    isl: int,
    osl: int,
    tokenizer: AnyPath | None,
    trace: AnyPath | None,
    sharegpt: AnyPath | None,
) -> _Prompts:
    """Read the files that prompts come from. InputError if one of them cannot be used."""
    from shardwise.bench.arrivals import read_trace
    from shardwise.bench.sharegpt import read_sharegpt
    from shardwise.bench.tokenizer import load_tokenizer

    return _Prompts(
        seed,
        shared_prefix,
        isl,
        osl,
        load_tokenizer(Path(tokenizer)) if tokenizer else None,
        read_trace(Path(trace), requests) if trace else None,
        Path(trace).name if trace else "",
        read_sharegpt(Path(sharegpt)) if sharegpt else None,
    )


def _measure(
    target: Target,
    loads: Loads,
    labels: _Labels,
    prompts: _Prompts,
    store: AnyPath | None,
    say: Callable[[str], None],
    done: Callable[[Measured], None],
) -> Measurements:
    """Measure each load; keep each cell in the store as soon as it is finished."""
    from shardwise.bench.cell import measure
    from shardwise.bench.keeping import keep
    from shardwise.evidence.store import open_store

    cells: list[Measured] = []
    unkept: list[Measured] = []
    with ExitStack() as stack:
        opened = stack.enter_context(open_store(Path(store))) if store is not None else None
        for load in loads.workloads():
            subject, effort = _subject(target, load, labels, prompts), loads.effort(load)
            say(subject.key)
            cell = measure(target, subject, _arrangement(target, load, effort, prompts), effort)
            cells.append(cell)
            done(cell)
            if opened is not None:
                keep(opened, cell, say)
                if cell.repeats and not opened.has(cell.study, cell.key):
                    unkept.append(cell)
            if cell.conditions["interrupted"]:
                break
    return Measurements(cells, cells, unkept)


def _subject(target: Target, load: Workload, labels: _Labels, prompts: _Prompts) -> Subject:
    from shardwise.bench.cell import Subject, offered
    from shardwise.bench.machine import describe
    from shardwise.evidence.record import Source
    from shardwise.layout.deployment import Deployment, Dtypes, Layout

    trace = prompts.trace_name
    key = f"{target.model} tp={labels.tp_size} {offered(load, trace)}"
    key += f" isl={load.isl:g} osl={load.osl:g}"
    now = datetime.now(UTC)
    conditions: dict[str, Any] = {"url": target.url, "seed": labels.seed, "client": describe()}
    if trace:
        conditions["trace"] = trace
    if prompts.shared_prefix:
        conditions["shared_prefix"] = prompts.shared_prefix
    return Subject(
        labels.study,
        f"{key} {now.isoformat(timespec='seconds')}",
        Deployment(
            model=labels.architecture or target.model,
            gpu=labels.gpu,
            layout=Layout(tp_size=labels.tp_size),
            dtypes=Dtypes(weight=labels.dtype),
            engine=labels.engine,
        ),
        load,
        Source("measured", f"shardwise bench of {target.url}", now.date().isoformat()),
        conditions,
    )


def _arrangement(
    target: Target, load: Workload, effort: Effort, given: _Prompts
) -> Callable[[int], Arranged]:
    """Return the requests that each repeat sends."""
    from shardwise.bench.cell import Arranged, arrange
    from shardwise.bench.prompts import choose_source, draw_prompt_seed, make_prompts
    from shardwise.bench.sharegpt import sharegpt_prompts

    turns, trace = given.turns, given.trace
    if turns is not None:

        def asked_by_people(repeat: int) -> Arranged:
            pairs = sharegpt_prompts(turns, effort.requests, given.seed * 1000 + repeat, given.osl)
            return Arranged([prompt for prompt, _ in pairs], [osl for _, osl in pairs])

        return asked_by_people
    source = choose_source(target, given.tokenizer)
    if trace is not None:
        count = len(trace.due_s)
        isl, osl = trace.isl or [given.isl] * count, trace.osl or [given.osl] * count

        def as_traced(_repeat: int) -> Arranged:
            words = draw_prompt_seed()
            prompts = make_prompts(source, isl, words, given.shared_prefix, given.seed)
            return Arranged(prompts, osl, trace.due_s, words)

        return as_traced
    return lambda repeat: arrange(
        source, load, effort.requests, given.seed, repeat, given.shared_prefix
    )


def require_names(gpu: str, engine: str, dtype: str) -> None:
    """Raise UnknownNameError for names that results cannot be compared by.

    A name must be known, or say that it is unknown.
    """
    from shardwise.architecture.formats import DTYPES
    from shardwise.engines.registry import names
    from shardwise.hardware.catalogue import default_catalogue

    if engine not in (*names(), OTHER, UNKNOWN):
        raise UnknownNameError("engine", engine, (*names(), OTHER, UNKNOWN))
    dtypes = ("auto", *DTYPES, "fp4")
    if dtype not in dtypes:
        raise UnknownNameError("dtype", dtype, dtypes)
    if gpu not in ("cpu", UNKNOWN):
        default_catalogue().gpu(gpu)
