"""Resolve names to a subject: model, GPU, engine and dtypes, with their calibration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import msgspec

from shardwise.architecture.bundled import stored_in
from shardwise.architecture.models import load
from shardwise.engines.registry import get
from shardwise.errors import InputError
from shardwise.hardware.catalogue import Catalogue, default_catalogue, load_catalogue
from shardwise.hardware.user_files import own_hardware
from shardwise.layout.rules import require_kv_dtype
from shardwise.layout.speculation import Speculation
from shardwise.perfmodel.batches import GpuOf
from shardwise.perfmodel.drafts import require_draft
from shardwise.perfmodel.estimate import Subject
from shardwise.perfmodel.profiles import calibrated, load_profile


class Asked(msgspec.Struct, frozen=True):
    """Names given by a user. `catalogue_files` add or replace GPUs and prices; one may be a node
    file."""

    model: str
    gpu: str
    engine: str = "vllm"
    weight_dtype: str = "auto"
    kv_dtype: str = "auto"
    profile: str = "reference"
    catalogue_files: Sequence[Path] = ()
    engine_version: str = ""  #: empty: unknown
    speculation: Speculation | None = None


def catalogue_for(files: Sequence[Path], gpu: str = "", engine: str = "vllm") -> Catalogue:
    """Return the bundled catalogue with the user's hardware folder and `files` added.

    Args:
        files: TOML files that add or replace GPUs and prices. A node file replaces its GPU with one
            adapted to the node's links.
        gpu: GPU of a node file that does not name its GPUs.
        engine: Engine whose all-reduces are assumed on the node's links.

    Raises:
        InputError: A file cannot be used, or there are several node files.
    """
    return (
        _loaded(tuple(map(_version, (*own_hardware(), *files))), gpu, engine)
        if files
        else (default_catalogue())
    )


def gpus_of(files: Sequence[Path]) -> GpuOf:
    """Return the lookup of GPUs in the catalogue with `files` added."""
    return lambda gpu, engine: catalogue_for(files, gpu, engine).gpu(gpu)


def _version(path: Path) -> tuple[Path, float]:
    """Return a file and its modification time, so that a changed file has another cache key."""
    try:
        return Path(path), Path(path).stat().st_mtime
    except OSError:
        return Path(path), 0.0  # the caller that reads it reports the error


@lru_cache(maxsize=32)
def _loaded(files: tuple[tuple[Path, float], ...], gpu: str, engine: str) -> Catalogue:
    from shardwise.perfmodel.node_gpu import is_node_file, with_node

    nodes = [path for path, _ in files if is_node_file(path)]
    if len(nodes) > 1:
        raise InputError(f"{len(nodes)} node files", "allowed: one")
    catalogue = load_catalogue([path for path, _ in files if path not in nodes])
    return with_node(catalogue, nodes[0], gpu, engine) if nodes else catalogue


def subject_of(asked: Asked) -> tuple[Subject, Catalogue]:
    """Return the subject and its catalogue. Raises InputError for unknown names."""
    get(asked.engine)
    catalogue = catalogue_for(asked.catalogue_files, asked.gpu, asked.engine)
    arch, gpu = load(asked.model), catalogue.gpu(asked.gpu)
    siblings = default_catalogue().by_id
    known = calibrated(
        load_profile(asked.profile), gpu, asked.engine, siblings, asked.engine_version
    )
    stored = stored_in(arch, asked.weight_dtype)
    if asked.kv_dtype != "auto":
        require_kv_dtype(asked.kv_dtype, gpu)
    if asked.speculation is not None:
        require_draft(stored, asked.speculation)
    return Subject(
        stored,
        gpu,
        asked.engine,
        asked.kv_dtype,
        known,
        asked.engine_version,
        asked.speculation,
    ), catalogue
