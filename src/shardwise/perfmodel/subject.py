"""Names to a subject: the model, GPU, engine and dtypes of a question, with their calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from shardwise.architecture.bundled import stored_in
from shardwise.architecture.models import load
from shardwise.engines.registry import get
from shardwise.hardware.catalogue import Catalogue, default_catalogue, load_catalogue
from shardwise.hardware.user_files import own_hardware
from shardwise.layout.rules import require_kv_dtype
from shardwise.layout.speculation import Speculation
from shardwise.perfmodel.drafts import require_draft
from shardwise.perfmodel.estimate import Subject
from shardwise.perfmodel.profiles import calibrated, load_profile


class Asked(msgspec.Struct, frozen=True):
    """A subject as a user spells it. `catalogue_files` add or replace GPUs and prices."""

    model: str
    gpu: str
    engine: str = "vllm"
    weight_dtype: str = "auto"
    kv_dtype: str = "auto"
    profile: str = "reference"
    catalogue_files: Sequence[Path] = ()
    engine_version: str = ""  #: empty: not known
    speculation: Speculation | None = None


def catalogue_for(files: Sequence[Path]) -> Catalogue:
    """The bundled catalogue and the user's hardware folder, with `files` on top."""
    return load_catalogue([*own_hardware(), *files]) if files else default_catalogue()


def subject_of(asked: Asked) -> tuple[Subject, Catalogue]:
    """The subject and the catalogue it was found in. Raises InputError for unknown names."""
    get(asked.engine)
    catalogue = catalogue_for(asked.catalogue_files)
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
