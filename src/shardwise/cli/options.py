"""Options shared by several commands, and parsing of lists and times."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

from shardwise.cli.files import WIDE_KEY
from shardwise.engines import get, names
from shardwise.errors import InputError
from shardwise.layout.deployment import FixedLimits
from shardwise.layout.speculation import Speculation
from shardwise.workload.workload import TRAFFIC_CV

F = TypeVar("F", bound=Callable[..., Any])
MAX_ITEMS: Final = 64
MAX_DIGITS: Final = 9
LONGEST_S: Final = 1e9
_DURATION: Final = re.compile(
    r"\s*((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(ms|s|m|min|h|)\s*", re.ASCII
)
_SECONDS: Final = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}

if TYPE_CHECKING:
    _FloatType = click.ParamType[float]
else:
    _FloatType = click.ParamType


class Finite(click.FloatRange):
    """A range of numbers without NaN and infinity."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return `value` as a float within the range; fails for NaN and infinity."""
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return found


class Duration(_FloatType):
    """A time with its unit, in seconds: `30ms`, `2s`, `10m` or `1h`. 0 needs no unit."""

    name = "duration"

    def __init__(self, above_0: bool = True) -> None:
        self.above_0 = above_0

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,  # noqa: ARG002
    ) -> float:
        """Return `value` in seconds. Raises InputError unless it is a duration with a unit."""
        if isinstance(value, float):
            return value
        option = param.opts[0] if param and param.opts else "duration"
        found = duration_s(str(value), option)
        if not 0 <= found <= LONGEST_S or (self.above_0 and found == 0):
            least = "above 0" if self.above_0 else "0"
            raise InputError(
                f"{option} is {value}", f"allowed: {least}, up to {LONGEST_S:g}s", field=option
            )
        return found


def duration_s(text: str, option: str) -> float:
    """Parse `200ms`, `2s`, `10m` or `1h` to seconds.

    Raises:
        InputError: `text` is not a time, or has no unit.
    """
    match = _DURATION.fullmatch(text)
    if match is None or (not match.group(2) and float(match.group(1)) != 0):
        raise InputError(
            f"{option} is {text[:40]!r}",
            "allowed: a time with a unit, e.g. 200ms, 2s, 10m or 1h",
            field=option,
        )
    return float(match.group(1)) * _SECONDS[match.group(2)]


SEED: Final = click.IntRange(0, 2**63 - 1)
ABOVE_0: Final = Finite(0, min_open=True)


