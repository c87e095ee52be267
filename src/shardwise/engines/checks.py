"""Checks of a deployment against an engine's capabilities. Each violation is an InputError."""

from __future__ import annotations

from collections.abc import Iterator

from shardwise.architecture.mixers import Attention
from shardwise.architecture.model import Model
from shardwise.engines.device import Device
from shardwise.engines.engine import FP8_KV, Engine
from shardwise.engines.versions import parse, release
from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment, Layout


def problems(
    engine: Engine, deployment: Deployment, device: Device, model: Model | None
) -> Iterator[InputError]:
    """Yield an InputError for each setting that `engine` does not support, the most basic first.

    Checks that need the model are skipped if it is None.
    """
    yield from _vendor(engine, device)
    yield from layout_problems(engine, deployment.layout, model)
    yield from _dtypes(engine, deployment, device)
    yield from _speculation(engine, deployment)
    yield from _context_parallel_there(engine, deployment, device, model)


def _vendor(engine: Engine, device: Device) -> Iterator[InputError]:
    vendors = engine.capabilities.vendors
    if device.vendor not in vendors:
        yield InputError(
            f"{engine.title} does not run on {device.vendor}",
            f"allowed with {engine.name}: {', '.join(vendors)}",
            "choose another engine or GPU",
            field="engine",
        )


def layout_problems(engine: Engine, layout: Layout, model: Model | None) -> Iterator[InputError]:
    """Yield an InputError for each part of the layout that `engine` does not support.

    Checks that need the model are skipped if it is None.
    """
    can = engine.capabilities
    if layout.tp_size > can.max_tp:
        yield InputError(f"TP={layout.tp_size} with {engine.title}", f"allowed: 1 to {can.max_tp}")
    if layout.pp_size > 1 and not can.pipeline:
        yield InputError(
            f"PP={layout.pp_size} with {engine.title}", "allowed: 1, it has no pipeline parallelism"
        )
    yield from _attention_dp(engine, layout, model)
    yield from _experts(engine, layout, model)
    yield from _context_parallel(engine, layout, model)


def _attention_dp(engine: Engine, layout: Layout, model: Model | None) -> Iterator[InputError]:
    can = engine.capabilities
    if layout.attention_dp == 1:
        return
    if not can.attention_dp:
        yield InputError(
            f"attention DP={layout.attention_dp} with {engine.title}",
            "allowed: 1, because it has no data-parallel attention",
        )
    elif layout.tp_size > 1 and not can.attention_dp_with_tp:
        yield InputError(
            f"attention DP={layout.attention_dp} with TP={layout.tp_size} in {engine.title}",
            "allowed: TP=1, because each copy of attention has one GPU",
        )
    elif _is_dense(model):
        yield InputError(
            f"attention DP={layout.attention_dp} for a model without experts",
            "allowed: 1",
            f"use {layout.attention_dp} replicas",
        )


def _experts(engine: Engine, layout: Layout, model: Model | None) -> Iterator[InputError]:
    if layout.ep_size == 1:
        return
    ranks, given = layout.stage_gpus, f"EP={layout.ep_size} with {engine.title}"
    kind = engine.capabilities.experts
    if kind == "none":
        yield InputError(given, "allowed: 1, because it has no expert parallelism")
    elif _is_dense(model):
        yield InputError(given, "allowed: 1, because the model has no experts")
    elif kind == "whole" and layout.ep_size != ranks:
        yield InputError(given, f"allowed: 1 or {ranks}, all GPUs of a stage")
    elif ranks % layout.ep_size:
        yield InputError(given, f"allowed: a divisor of {ranks}, the GPUs of a stage")


def _is_dense(model: Model | None) -> bool:
    return model is not None and model.moe is None


