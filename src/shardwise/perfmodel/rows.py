"""Rows of measurements: read and check them.

The columns are those of the reference set: source_id, model_id, gpu_id, engine_id, weight_dtype,
kv_dtype, tp, pp, mode, concurrency, isl, osl, and the observed e2e_s, ttft_ms, tpot_ms,
output_tok_s, total_tok_s. Optional columns include:

- `ep`, `dp`, `dcp` and `engine_version`;
- `speculation` (such as mtp:3, or whether a measured run may have used it) and `acceptance`;
- `cached_tokens` of each prompt;
- `requests` of the run, because its mean TTFT includes the first burst;
- `length_cv`, because requests of equal length stay synchronized; unknown if a source omits it.

A row that cannot be used is reported with the reason. A file is UTF-8, with or without a byte order
mark. Cells are separated by commas, semicolons or tabs.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.architecture.cache import KV_BYTES
from shardwise.engines.registry import names
from shardwise.errors import InputError
from shardwise.files import read_utf8
from shardwise.layout.deployment import FixedLimits, Layout
from shardwise.layout.speculation import Speculation
from shardwise.perfmodel.recipes import Recipe, Run, lengths_of, recipe_of
from shardwise.workload.workload import MAX_TOKENS, MOST_SPREAD, TRAFFIC_CV, require_cached

REQUIRED: Final = (
    "model_id",
    "gpu_id",
    "engine_id",
    "weight_dtype",
    "tp",
    "mode",
    "concurrency",
    "isl",
    "osl",
)
MODES: Final[Mapping[str, str]] = {
    "offline_latency_static_batch": "static_batch",
    "offline_throughput_static_batch": "static_batch",
    "static_batch": "static_batch",
    "offline_throughput_inf_rate": "max_throughput",
    "max_throughput": "max_throughput",
    "serving_closed_loop": "closed_loop",
    "closed_loop": "closed_loop",
}
#: column -> (metric, factor to SI)
OBSERVED: Final[Mapping[str, tuple[str, float]]] = {
    "ttft_ms": ("ttft_s", 1e-3),
    "tpot_ms": ("tpot_s", 1e-3),
    "e2e_s": ("e2e_latency_s", 1.0),
    "output_tok_s": ("output_tok_s", 1.0),
    "total_tok_s": ("total_tok_s", 1.0),
}
_TIMES: Final = ("ttft_s", "tpot_s", "e2e_latency_s")
#: columns that are read if present
OPTIONAL: Final = (
    *("source_id", "engine", "engine_version", "kv_dtype", "pp", "ep", "dp", "dcp", "gpus"),
    *("requests", "kv_limited", "use", "measured_on", "speculation", "acceptance"),
    *("cached_tokens", "length_cv"),
    *("max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization", "max_model_len"),
    *OBSERVED,
)
#: key of the cells of a line that exceed the header
EXTRA: Final = "\0extra"
#: Range of plausible times in seconds. A time outside has a different unit than its column states.
#: In the reference set, the smallest TPOT is 2.7 ms and the largest E2E latency 51 minutes.
PLAUSIBLE_S: Final = (5e-5, 1e5)
#: Largest plausible ratio of E2E latency to TTFT + decode time, which are means of the same
#: requests. Beyond it, a unit error (seconds instead of milliseconds) is more likely.
MOST_APART: Final = 30.0
ALL_QUEUED: Final = 1e6  #: requests, where a source says "max"
#: No count or length of a row is larger.
LARGEST: Final = 1e9
#: "vLLM 0.9.1 (AMD rocm/vllm-dev:main)": a name, then a number
_VERSION: Final = re.compile(r"\S+\s+v?(\d+(?:\.\w+)*)")
#: Weight in a fit of rows whose source does not say whether they used speculative decoding.
UNKNOWN_SPECULATION_WEIGHT: Final = 0.5
SPECULATION: Final = ("", "likely", "unlikely", "unknown")
INFERENCEX_WAVES: Final = 10  #: --num-prompts is 10 x the concurrency in InferenceMAX's README
#: Requests per stream if a source does not say. 1, 3, 10 and 30 are equally likely; the geometric
#: mean is the mean in logs.
UNKNOWN_WAVES: Final = (1.0 * 3.0 * 10.0 * 30.0) ** 0.25


class Row(msgspec.Struct, frozen=True):
    """One configuration that was measured or is to be predicted. Lengths are means, in tokens."""

    number: int  #: line of data, 1 for the first
    model: str
    gpu: str
    engine: str
    weight_dtype: str
    kv_dtype: str  #: "" if the source does not say
    layout: Layout  #: of one replica
    mode: str
    concurrency: float
    isl: float
    osl: float
    source: str
    version: str  #: of the engine; "" if the source does not say
    use: str
    kv_limited: bool | None
    requests: float  #: of the whole run; the first `concurrency` are sent at once
    observed: Mapping[str, float] = msgspec.field(default_factory=dict)
    limits: FixedLimits = msgspec.field(default_factory=FixedLimits)
    speculation: str = ""  #: "likely", "unlikely", "unknown" or ""
    requests_told: bool = True  #: whether the source states `requests`
    length_cv: float = 0.0  #: standard deviation of lengths over their mean; 0: all equal
    lengths_told: bool = True  #: whether the source states `length_cv`
    all_reduce: str = ""  #: "quick_int4" for compressed messages; "": the engine's default
    plugin: str = ""  #: that replaces the engine's model code and kernels: "ATOM"
    drafted: Speculation | None = None  #: speculation that the row states
    cached_tokens: float = 0.0  #: of `isl`: prefix that all prompts share
    recipe: Recipe = Recipe()  #: how the source measured

    @property
    def is_plain(self) -> bool:
        """Whether the row ran without speculative decoding, as far as the source states."""
        return self.speculation != "likely" and self.drafted is None

    @property
    def weight(self) -> float:
        """Weight of the row in a fit."""
        return UNKNOWN_SPECULATION_WEIGHT if self.speculation == "unknown" else 1.0

    @property
    def ttft_is_told(self) -> bool:
        """Whether TTFT is that of serving. In ATOM's nightly runs it includes compilation, and in
        `kv_limited` rows the wait for memory."""
        return not self.source.startswith("rocm_atom_dashboard") and not self.kv_limited

    @property
    def tp_size(self) -> int:
        """TP size of the row's layout."""
        return self.layout.tp_size

    @property
    def max_num_seqs(self) -> float:
        """Stated limit, else the concurrency: load tests start the engine for it. If all requests
        are queued, 2,048, the default of TensorRT-LLM's throughput runs."""
        if self.limits.max_num_seqs is not None:
            return float(self.limits.max_num_seqs)
        return 2048.0 if self.concurrency >= ALL_QUEUED else self.concurrency


