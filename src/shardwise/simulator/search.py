"""Run many simulations on this machine's cores or a Ray cluster, storing each result.

Jobs are keyed by content, so an interrupted search can be resumed, and a lost worker or node costs
only its unfinished jobs.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from shardwise.errors import InputError, ShardwiseError
from shardwise.files import read_limited
from shardwise.hardware.network import Fabric
from shardwise.layout.deployment import Deployment
from shardwise.perfmodel.profiles import load_profile
from shardwise.perfmodel.subject import catalogue_for
from shardwise.simulator.fleet import Group, make_group
from shardwise.simulator.results import LATENCIES
from shardwise.simulator.sessions import SessionTraffic, draw_sessions
from shardwise.simulator.simulate import simulate
from shardwise.simulator.traffic import Traffic, draw
from shardwise.workload.workload import Slo

CHUNK: Final = 8  #: jobs handed out together
MAX_BROKEN_POOLS: Final = 3
RAY_INSTALL: Final = "pip install 'shardwise[ray]'"


class Job(msgspec.Struct, frozen=True):
    """One simulation; the same job has the same outcome anywhere."""

    deployment: Deployment
    traffic: Traffic
    slo: Slo = Slo()
    policy: str = "least_loaded"
    warmup_s: float = 0.0
    seed: int = 0
    sessions: SessionTraffic | None = None  #: instead of `traffic`, which names their rate
    prefix_caching: bool = True
    profile: str = "reference"
    catalogue_files: tuple[str, ...] = ()
    catalogue_digest: str = ""  #: of those files, so that a changed file is a new job
    fabric: Fabric | None = None  #: what joins nodes, where a replica takes several

    @property
    def key(self) -> str:
        """Hash of everything that the job's outcome depends on."""
        # decoded once, so that 200 and 200.0 are equal
        same = msgspec.json.decode(msgspec.json.encode(self), type=Job)
        return hashlib.sha256(msgspec.json.encode(same)).hexdigest()[:24]


class Outcome(msgspec.Struct, frozen=True):
    """Stored results of a simulation; latencies as percentiles in seconds, None if undefined."""

    key: str
    percentiles: dict[str, dict[str, float | None]] = {}
    goodput: float = 0.0
    output_tok_s: float = 0.0
    done: int = 0
    requests: int = 0
    overloaded: bool = False
    hit_rate: float = 0.0  #: share of prompt tokens found in a prefix cache
    imbalance: float = 1.0  #: requests of the busiest replica over the mean
    counted: int = 0  #: requests behind the percentiles: answered, after the warm-up
    error: str = ""  #: why it could not be simulated


def run_job(job: Job) -> Outcome:
    """Simulate one job; failures become an outcome with the reason."""
    try:
        group = _group(job)
        if job.sessions:
            trace = draw_sessions(job.sessions, job.seed)
        else:
            trace = draw(job.traffic.within(group.longest), job.seed)
        result = simulate([group], trace, policy=job.policy, seed=job.seed)
    except ShardwiseError as error:
        return Outcome(job.key, error=str(error))
    found = {name: result.percentiles(name, job.warmup_s) for name in LATENCIES}
    return Outcome(
        key=job.key,
        percentiles={
            name: {f"p{at:g}": value if p.n else None for at, value in p.values.items()}
            for name, p in found.items()
        },
        goodput=result.goodput(job.slo, job.warmup_s),
        output_tok_s=result.output_tok_s(job.warmup_s),
        done=result.outcomes()["done"],
        requests=len(trace),
        overloaded=result.overloaded,
        hit_rate=result.hit_rate(job.warmup_s),
        imbalance=result.imbalance(),
        counted=int(result.counted(job.warmup_s).sum()),
    )


def _group(job: Job) -> Group:
    d, files = job.deployment, [Path(name) for name in job.catalogue_files]
    catalogue = catalogue_for(files, d.gpu, d.engine)
    group = make_group(d, load_profile(job.profile), catalogue, job.fabric)
    return replace(group, scheduling=replace(group.scheduling, prefix_caching=job.prefix_caching))