def _context_parallel(engine: Engine, layout: Layout, model: Model | None) -> Iterator[InputError]:
    if layout.dcp_size == 1:
        return
    given, can = f"DCP={layout.dcp_size}", engine.capabilities.decode_context_parallel
    if can is None:
        yield InputError(
            f"{given} with {engine.title}", "allowed: 1, it has no decode context parallelism"
        )
    elif can.caches == "latent" and model is not None and _keeps_heads(model):
        yield InputError(
            f"{given} with {engine.title} for {model.id}",
            "allowed: 1, because it splits only the cache of latent attention",
        )


def _keeps_heads(model: Model) -> bool:
    """Return whether a layer caches keys and values per head instead of one latent vector."""
    return any(isinstance(group.mixer, Attention) for group in model.groups)


def _context_parallel_there(
    engine: Engine, deployment: Deployment, device: Device, model: Model | None
) -> Iterator[InputError]:
    """Yield an InputError for each limit of DCP on the device, version and deployment."""
    can, size = engine.capabilities.decode_context_parallel, deployment.layout.dcp_size
    if can is None or size == 1:
        return
    version, latent = parse(deployment.engine_version), model is not None and model.mla
    if device.vendor not in can.vendors:
        yield InputError(
            f"DCP={size} with {engine.title} on {_called(device)}",
            f"allowed: 1, its attention kernels support DCP only on {', '.join(can.vendors)}",
        )
    if version is not None and version < release(can.since):
        yield InputError(
            f"DCP={size} with {engine.title} {version}", f"allowed from {can.since} on"
        )
    elif (
        version is not None
        and version < release(can.latent_fp8_since)
        and latent
        and deployment.dtypes.kv in FP8_KV
    ):
        yield InputError(
            f"DCP={size} with {engine.title} {version} and an fp8 latent cache",
            f"allowed from {can.latent_fp8_since} on",
        )
    if deployment.speculation is not None and not can.speculation:
        yield InputError(
            f"DCP={size} with {engine.title} and drafted tokens", "allowed: one of the two"
        )


def _dtypes(engine: Engine, deployment: Deployment, device: Device) -> Iterator[InputError]:
    weight, kv = deployment.dtypes.weight, deployment.dtypes.kv
    can = engine.capabilities
    if weight != "auto" and weight not in can.weight_dtypes:
        yield InputError(
            f"weight dtype {weight[:40]!r} with {engine.title}",
            f"allowed: auto, {', '.join(can.weight_dtypes)}",
            field="dtype",
        )
    elif weight in can.native_only and not _multiplies(weight, device):
        yield InputError(
            f"weight dtype {weight} on {_called(device)} with {engine.title}",
            "allowed: dtypes that its matrix units support",
            field="dtype",
        )
    if kv != "auto" and kv not in can.kv_dtypes:
        yield InputError(
            f"KV cache dtype {kv[:40]!r} with {engine.title}",
            f"allowed: auto, {', '.join(can.kv_dtypes)}",
            field="kv_dtype",
        )
    if kv in FP8_KV and not engine.caches_fp8(device):
        yield InputError(
            f"KV cache dtype {kv} on {_called(device)} with {engine.title}",
            "allowed: auto or bf16, because its kernels do not read fp8 caches there",
            field="kv_dtype",
        )


def _speculation(engine: Engine, deployment: Deployment) -> Iterator[InputError]:
    drafted, can = deployment.speculation, engine.capabilities.speculation
    if drafted is None:
        return
    if ("mtp" if drafted.own_heads else "draft_model") not in can:
        allowed = {"mtp": "mtp:3", "draft_model": "a draft model"}
        yield InputError(
            f"speculation {drafted.name[:60]} with {engine.title}",
            f"allowed: {', '.join(['none', *(allowed[kind] for kind in can)])}",
        )
    if deployment.layout.pp_size > 1:
        yield InputError(
            f"speculation {drafted.name[:60]} with PP={deployment.layout.pp_size}",
            "allowed: PP=1, because engines draft on one pipeline stage",
        )


def _multiplies(weight: str, device: Device) -> bool:
    return device.multiplies_fp8 if weight == "fp8" else device.multiplies_fp4


def _called(device: Device) -> str:
    return device.name or device.generation or device.vendor
