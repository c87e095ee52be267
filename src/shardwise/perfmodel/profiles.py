"""Profiles: calibrated coefficients and collectives with their provenance and error.

The bundled profile is the hierarchy fitted to the reference rows. A user's profile adds offsets for
one GPU and engine and is loaded by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import msgspec

from shardwise.errors import InputError, UnknownNameError
from shardwise.files import read_limited, write_whole
from shardwise.hardware.gpu import Gpu
from shardwise.hardware.user_files import home
from shardwise.perfmodel.collectives import AllReduce, Collectives, from_topology
from shardwise.perfmodel.hierarchy import Hierarchy, decode, is_version, levels_of
from shardwise.perfmodel.knowledge import Knowledge

BUNDLED: Final = "reference"
FORMAT: Final = "shardwise-profile"  #: marks a file that `perfmodel.sharing` wrote
FORMAT_VERSION: Final = 1
STRUCTURE: Final = 3  #: factors on measured kernels; launches of prompts by kernel
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LIBRARY: Final = {"sglang": ("sglang", "vllm", "nccl", "fastest")}
#: Libraries whose all-reduce an engine may use; the first measured one applies.
_LIBRARIES: Final = ("vllm", "fastest", "nccl")


class Error(msgspec.Struct, frozen=True):
    """Error of one metric on one group of rows: mean |predicted / measured - 1| in percent."""

    gpu: str
    engine: str
    metric: str
    rows: int
    fitted_pct: float  #: on the rows of the fit
    held_out_pct: float | None  #: on held-out rows; None if no row could be held out
    covered_pct: float | None = None  #: held-out rows within the interval from the other rows


class FoldError(msgspec.Struct, frozen=True):
    """Errors on held-out rows, in percent.

    Attributes:
        fold: What was held out (`crossval.Fold.kind`); "kernels" for predictions without a fit.
        kind: "dense" or "moe".
        covered_pct: Rows within the released intervals.
        crossed_pct: Rows within intervals computed from the other held-out groups; None for fewer
            than three groups.
    """

    fold: str
    kind: str
    metric: str
    rows: int
    median_error_pct: float
    mean_error_pct: float
    bias_pct: float
    covered_pct: float
    crossed_pct: float | None = None


class Line(msgspec.Struct, frozen=True):
    """Fitted all-reduce lines of one GPU, library and world size."""

    gpu: str
    library: str
    world_size: int
    latency_s: float
    rate: float
    bulk_latency_s: float
    bulk_rate: float
    points: int
    mean_error_pct: float


class Seen(msgspec.Struct, frozen=True):
    """Versions, families, dtypes, layouts and plugins of the rows of a fit; see
    `knowledge.Knowledge`."""

    versions: dict[str, list[str]] = {}
    families: list[str] = []
    dtypes: list[str] = []
    layouts: dict[str, list[str]] = {}
    plugins: dict[str, list[str]] = {}

    @property
    def knowledge(self) -> Knowledge:
        """GPUs, engines, versions and families that rows cover."""
        return Knowledge(
            frozenset(pair.split("/")[0] for pair in self.versions),
            frozenset(pair.split("/")[1] for pair in self.versions),
            {k: frozenset(v) for k, v in self.versions.items()},
            frozenset(self.families),
            frozenset(self.dtypes),
            {k: frozenset(v) for k, v in self.layouts.items()},
            {k: frozenset(v) for k, v in self.plugins.items()},
        )

    def with_more(self, other: Seen) -> Seen:
        """Return the union of both."""

        def joined(a: dict[str, list[str]], b: dict[str, list[str]]) -> dict[str, list[str]]:
            return {k: sorted({*a.get(k, []), *b.get(k, [])}) for k in {**a, **b}}

        return Seen(
            joined(self.versions, other.versions),
            sorted({*self.families, *other.families}),
            sorted({*self.dtypes, *other.dtypes}),
            joined(self.layouts, other.layouts),
            joined(self.plugins, other.plugins),
        )


class Profile(msgspec.Struct, frozen=True):
    """The result of a calibration."""

    name: str
    created: str  #: ISO date
    provenance: str
    offsets: dict[str, dict[str, float]]
    lines: list[Line] = []
    widths: dict[str, float] = {}  #: log half-widths of 80 % intervals, see `intervals`
    own_widths: dict[str, float] = {}  #: of a user's own pairs: "gpu/engine/metric"
    errors: list[Error] = []
    folds: list[FoldError] = []
    seen: Seen = Seen()
    structure: int = 1  #: version of the performance model of the offsets

    @property
    def hierarchy(self) -> Hierarchy:
        """Offsets of GPUs, engines, versions and models."""
        return decode(self.offsets)

    @property
    def knowledge(self) -> Knowledge:
        """What the profile's rows cover."""
        return _knowledge_of(_Held(self.seen))


@lru_cache(maxsize=64)
def _knowledge_of(held: _Held) -> Knowledge:
    return held.seen.knowledge


class _Held:
    """Wrap `Seen` and compare by identity, so that `Knowledge` is built once."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def __hash__(self) -> int:
        return id(self.seen)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and other.seen is self.seen


class _SharedFile(msgspec.Struct, frozen=True):
    """The part of a shared profile that is loaded. Its rows and hardware are for the reader."""

    format: str
    version: int
    profile: Profile


class Calibrated(msgspec.Struct, frozen=True):
    """A profile applied to one GPU, engine and version."""

    profile: Profile
    gpu: Gpu
    engine: str
    version: str
    collectives: Collectives

    def coefficients_of(self, model: str) -> dict[str, float]:
        """Coefficients for a model, by its key (`hierarchy.model_key`); "" for any."""
        return self._hierarchy(model).coefficients(self.gpu, self.engine, self.version, model)

    @property
    def coefficients(self) -> dict[str, float]:
        """Coefficients for a model without calibration rows."""
        return self.coefficients_of("")

    def _hierarchy(self, model: str) -> Hierarchy:
        keys = ["/".join(k) for k in levels_of(self.gpu.id, self.engine, self.version, model)]
        offsets = self.profile.offsets
        if self.version:  # also the offsets of this version on other GPUs
            keys += [key for key in offsets if is_version(key, self.engine, self.version)]
        return decode({key: offsets[key] for key in keys if key in offsets})


def profile_folder() -> Path:
    """Return the folder of users' profiles, in $SHARDWISE_HOME or ~/.config/shardwise."""
    return home() / "profiles"


