"""`serve`: run an engine on this machine for the length of a `with` block."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Literal

import msgspec

from shardwise.api.extras import require_engine_extra
from shardwise.errors import InputError
from shardwise.files import AnyPath
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout

if TYPE_CHECKING:
    from shardwise.replica.command import Instance

HOST = "127.0.0.1"


class ServedModel(msgspec.Struct, frozen=True):
    """A model on a running engine, which has answered a request."""

    url: str  #: OpenAI clients append `/v1`
    model: str  #: its name in requests
    pid: int  #: of the process that leads the engine's session
    argv: tuple[str, ...]  #: the engine's command
    ready_s: float  #: seconds from the start to the first answer


@contextmanager
def serve(
    model: str,
    *,
    engine: Literal["builtin", "vllm", "sglang"] = "builtin",
    tp_size: int = 1,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    limits: EngineLimits | None = None,
    devices: Sequence[int] = (),
    port: int = 0,
    random_weights: bool = False,
    python: str = "",
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    log_file: AnyPath | None = None,
    ready_timeout_s: float = 600.0,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[ServedModel]:
    """Start an engine, yield its address when it has answered a request, and stop it at the end.

    The built-in engine is the process that `shardwise serve` runs. For replicas that outlive this
    process, use `up`.

    Args:
        model: A folder, a .gguf file, a Hugging Face id, or a bundled id (random weights).
        engine: `builtin`, `vllm` or `sglang`.
        tp_size: Ranks to shard the model over.
        dtype: Dtype in the engine's own words, e.g. `bf16` (built-in) or `bfloat16` (vLLM).
        kv_dtype: KV cache dtype; `auto` is what the checkpoint asks for.
        limits: Limits of batch and memory; None takes 64 sequences and 1,024 tokens per step.
        devices: GPUs or CPU cores to use; empty takes the first GPUs, or all cores.
        port: Port to listen on; 0 takes a free one.
        random_weights: Whether to use random weights (built-in engine; needs only config.json).
        python: Interpreter of the engine's environment; "" is this one.
        flags: Added to the engine's command.
        env: Variables for the engine.
        log_file: Where the engine's output is kept; None keeps it only if the engine fails to
            start, in the system's folder for temporary files.
        ready_timeout_s: Longest wait for the first answer, in seconds.
        say: Called with each line of progress.

    Raises:
        InputError: The engine's libraries are missing, or an argument cannot be used.
        ShardwiseError: The engine did not start; `last_lines` is the end of its log.
    """
    if engine == "builtin" and not python:
        require_engine_extra()
    elif random_weights:
        raise InputError(f"random weights on {engine}", "allowed: the built-in engine")
    from shardwise.replica import running
    from shardwise.replica.devices import kind_here
    from shardwise.replica.probing import require_port

    if tp_size < 1:
        raise InputError(f"tp_size is {tp_size}", "allowed: 1 or more", field="tp_size")
    if port:
        require_port(port)
    folder, keeps = Path(mkdtemp(prefix="shardwise-serve-")), False
    try:
        loads, extra = _loaded(model, engine, random_weights, folder, say)
        words = [*extra, *(["--dtype", dtype] if dtype != "auto" else []), *flags]
        instance = _instance(loads, engine, tp_size, kv_dtype, limits, words, python, env)
        kind = kind_here()
        chosen = _devices(kind, devices, tp_size)
        log = Path(log_file) if log_file is not None else folder / "engine.log"
        mark = f"serve {os.getpid()} {folder}"
        say(f"starting {engine} with TP={tp_size} on {kind} {','.join(map(str, chosen))}")
        started = running.start(instance, kind, chosen, port or _free_port(), log, mark)
        try:
            try:
                ready_s = running.wait_ready(started, ready_timeout_s)
            except running.EngineError:
                keeps = log_file is None  # the error names the log
                raise
            yield ServedModel(
                started.url, instance.served_name, started.process.pid, started.argv, ready_s
            )
        finally:
            running.stop(started)
            running.clear(mark)
    finally:
        if not keeps:
            rmtree(folder, ignore_errors=True)


def _loaded(
    model: str, engine: str, random_weights: bool, folder: Path, say: Callable[[str], None]
) -> tuple[str, list[str]]:
    """Return what the engine loads, and its flags for random weights."""
    from shardwise.api.model_folder import bundled_folder
    from shardwise.architecture.models import bundled

    path = Path(model).expanduser()
    if path.exists():
        return str(path.resolve()), ["--random-weights"] if random_weights else []
    if engine == "builtin" and model in bundled():
        say(f"{model}: random weights, since only its shape is bundled")
        return str(bundled_folder(model, folder)), ["--random-weights"]
    return model, []


def _instance(
    model: str,
    engine: str,
    tp_size: int,
    kv_dtype: str,
    limits: EngineLimits | None,
    flags: Sequence[str],
    python: str,
    env: Mapping[str, str] | None,
) -> Instance:
    from shardwise.replica.command import Instance

    deployment = Deployment(
        model,
        "",
        Layout(tp_size),
        limits or EngineLimits(max_num_seqs=64, max_num_batched_tokens=1024),
        Dtypes(kv=kv_dtype),
        engine,
    )
    return Instance(deployment, flags=tuple(flags), python=python, env=dict(env or {}))


def _devices(kind: str, asked: Sequence[int], tp_size: int) -> tuple[int, ...]:
    """Return the devices to use: on CPU all cores, else one GPU per rank."""
    from shardwise.api.sweeping import devices_here

    there = devices_here(kind, asked)
    if kind == "cpu" or asked:
        return there
    if tp_size > len(there):
        raise InputError(f"TP={tp_size} on {len(there)} GPUs", "allowed: as many as there are")
    return there[:tp_size]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
