"""Coefficients shared through a hierarchy: everything, the GPU, the engine, the engine with models
of a kind, the pair, the version, the model, and the model in any dtype on the pair.

log coefficient = log prior (+ published corrections of the vendor, generation or engine)
                + shared + GPU offset + engine offset + kind offset + pair offset + version offset
                + model offset + cell offset,

Each offset is drawn around zero. A GPU or engine without rows keeps a zero offset, so it uses the
values of the others, with a wide interval. Without a version, only the shared offsets apply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import numpy as np

from shardwise.architecture.model import Model
from shardwise.hardware.gpu import Gpu
from shardwise.perfmodel.coefficients import COEFFICIENTS, PRIOR
from shardwise.perfmodel.work import Array

NAMES: Final = tuple(COEFFICIENTS)
_PRIOR: Final = np.log([c.prior for c in COEFFICIENTS.values()])
_SPREAD: Final = np.array([c.spread for c in COEFFICIENTS.values()])
_BY_ENGINE: Final = np.array([c.varies_by == "engine" for c in COEFFICIENTS.values()])

#: Share of a coefficient's spread per level, for (hardware, host) coefficients. Host time depends
#: on the engine, not the GPU.
LEVEL_SHARE: Final = {
    "gpu": (0.6, 0.1),
    "engine": (0.4, 0.8),
    "kind": (0.0, 1.6),
    "pair": (0.4, 0.3),
    "version": (1.4, 1.0),
    "model": (1.6, 0.6),
    "cell": (2.8, 1.2),
}
#: Shares of single coefficients, where they differ. Time of a request: tokenizer and chat template
#: belong to the model, on every GPU. vLLM's API server is a process of its own, for which experts
#: make no difference: its dense and MoE models share one time. Collectives: the tables have them
#: alone. How much of one is seen in a step, where it is fused, overlapped or waited for, depends on
#: the engine's code for a model on a GPU. Launches of a prompt's kernels: each engine has its own
#: code for experts; TensorRT-LLM's takes several times as long for a kernel as its dense layers.
OWN_SHARE: Final[Mapping[tuple[str, ...], Mapping[str, float]]] = {
    ("kind", "vllm"): {"request": 0.0},
    ("kind",): {"eager_kernel": 1.6},
    ("model",): {"request": 1.6},
    ("cell",): {"collective": 5.6},
}

#: Published or measured properties of a vendor, generation or engine, as factors on the prior
#: median.
#: Built-in engine and CPU: measured with a model of negligible size (batch 1, fp32, one Zen 5
#: thread, 23 Nov 2026): 120 us per step, 110 to 130 us per layer, 180 us in a prefill of 64 tokens.
#: A CPU runs each operation when it is called, so a prefill has no separate launches:
#: 1.5 us for each of 13 kernels. The built-in server adds 0.9 ms to a prompt of one token (same
#: day, n = 273), and a request waits for the one step that began when its predecessor ended. It
#: schedules between steps, so that a sequence takes the whole 10 us. `handle` is relative to the
#: fitted value of vLLM.
#: TensorRT-LLM: its attention applies rotary embeddings and writes the cache itself, so that a
#: dense layer has three small kernels instead of five.
KNOWN: Final[Mapping[str, Mapping[str, float]]] = {
    "builtin": {
        "step": 120e-6 / PRIOR["step"],
        "sequence": 10e-6 / PRIOR["sequence"],
        "request": 0.9e-3 / PRIOR["request"],
        "wait_steps": 1.0 / PRIOR["wait_steps"],
        "handle": 0.9e-3 / 7.6e-3,
    },
    "cpu": {"launch": 24e-6 / PRIOR["launch"], "eager_kernel": 1.5e-6 / PRIOR["eager_kernel"]},
    "trtllm": {"launch": 0.6},
}


class Level(msgspec.Struct, frozen=True):
    """One node of the hierarchy: ("shared",), ("gpu", id), ("engine", id), ("kind", engine, kind),
    ("pair", gpu, engine), ("version", gpu, engine, version), ("model", key) or
    ("cell", gpu, engine, shape): a model of any dtype, since an engine has one code for it."""

    key: tuple[str, ...]

    @property
    def scale(self) -> Array:
        """Standard deviation of each log coefficient's offset at this level."""
        if self.key[0] == "shared":
            return np.asarray(_SPREAD)
        hardware, host = LEVEL_SHARE[self.key[0]]
        share = np.where(_BY_ENGINE, host, hardware)
        for key in (self.key[:1], self.key[:2]):
            for name, own in OWN_SHARE.get(key, {}).items():
                share[NAMES.index(name)] = own
        return np.asarray(_SPREAD * share)