@cache
def bundled_profile() -> Profile:
    """Return the profile that ships with the package."""
    data = (Path(__file__).parent / "data" / "reference.json").read_bytes()
    return msgspec.json.decode(data, type=Profile)


def load_profile(name: str) -> Profile:
    """Load a profile by name, or from a file of `calibrate --export` (a name that ends in .json).

    Raises:
        UnknownNameError: There is no such profile.
        InputError: The file is damaged.
    """
    if name == BUNDLED:
        return bundled_profile()
    if name.endswith(".json"):
        return _shared_profile(Path(name))
    path = profile_folder() / f"{check_name(name)}.json"
    if not path.exists():
        known = [p.stem for p in profile_folder().glob("*.json")] if path.parent.is_dir() else []
        raise UnknownNameError(
            "profile", name, [*known, BUNDLED], "make one with 'shardwise calibrate'"
        )
    try:
        found = msgspec.json.decode(read_limited(path), type=Profile)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"profile {path} is damaged: {error}", remedy="calibrate again") from None
    _check_structure(found, path)
    return found


def _shared_profile(path: Path) -> Profile:
    remedy = "give a file that 'shardwise calibrate --export' wrote"
    try:
        found = msgspec.json.decode(read_limited(path), type=_SharedFile)
    except OSError as error:
        raise InputError(f"cannot read profile {path}: {error.strerror}", remedy=remedy) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{path} is not a shared profile: {error}", remedy=remedy) from None
    if (found.format, found.version) != (FORMAT, FORMAT_VERSION):
        raise InputError(
            f"{path} is {found.format[:40]!r}, version {found.version}",
            f"allowed: {FORMAT!r}, version {FORMAT_VERSION}",
            remedy,
        )
    _check_structure(found.profile, path)
    return found.profile


def _check_structure(profile: Profile, path: Path) -> None:
    if profile.structure != STRUCTURE:
        raise InputError(
            f"profile {path} was made for an older performance model",
            f"needed: structure {STRUCTURE}, not {profile.structure}",
            "calibrate again from your rows",
        )


def check_name(name: str) -> str:
    """Return `name` if it is valid for a profile. Raises InputError otherwise."""
    if not _NAME.fullmatch(name) or name == BUNDLED:
        raise InputError(
            f"profile name {name[:80]!r}",
            f"allowed: lower-case letters, digits, '.', '_', '-', and not {BUNDLED!r}",
        )
    return name


def save_profile(profile: Profile) -> Path:
    """Write a user's profile atomically, replacing one of the same name."""
    path = profile_folder() / f"{check_name(profile.name)}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, msgspec.json.format(msgspec.json.encode(profile), indent=2))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}", remedy="set SHARDWISE_HOME") from None
    return path


def _measured(lines: list[Line], gpu_id: str, engine: str) -> tuple[str, list[Line]]:
    for library in _LIBRARY.get(engine, _LIBRARIES):
        found = [x for x in lines if x.gpu == gpu_id and x.library == library]
        if found:
            return library, found
    return "", []


def _scaled(lines: list[Line], ratio: float) -> dict[int, AllReduce]:
    return {
        x.world_size: AllReduce(x.latency_s, x.rate * ratio, x.bulk_latency_s, x.bulk_rate * ratio)
        for x in lines
    }


def collectives_for(
    profile: Profile, gpu: Gpu, engine: str, siblings: Mapping[str, Gpu]
) -> Collectives:
    """Return the all-reduce times of a GPU.

    Uses its own measurements; else those of a GPU with the same kind of links, scaled to this GPU's
    link rate; else an estimate from the topology.
    """
    if gpu.all_reduce:
        # one line per world size: an infinite latency disables the bulk line
        own = {
            world: AllReduce(line.latency_s, line.bytes_per_s, float("inf"), line.bytes_per_s)
            for world, line in gpu.all_reduce.items()
        }
        return Collectives(own, gpu.all_reduce_source or f"measured on {gpu.id}")
    library, lines = _measured(profile.lines, gpu.id, engine)
    if lines:
        return Collectives(_scaled(lines, 1.0), f"{library}, {gpu.id}")
    for other_id, other in siblings.items():
        same = (other.vendor, other.interconnect.topology) == (
            gpu.vendor,
            gpu.interconnect.topology,
        )
        library, lines = _measured(profile.lines, other_id, engine)
        if same and lines and gpu.interconnect.topology != "pcie":
            ratio = (
                gpu.interconnect.bandwidth_bytes_per_s / other.interconnect.bandwidth_bytes_per_s
            )
            return Collectives(_scaled(lines, ratio), f"{library}, scaled from {other_id}")
    return from_topology(gpu.interconnect)


def calibrated(
    profile: Profile, gpu: Gpu, engine: str, siblings: Mapping[str, Gpu], version: str = ""
) -> Calibrated:
    """Apply `profile` to a GPU and engine. Links may be taken from the GPUs in `siblings`."""
    return Calibrated(
        profile, gpu, engine, version, collectives_for(profile, gpu, engine, siblings)
    )
