"""Names to a subject: the model, GPU, engine and dtypes of a question, with their calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shardwise.architecture.model import in_dtype
from shardwise.architecture.models import load
from shardwise.errors import UnknownNameError
from shardwise.hardware.catalogue import Catalogue, default_catalogue, load_catalogue
from shardwise.hardware.user_files import own_hardware
from shardwise.perfmodel.estimate import Subject
from shardwise.perfmodel.profiles import calibrated, load_profile
from shardwise.perfmodel.rows import ENGINES


@dataclass(frozen=True)
class Asked:
    """A subject as a user spells it. `catalogue_files` add or replace GPUs and prices."""

    model: str
    gpu: str
    engine: str = "vllm"
    weight_dtype: str = "auto"
    kv_dtype: str = "auto"
    profile: str = "reference"
    catalogue_files: Sequence[Path] = ()


def catalogue_for(files: Sequence[Path]) -> Catalogue:
    """The bundled catalogue and the user's hardware folder, with `files` on top."""
    return load_catalogue([*own_hardware(), *files]) if files else default_catalogue()


def subject_of(asked: Asked) -> tuple[Subject, Catalogue]:
    """The subject and the catalogue it was found in. Raises InputError for unknown names."""
    if asked.engine not in ENGINES:
        raise UnknownNameError("engine", asked.engine, ENGINES)
    catalogue = catalogue_for(asked.catalogue_files)
    arch, gpu = load(asked.model), catalogue.gpu(asked.gpu)
    siblings = {g.id: g for g in default_catalogue().gpus()}
    known = calibrated(load_profile(asked.profile), gpu, asked.engine, siblings)
    stored = in_dtype(arch, asked.weight_dtype)
    return Subject(stored, gpu, asked.engine, asked.kv_dtype, known), catalogue