def levels_of(
    gpu_id: str, engine: str, version: str = "", model: str = ""
) -> tuple[tuple[str, ...], ...]:
    """Return the keys of the levels of a GPU, engine and model, the widest first."""
    every: tuple[tuple[str, ...], ...] = (
        ("shared",),
        ("gpu", gpu_id),
        ("engine", engine),
        ("pair", gpu_id, engine),
    )
    if version:
        every += (("version", gpu_id, engine, version),)
    if model:
        kind = ("kind", engine, _kind_of(model))
        every += (kind, ("model", model), ("cell", gpu_id, engine, _shape_of(model)))
    return every


def is_version(key: str, engine: str, version: str) -> bool:
    """Return whether an encoded key is of `version` of an engine, on any GPU."""
    return key.startswith("version/") and key.endswith(f"/{engine}/{version}")


def _shape_of(key: str) -> str:
    """Return a model's key without its dtype."""
    return key.partition(":")[0]


def _kind_of(key: str) -> str:
    """Return "moe" or "dense" from a model's key."""
    widths = _shape_of(key).split("x", 2)[-1]
    return "moe" if "x" in widths else "dense"


def model_key(model: Model) -> str:
    """Return the key of a model and dtype, independent of GPU and engine."""
    return f"{model.shape}:{model.checkpoint_dtype}"


def versions_of(measured: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], set[str]]:
    """Return the versions named for each GPU and engine."""
    named: dict[tuple[str, str], set[str]] = {}
    for gpu_id, engine, version in measured:
        named.setdefault((gpu_id, engine), set()).update({version} - {""})
    return named


def prior(gpu: Gpu, engine: str) -> Array:
    """Return log prior medians for a GPU and engine, before any calibration."""
    known: dict[str, float] = {}
    for name in (gpu.vendor, gpu.generation, engine):
        known.update(KNOWN.get(name, {}))
    return np.asarray(_PRIOR + np.log([known.get(name, 1.0) for name in NAMES]))


class Hierarchy(msgspec.Struct, frozen=True):
    """Fitted offsets in units of each level's scale, by level key; missing ones are zero."""

    offsets: Mapping[tuple[str, ...], Array]

    def log_coefficients(self, gpu: Gpu, engine: str, version: str = "", model: str = "") -> Array:
        """Logarithms of the coefficients, in the order of `NAMES`."""
        total = prior(gpu, engine)
        for key in levels_of(gpu.id, engine, version, model):
            if key in self.offsets:
                total = total + self.offsets[key] * Level(key).scale
        if version and ("version", gpu.id, engine, version) not in self.offsets:
            total = total + self._host_elsewhere(engine, version)
        return total

    def _host_elsewhere(self, engine: str, version: str) -> Array:
        """Return log offsets of a version without rows on the GPU: those of its host times on
        other GPUs, which run the same code; zeros if there are none."""
        found = [
            vector * Level(key).scale
            for key, vector in self.offsets.items()
            if is_version("/".join(key), engine, version)
        ]
        mean = np.mean(found, axis=0) if found else np.zeros(len(NAMES))
        return np.where(_BY_ENGINE, mean, 0.0)

    def coefficients(
        self, gpu: Gpu, engine: str, version: str = "", model: str = ""
    ) -> dict[str, float]:
        """Return coefficients by name: priors plus all applicable offsets."""
        values = np.exp(self.log_coefficients(gpu, engine, version, model))
        return dict(zip(NAMES, values.tolist(), strict=True))


def encode(hierarchy: Hierarchy) -> dict[str, dict[str, float]]:
    """Return offsets as JSON: "pair/h200/vllm" -> {coefficient: offset}."""
    return {
        "/".join(key): {
            n: round(float(v), 3) for n, v in zip(NAMES, vector, strict=True) if abs(v) >= 0.001
        }
        for key, vector in hierarchy.offsets.items()
    }


def decode(data: Mapping[str, Mapping[str, float]]) -> Hierarchy:
    """Invert `encode`; missing coefficients have a zero offset."""
    return Hierarchy(
        {
            tuple(key.split("/")): np.array([values.get(name, 0.0) for name in NAMES])
            for key, values in data.items()
        }
    )
