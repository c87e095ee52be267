"""The deployment file: models, replicas, devices, engine and balancer, in TOML.

Decoding is strict: an unknown key, a wrong type or an invalid value raises InputError.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from shardwise.architecture.cache import KV_BYTES
from shardwise.engines.registry import managed
from shardwise.errors import InputError
from shardwise.files import read_utf8, write_whole
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout
from shardwise.replica.command import Instance

BalancerName = Literal["auto", "haproxy", "vllm-router", "caddy", "smg"]
Task = Literal["generate", "embed"]
FIRST_REPLICA_PORT: Final = 8101
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")
_HOST: Final = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,253}(?<!\.)|(?=[^:]*:)[0-9A-Fa-f:.]{2,45}")


class ModelTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`[[model]]`: one model and its replicas. Defaults are those of evidence.record.Deployment."""

    model: str  #: Hugging Face id, folder or file that the engine loads
    name: str = ""  #: model name in requests; empty: the last part of `model`
    architecture: str = (
        ""  #: catalogue id or config.json for checks, if `model` does not identify it
    )
    engine: str = "vllm"  #: one that Shardwise starts itself, or "command"
    task: Task = "generate"
    tp_size: int = 1
    pp_size: int = 1
    replicas: int = 1
    weight_dtype: str = "auto"
    kv_dtype: str = "auto"
    expert_parallel: bool = False  #: whether whole experts are distributed over all GPUs of a stage
    attention_dp: int = 1  #: number of data-parallel copies of attention in a replica
    dcp_size: int = 1  #: TP ranks that split the KV cache of each sequence
    max_num_seqs: int = 256  #: per copy of attention, like max_num_batched_tokens
    max_num_batched_tokens: int = 8192
    gpu_memory_utilization: float = 0.9
    max_model_len: int = 0  #: tokens; 0: the model's own
    devices: list[list[int]] = []  #: one list per replica: GPU indices or CPU cores
    first_port: int = 0  #: of the first replica, the others follow; 0: after the previous model's
    flags: list[str] = []  #: appended to the engine's command line unchanged
    env: dict[str, str] = {}
    command: list[
        str
    ] = []  #: for engine "command": any OpenAI server; {port}, {host}, {model} are replaced
    python: str = ""  #: interpreter of the engine's own environment; empty: this one
    ready_timeout_s: float = 1800.0
    probe_interval_s: float = 15.0  #: interval of completions that check whether a replica works
    hang_timeout_s: float = 30.0  #: a replica without progress for this time is restarted

    @property
    def served_name(self) -> str:
        """Name that clients use."""
        return self.name or Path(self.model).name.removesuffix(".gguf")

    @property
    def devices_per_replica(self) -> int:
        """Devices of one replica."""
        return self.layout.replica_gpus

    @property
    def layout(self) -> Layout:
        """Layout of one replica and the number of replicas."""
        ranks = self.tp_size * self.attention_dp
        return Layout(
            tp_size=self.tp_size,
            pp_size=self.pp_size,
            ep_size=ranks if self.expert_parallel else 1,
            attention_dp=self.attention_dp,
            replicas=self.replicas,
            dcp_size=self.dcp_size,
        )

    @property
    def instance(self) -> Instance:
        """How one replica is started."""
        return Instance(
            replace(self.deployment(""), model=self.model),
            name=self.served_name,
            flags=tuple(self.flags),
            python=self.python,
            env=self.env,
            task=self.task,
            command=tuple(self.command),
        )

    def deployment(self, gpu: str) -> Deployment:
        """The record for predictions and simulations."""
        return Deployment(
            model=self.architecture or self.model,
            gpu=gpu,
            layout=self.layout,
            limits=EngineLimits(
                max_num_seqs=self.max_num_seqs,
                max_num_batched_tokens=self.max_num_batched_tokens,
                gpu_memory_utilization=self.gpu_memory_utilization,
                max_model_len=self.max_model_len,
            ),
            dtypes=Dtypes(weight=self.weight_dtype, kv=self.kv_dtype),
            engine=self.engine,
        )


class NodeTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`[node]`: the planned hardware."""

    gpu: str = "cpu"  #: GPU id from the catalogue, or "cpu"
    gpus: int = 0  #: number in the node; 0: as many as are found
    ray: str = ""  #: Ray cluster for the replicas, as ray://host:port; empty: this machine


class DeploymentFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A whole file. `models` is `[[model]]` in TOML."""

    name: str = "shardwise"
    host: str = "127.0.0.1"
    port: int = 8000  #: where clients connect
    metrics_port: int = 0  #: Prometheus endpoint; 0: none
    balancer: BalancerName = "auto"
    api_key_env: str = ""  #: environment variable with the API key; the key itself is in no file
    node: NodeTable = NodeTable()
    models: list[ModelTable] = msgspec.field(name="model")

    def deployments(self) -> list[Deployment]:
        """One record per model."""
        return [model.deployment(self.node.gpu) for model in self.models]