def digest_of(files: Sequence[Path]) -> str:
    """Return a digest of catalogue files. InputError for an unreadable file."""
    digest = hashlib.sha256()
    for path in files:
        try:
            digest.update(read_limited(path))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()[:16] if files else ""


def run_chunk(encoded: bytes) -> bytes:
    """Run a chunk of jobs on a worker; jobs and outcomes are JSON."""
    jobs = msgspec.json.decode(encoded, type=list[Job])
    return msgspec.json.encode([run_job(job) for job in jobs])


class Store:
    """Outcomes by job in an SQLite file, written immediately."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as db, db:
                db.execute("CREATE TABLE IF NOT EXISTS runs (key TEXT PRIMARY KEY, job, outcome)")
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"{path} cannot hold simulations: {error}") from None

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30)

    def add(self, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
        """Store the outcome of each job."""
        rows = [
            (job.key, msgspec.json.encode(job).decode(), msgspec.json.encode(outcome).decode())
            for job, outcome in zip(jobs, outcomes, strict=True)
        ]
        with closing(self._open()) as db, db:
            db.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", rows)

    def outcomes(self) -> dict[str, Outcome]:
        """Return every outcome by its job's key."""
        with closing(self._open()) as db:
            rows = db.execute("SELECT key, outcome FROM runs").fetchall()
        return {key: msgspec.json.decode(text, type=Outcome) for key, text in rows}


def search(
    jobs: Sequence[Job],
    store: Store,
    *,
    on: str = "",
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Outcome]:
    """Return the outcome of each job, in order; stored ones are not run again.

    `on`: "" for this machine's cores (`workers`, 0: all), else a Ray address such as ray://host:port
    or "auto". Outcomes are stored as soon as they are known.
    """
    known = store.outcomes()
    todo = [job for job in {job.key: job for job in jobs}.values() if job.key not in known]
    chunks = [todo[at : at + CHUNK] for at in range(0, len(todo), CHUNK)]
    done = len(jobs) - len(todo)
    run = _on_ray(chunks, on) if on else _on_cores(chunks, workers)
    for chunk, outcomes in run:
        store.add(chunk, outcomes)
        known |= {outcome.key: outcome for outcome in outcomes}
        done += len(chunk)
        progress(done, len(jobs))
    return [known[job.key] for job in jobs]


Run = Iterator[tuple[list[Job], list[Outcome]]]


def _decode(data: bytes) -> list[Outcome]:
    return msgspec.json.decode(data, type=list[Outcome])


def _on_cores(chunks: list[list[Job]], workers: int) -> Run:
    """Run on worker processes; if one is lost, a new pool runs the remaining jobs."""
    left = dict(enumerate(chunks))
    broken = 0
    while left:
        count = min(workers or os.cpu_count() or 1, len(left))
        pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))
        try:
            running = {
                pool.submit(run_chunk, msgspec.json.encode(chunk)): number
                for number, chunk in left.items()
            }
            for future in as_completed(running):
                outcomes = _decode(future.result())
                yield left.pop(running[future]), outcomes
        except BrokenProcessPool:
            broken += 1
            if broken == MAX_BROKEN_POOLS:
                raise InputError(
                    f"worker processes were lost {broken} times",
                    remedy="run with fewer workers; finished simulations are kept",
                ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _on_ray(chunks: list[list[Job]], address: str) -> Run:
    """Run on a Ray cluster, which reruns the tasks of a lost node."""
    try:
        import ray  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise InputError("--on needs Ray", remedy=RAY_INSTALL) from None
    if not ray.is_initialized():
        try:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"no Ray cluster at {address!r}: {error}", "expected: ray://host:port or auto"
            ) from None
    task: Any = ray.remote(max_retries=10)(run_chunk)
    waiting = {task.remote(msgspec.json.encode(chunk)): chunk for chunk in chunks}
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1)
        yield waiting.pop(ready[0]), _decode(ray.get(ready[0]))