class Problem(msgspec.Struct, frozen=True):
    """A row that cannot be used, and why."""

    number: int
    reason: str


def _positive(cells: Mapping[str, str], column: str, default: str = "") -> float:
    text = (cells.get(column) or default).strip()
    allowed = f"allowed: a number above 0 and below {LARGEST:,.0f}"
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{column} is {text!r}", allowed) from None
    if not 0 < value < LARGEST:
        raise InputError(f"{column} is {text}", allowed)
    return value


def _whole(cells: Mapping[str, str], column: str, default: str = "") -> int:
    value = _positive(cells, column, default)
    if value != int(value):
        raise InputError(f"{column} is {value:g}", "allowed: a whole number")
    return int(value)


def _share(
    cells: Mapping[str, str], column: str, default: float, most: float = MOST_SPREAD
) -> float:
    text = (cells.get(column) or "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise InputError(f"{column} is {text!r}", f"allowed: 0 to {most:g}")
    return value


def _cached(cells: Mapping[str, str], isl: float) -> float:
    found = _share(cells, "cached_tokens", 0.0, MAX_TOKENS)
    require_cached(found, isl)
    return found


def _drafted(cells: Mapping[str, str]) -> Speculation | None:
    """Return the stated speculation; None if the row has no number of drafted tokens."""
    text = (cells.get("speculation") or "").strip()
    acceptance = None
    if (cells.get("acceptance") or "").strip():
        acceptance = _share(cells, "acceptance", 0.0, 1.0)
    if text.lower() in SPECULATION:
        return Speculation.parse("", acceptance)
    return Speculation.parse(text, acceptance)


def _choice(cells: Mapping[str, str], column: str, allowed: Iterable[str]) -> str:
    value = (cells.get(column) or "").strip().lower()
    if value not in allowed:
        raise InputError(f"{column} is {value!r}", f"allowed: {', '.join(sorted(set(allowed)))}")
    return value


def version_of(engine: str) -> str:
    """Return the version in an engine's description, "" if there is none."""
    found = _VERSION.match(engine.strip())
    return found[1] if found else ""


def _layout(cells: Mapping[str, str]) -> Layout:
    """Return the layout from tp, pp, ep (expert parallel), dp (data-parallel attention) and dcp
    (decode context parallel). Raises InputError if gpus contradicts them."""
    tp, dp = _whole(cells, "tp"), _whole(cells, "dp", "1")
    pp, ep = _whole(cells, "pp", "1"), _whole(cells, "ep", "1")
    layout = Layout(tp, pp, ep, dp, dcp_size=_whole(cells, "dcp", "1"))
    if (cells.get("gpus") or "").strip() and _whole(cells, "gpus") != layout.replica_gpus:
        raise InputError(
            f"gpus is {_whole(cells, 'gpus')} with tp {tp}, pp {layout.pp_size}, dp {dp}",
            f"allowed: their product, {layout.replica_gpus}",
        )
    return layout


def _limits(cells: Mapping[str, str], recipe: Recipe) -> FixedLimits:
    """Return the engine's limits from optional columns named like its flags, else from the
    recipe of the source."""

    def whole(column: str) -> int | None:
        usual: int | None = getattr(recipe.limits, column)
        return _whole(cells, column) if (cells.get(column) or "").strip() else usual

    share = (cells.get("gpu_memory_utilization") or "").strip()
    return FixedLimits(
        max_num_seqs=whole("max_num_seqs"),
        max_num_batched_tokens=whole("max_num_batched_tokens"),
        gpu_memory_utilization=(
            _positive(cells, "gpu_memory_utilization")
            if share
            else recipe.limits.gpu_memory_utilization
        ),
        max_model_len=whole("max_model_len"),
    )


def _observed(cells: Mapping[str, str], osl: float) -> dict[str, float]:
    """Return the measured values in SI units. Raises InputError for a time in the wrong unit."""
    found = {}
    for column, (metric, factor) in OBSERVED.items():
        if not (cells.get(column) or "").strip():
            continue
        value = found[metric] = _positive(cells, column) * factor
        low, high = PLAUSIBLE_S
        if metric in _TIMES and not low <= value <= high:
            unit = "ms" if factor < 1.0 else "s"
            raise InputError(
                f"{column} is {value / factor:g}",
                f"allowed: {low / factor:g} to {high / factor:g}, in {unit}",
            )
    _check_sum(found, osl)
    return found


def _check_sum(observed: Mapping[str, float], osl: float) -> None:
    """Raise InputError if E2E latency, TTFT and TPOT cannot be in the units of their columns."""
    if not all(metric in observed for metric in _TIMES):
        return
    parts_s = observed["ttft_s"] + observed["tpot_s"] * (osl - 1.0)
    apart = observed["e2e_latency_s"] / parts_s
    if not 1.0 / MOST_APART < apart < MOST_APART:
        raise InputError(
            f"e2e_s is {apart:.3g} times ttft_ms + tpot_ms x (osl - 1)",
            "needed: e2e_s in seconds, ttft_ms and tpot_ms in milliseconds",
        )


def parse_row(number: int, cells: Mapping[str, str]) -> Row:
    """Parse one row. Raises InputError that names the cell."""
    if cells.get(EXTRA):
        raise InputError("more cells than the header has columns", "quote a cell with a comma")
    mode = MODES[_choice(cells, "mode", MODES)]
    text = (cells.get("concurrency") or "").strip()
    concurrency = ALL_QUEUED if text == "max" else _positive(cells, "concurrency")
    if text == "max" and mode != "max_throughput":
        raise InputError("concurrency is 'max'", "allowed only with offline_throughput_inf_rate")
    source = (cells.get("source_id") or "").strip()
    inferencex = "inferencex" in source
    stated = _positive(cells, "isl")
    lengths = lengths_of(source, stated)
    # a row without a source is a prediction request; assume the same load as planning
    told = inferencex or not source
    model, engine = (cells.get("model_id") or "").strip(), _choice(cells, "engine_id", names())
    version = (cells.get("engine_version") or "").strip() or version_of(cells.get("engine") or "")
    layout = _layout(cells)
    isl, osl = lengths.mean * stated, max(lengths.mean * _positive(cells, "osl"), 1.0)
    date = (cells.get("measured_on") or "").strip()
    gpu = (cells.get("gpu_id") or "").strip()
    run = Run(source, model, engine, version, layout, concurrency, isl, osl, date, gpu)
    recipe = recipe_of(run)
    if text == "max" and recipe.queued:
        concurrency = recipe.queued
    usual = concurrency * (INFERENCEX_WAVES if told else recipe.waves or UNKNOWN_WAVES)
    if recipe.whole_experts and layout.ep_size == 1:
        layout = replace(layout, ep_size=layout.tp_size)
    unknown = 0.0 if source else TRAFFIC_CV
    cv = lengths.cv if recipe.length_cv is None else recipe.length_cv
    kv_dtype = (cells.get("kv_dtype") or "").strip()
    if kv_dtype and kv_dtype not in KV_BYTES:
        raise InputError(f"kv_dtype is {kv_dtype[:40]!r}", f"allowed: {', '.join(KV_BYTES)}")
    flag = (cells.get("kv_limited") or "").strip()
    drafted = _drafted(cells)
    return Row(
        number=number,
        model=model,
        gpu=gpu,
        engine=engine,
        weight_dtype=(cells.get("weight_dtype") or "bf16").strip(),
        kv_dtype=kv_dtype,
        layout=layout,
        mode=mode,
        concurrency=concurrency,
        isl=isl,
        osl=osl,
        source=source,
        version=version,
        use=(cells.get("use") or "").strip(),
        requests=_positive(cells, "requests", str(usual)),
        kv_limited={"0": False, "1": True}.get(flag[:1]) if flag else None,
        observed=_observed(cells, osl),
        limits=_limits(cells, recipe),
        recipe=recipe,
        speculation="" if drafted else _speculation(cells, recipe),
        drafted=drafted,
        cached_tokens=_cached(cells, isl),
        all_reduce="quick_int4" if "INT4 quick" in (cells.get("engine") or "") else "",
        plugin="ATOM" if "ATOM plugin" in (cells.get("engine") or "") else "",
        length_cv=_share(cells, "length_cv", unknown if cv is None else cv),
        lengths_told=(not source or cv is not None or bool((cells.get("length_cv") or "").strip())),
        requests_told=inferencex or bool((cells.get("requests") or "").strip()),
    )


def _speculation(cells: Mapping[str, str], recipe: Recipe) -> str:
    if recipe.drafted is None:
        return (cells.get("speculation") or "").strip().lower()
    return "likely" if recipe.drafted else "unlikely"


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the header and the cells of a CSV file. Cells that exceed the header are under EXTRA.

    Raises:
        InputError: The file cannot be read, lacks columns, repeats one, or has no rows.
    """
    text = _text(path)
    try:
        # strict: an unclosed quote would silently consume the rest of the file
        reader = csv.DictReader(
            io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True, restkey=EXTRA
        )
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        table = [_cells(cells) for cells in reader]
    except csv.Error as error:
        raise InputError(f"cannot read {path}: {error}", remedy="give a CSV file") from None
    twice = [name for name, count in Counter(filter(None, header)).items() if count > 1]
    if twice:
        raise InputError(f"{path} has the column {twice[0]} twice", remedy="remove one of them")
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        needed = ", ".join(REQUIRED)
        raise InputError(f"{path} lacks the columns {', '.join(missing)}", f"needed: {needed}")
    if not table:
        raise InputError(f"{path} has no rows")
    return header, table


def _text(path: Path) -> str:
    try:
        return read_utf8(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", remedy="give a file") from None


def _delimiter(text: str) -> str:
    """Return the separator of the header: a comma, unless it has more semicolons or tabs."""
    header = text.partition("\n")[0]
    return max((",", ";", "\t"), key=header.count)


def _cells(cells: Mapping[str, str | list[str] | None]) -> dict[str, str]:
    return {
        name: " ".join(value) if isinstance(value, list) else value or ""
        for name, value in cells.items()
        if name
    }


def unused_columns(header: Iterable[str]) -> list[str]:
    """Return columns that are neither read nor added by `predict`."""
    known = {*REQUIRED, *OPTIONAL}
    return [name for name in header if name not in known and not name.startswith("pred_")]


def parse_rows(table: Iterable[Mapping[str, str]]) -> tuple[list[Row], list[Problem]]:
    """Return the rows that can be parsed, and a problem for each of the others."""
    rows, problems = [], []
    for number, cells in enumerate(table, start=1):
        try:
            rows.append(parse_row(number, cells))
        except InputError as error:
            problems.append(Problem(number, str(error)))
    return rows, problems