def load(path: Path) -> DeploymentFile:
    """Load the file at `path`. InputError if unreadable, not TOML, or not a deployment."""
    try:
        data = tomllib.loads(read_utf8(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "a deployment.toml") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    return parse(data, str(path))


def parse(data: object, where: str) -> DeploymentFile:
    """Parse and check `data`; `where` names its source in errors."""
    try:
        file = msgspec.convert(data, DeploymentFile)
    except msgspec.ValidationError as error:
        raise _explained(error, where) from error
    _check(file, where)
    return file


def dump(file: DeploymentFile) -> str:
    """Return TOML text that `load` reads back as the same file, without default values."""
    lines = [_pair(key, value) for key, value in _changed(file) if key not in ("node", "model")]
    lines += ["", "[node]", *(_pair(key, value) for key, value in _changed(file.node))]
    for model in file.models:
        lines += ["", "[[model]]", *(_pair(key, value) for key, value in _changed(model))]
    return "\n".join(lines).strip() + "\n"


def save(file: DeploymentFile, path: Path) -> None:
    """Write `file` to `path` atomically."""
    try:
        write_whole(path, dump(file).encode())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _changed(table: msgspec.Struct) -> list[tuple[str, Any]]:
    fields = msgspec.structs.fields(table)
    pairs = [(field, getattr(table, field.name)) for field in fields]
    return [
        (field.encode_name, value)
        for field, value in pairs
        if field.required or field.name in _ALWAYS or value not in (field.default, [], {})
    ]


_ALWAYS: Final = {"port", "gpu", "engine", "tp_size", "replicas"}


def _pair(key: str, value: Any) -> str:
    return f"{key} = {_toml(value)}"


def _toml(value: Any) -> str:
    """Format a value as TOML. It equals JSON except for inline tables and DEL."""
    if isinstance(value, dict):
        inner = ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _explained(error: msgspec.ValidationError, where: str) -> InputError:
    text = str(error)
    path = re.search(r" - at `\$\.?([^`]*)`", text)
    key = path[1] if path else ""
    form: type[msgspec.Struct] = DeploymentFile
    if key.startswith("model"):
        form = ModelTable
    elif key.startswith("node"):
        form = NodeTable
    names = ", ".join(field.encode_name for field in msgspec.structs.fields(form))
    allowed = f"allowed keys: {names}" if "unknown field" in text or "missing" in text else ""
    return InputError(f"{where} {key}".strip() + f": {text.split(' - at', maxsplit=1)[0]}", allowed)


def _check(file: DeploymentFile, where: str) -> None:
    if not file.models:
        raise InputError(f"{where}: no [[model]]", "allowed: one or more")
    if not _NAME.fullmatch(file.name) or "/" in file.name or ":" in file.name:
        raise InputError(f"{where}: name {file.name!r}", "allowed: letters, digits, . _ -")
    names = Counter(model.served_name for model in file.models)
    for name, times in names.items():
        if times > 1:
            raise InputError(
                f"{where}: {times} models are served as {name!r}",
                "each needs its own name",
                "set name = … in its [[model]]",
            )
    for model in file.models:
        _check_model(model, f"{where}: model {model.served_name!r}")
    _check_ports(file, where)
    if not _HOST.fullmatch(file.host):
        raise InputError(f"{where}: host {file.host[:80]!r}", "allowed: a host name or IP address")


def _check_ports(file: DeploymentFile, where: str) -> None:
    ports = [file.port, *([file.metrics_port] if file.metrics_port else [])]
    for model, first in zip(file.models, first_ports(file), strict=True):
        ports += range(first, first + model.replicas)
    for port, times in Counter(ports).items():
        if not 1 <= port <= 65535:
            raise InputError(f"{where}: port {port}", "allowed: 1 to 65535")
        if times > 1:
            raise InputError(f"{where}: port {port} is claimed {times} times", "each needs its own")


def first_ports(file: DeploymentFile) -> list[int]:
    """Return the port of the first replica of each model."""
    ports, following = [], FIRST_REPLICA_PORT
    for model in file.models:
        ports.append(model.first_port or following)
        following = max(following, ports[-1] + model.replicas)
    return ports


def _check_words(model: ModelTable, where: str) -> None:
    if not _NAME.fullmatch(model.served_name):
        raise InputError(f"{where}: cannot be a name", "allowed: letters, digits, . _ / : -")
    if model.kv_dtype not in ("auto", *KV_BYTES):
        allowed = f"allowed: auto, {', '.join(KV_BYTES)}"
        raise InputError(f"{where}: kv_dtype {model.kv_dtype[:40]!r}", allowed)
    words = (*model.command, *model.flags, *model.env, *model.env.values())
    if any("\0" in word for word in words):
        raise InputError(f"{where}: command, flags or env contain a NUL character")


def _check_model(model: ModelTable, where: str) -> None:
    _check_words(model, where)
    sizes = ("tp_size", "pp_size", "attention_dp", "dcp_size", "replicas")
    for key in (*sizes, "max_num_seqs", "max_num_batched_tokens"):
        if not 1 <= getattr(model, key) <= 1_000_000:
            raise InputError(f"{where}: {key} = {getattr(model, key)}", "allowed: 1 to 1,000,000")
    if model.replicas > 1024 or model.devices_per_replica > 1024:
        raise InputError(f"{where}: more than 1024 replicas or ranks")
    if not 0 < model.gpu_memory_utilization <= 1:
        raise InputError(f"{where}: gpu_memory_utilization", "allowed: above 0, up to 1")
    if model.max_model_len < 0 or not model.ready_timeout_s > 0:
        raise InputError(f"{where}: max_model_len or ready_timeout_s is negative")
    for key in ("probe_interval_s", "hang_timeout_s"):
        if not 0 < getattr(model, key) <= 86400:
            raise InputError(f"{where}: {key} = {getattr(model, key):g}", "allowed: up to 86400 s")
    if model.engine not in (*managed(), "command"):
        raise InputError(
            f"{where}: engine {model.engine[:40]!r}", f"allowed: {', '.join(managed())}, command"
        )
    if (model.engine == "command") != bool(model.command):
        raise InputError(
            f"{where}: engine {model.engine!r} and command {model.command}",
            'engine = "command" needs a command, and no other engine accepts one',
        )
    if model.devices and len(model.devices) != model.replicas:
        raise InputError(
            f"{where}: {len(model.devices)} device lists for {model.replicas} replicas",
            "allowed: one list per replica, or no devices",
        )