def sizes(text: str, what: str) -> tuple[int, ...]:
    """Parse whole numbers above 0 from "1,2,4". Raises InputError naming the input."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() and part.strip("0") for part in parts):
        raise InputError(f"{what} is {text!r}", "allowed: whole numbers above 0, e.g. 1,2,4")
    if max(map(len, parts)) > MAX_DIGITS:
        raise InputError(f"{what} is {text[:40]!r}", f"allowed: at most {MAX_DIGITS} digits each")
    if len(parts) > MAX_ITEMS:
        raise InputError(f"{what} has {len(parts)} values", f"allowed: at most {MAX_ITEMS}")
    return tuple(sorted({int(part) for part in parts}))


_ENGINES: Final = f"{', '.join(names())}."


def _engine(context: click.Context, option: click.Parameter, given: str) -> str:
    """Return `given` if it names an engine. Raises InputError otherwise."""
    del context, option
    return get(given).name


def _keep_wide(context: click.Context, option: click.Parameter, given: bool) -> None:
    del option
    context.meta[WIDE_KEY] = given


WIDE: Final = click.option(
    "--wide",
    is_flag=True,
    expose_value=False,
    callback=_keep_wide,
    help="Show every column and interval bound, one row per line.",
)
#: Shared by all commands that take mean lengths.
LENGTH_CV: Final = click.option(
    "--length-cv",
    type=Finite(0, 10),
    default=TRAFFIC_CV,
    show_default=True,
    help="Coefficient of variation of --isl and --osl; 0: all equal.",
)
JSON: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print only one JSON document on stdout."
)
CATALOGUE: Final = click.option(
    "--catalogue",
    "catalogue_files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="TOML file with your own GPUs and prices; repeatable.",
)
GPUS: Final = click.option(
    "--gpus", type=int, help="GPUs in the node; default: those of the node file, else 8."
)
#: One meaning wherever a GPU is named: it is looked up as it is on that node.
NODE: Final = click.option(
    "--node",
    "node_file",
    type=click.Path(path_type=Path),
    help="Node file of 'shardwise doctor --save': GPUs, their number, links and devices.",
)
PROFILE: Final = click.option(
    "--profile",
    default="reference",
    show_default=True,
    help="Name of a profile, or a shared .json file.",
)
DEVICE: Final = click.option(
    "--device",
    default="auto",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Device to run on; auto: a GPU if there is one.",
)
COMPUTE_DTYPE: Final = click.option(
    "--dtype",
    default="auto",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    help="Dtype to compute in; auto: fp32 on CPU, else as stored.",
)
KV_DTYPE: Final = click.option(
    "--kv-dtype",
    default="auto",
    show_default=True,
    help="KV cache dtype, e.g. fp8; auto: the checkpoint's.",
)
PRICE: Final = click.option(
    "--price", type=ABOVE_0, help="USD per GPU-hour instead of the catalogue's price."
)
ENGINE: Final = click.option(
    "--engine", default="vllm", show_default=True, callback=_engine, help=f"Engine: {_ENGINES}"
)


def speculation_options(command: F) -> F:
    """Add --speculation and --acceptance."""
    for option in (
        click.option(
            "--acceptance",
            type=click.FloatRange(0, 1),
            help="Share of drafted tokens that are accepted; default: assumed, with a range.",
        ),
        click.option(
            "--speculation",
            default="none",
            show_default=True,
            help="Draft and tokens per step: mtp:3 for the model's own heads, or DRAFT-MODEL:4.",
        ),
    ):
        command = option(command)
    return command


def speculation_of(options: Mapping[str, Any]) -> Speculation | None:
    """Parse --speculation and --acceptance. Raises InputError for invalid values."""
    return Speculation.parse(options["speculation"], options["acceptance"])


def limit_options(command: F) -> F:
    """Add --engine-version and the engine's limits, named like the engine's flags."""
    for option in (
        click.option(
            "--max-model-len",
            type=int,
            help="Fix the longest request (prompt plus output) in tokens.",
        ),
        click.option(
            "--max-num-batched-tokens", type=int, help="Fix the engine's limit of tokens per step."
        ),
        click.option(
            "--max-num-seqs", type=int, help="Fix the engine's limit of sequences per step."
        ),
        click.option(
            "--gpu-memory-utilization",
            type=float,
            help="Fix the share of GPU memory that the engine may use, e.g. 0.9.",
        ),
        click.option("--engine-version", default="", help="Version of the engine, e.g. 0.11.0."),
    ):
        command = option(command)
    return command


def put_on_node(options: dict[str, Any]) -> None:
    """Put the node of --node into `options`: its GPU's id, how many there are where the command
    asks for that, and its file among those of the catalogue. Without --node, --gpus is 8 if it is
    not given.

    Raises:
        InputError: The file cannot be used, or says otherwise than --gpu and --gpus.
    """
    from shardwise.api.hardware import USUAL_GPUS, hardware_of

    path = options.pop("node_file")
    if path is None:
        if "gpus" in options and options["gpus"] is None:
            options["gpus"] = USUAL_GPUS
        return
    source = click.get_current_context().get_parameter_source("gpu")
    gpu = "" if source is ParameterSource.DEFAULT else options["gpu"] or ""
    found = hardware_of(gpu, options.get("gpus"), path, options["catalogue_files"])
    options["gpu"], options["catalogue_files"] = found.gpu, found.files
    if "gpus" in options:
        options["gpus"] = found.gpus


def fixed_limits(options: Mapping[str, Any]) -> FixedLimits:
    """Return the limits fixed by a command's options. Raises InputError for invalid ones."""
    return FixedLimits(
        max_num_seqs=options["max_num_seqs"],
        max_num_batched_tokens=options["max_num_batched_tokens"],
        gpu_memory_utilization=options["gpu_memory_utilization"],
        max_model_len=options["max_model_len"],
    )


def subject_options(command: F, gpu_required: bool = True) -> F:
    """MODEL, --gpu, --node, --engine, --dtype, --kv-dtype, --profile, --catalogue."""
    for option in (
        CATALOGUE,
        NODE,
        PROFILE,
        KV_DTYPE,
        click.option(
            "--dtype",
            default="auto",
            show_default=True,
            help="Weight dtype, e.g. fp8; auto: the checkpoint's.",
        ),
        ENGINE,
        click.option("--gpu", required=gpu_required, help="GPU id, e.g. mi300x."),
        click.argument("model"),
    ):
        command = option(command)
    return command
