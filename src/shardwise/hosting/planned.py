"""Write a plan as a deployment file with the scored flags."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shardwise.architecture.model import Model
from shardwise.engines.registry import get, managed
from shardwise.errors import InputError
from shardwise.hardware.gpu import Gpu
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable, NodeTable
from shardwise.layout.deployment import Deployment
from shardwise.planner.command import as_started, checkpoint, environment, extra_flags, note


class Chosen(msgspec.Struct, frozen=True):
    """One model's deployment and the devices of its replicas."""

    given: str  #: model name given by the user
    arch: Model
    gpu: Gpu
    deployment: Deployment
    first_device: int = 0
    order: Sequence[int] = ()  #: the node's GPUs in order of assignment; empty: numerical


def planned(chosen: Sequence[Chosen], gpus: int, nodes: int = 1) -> DeploymentFile:
    """Return the file that runs `chosen` on one node of `gpus` GPUs.

    For several nodes it is for export; the cluster then chooses devices.
    """
    gpu = "cpu" if chosen[0].gpu.vendor == "cpu" else chosen[0].gpu.id
    return DeploymentFile(
        node=NodeTable(gpu=gpu, gpus=gpus),
        models=[_table(item, dealt=nodes == 1) for item in chosen],
    )


def _table(chosen: Chosen, *, dealt: bool) -> ModelTable:
    d = chosen.deployment
    found, each = checkpoint(chosen.given, chosen.arch, d), d.layout.replica_gpus
    starts = (chosen.first_device + replica * each for replica in range(d.replicas))
    if not get(d.engine).managed:
        raise InputError(
            f"a deployment file for {get(d.engine).title}",
            f"allowed: {', '.join(managed())}",
            "start it with the command that plan prints",
        )
    if found.placeholder:
        raise InputError(note(found), remedy="pass the checkpoint's folder or hub id as MODEL")
    return ModelTable(
        model=found.path,
        name=chosen.arch.id,
        architecture=chosen.arch.id,
        engine=d.engine,
        tp_size=d.tp_size,
        pp_size=d.pp_size,
        expert_parallel=d.layout.expert_parallel,
        attention_dp=d.layout.attention_dp,
        dcp_size=d.layout.dcp_size,
        replicas=d.replicas,
        weight_dtype=d.dtypes.weight,
        kv_dtype=as_started(d, chosen.arch).dtypes.kv,
        max_num_seqs=d.limits.max_num_seqs,
        max_num_batched_tokens=d.limits.max_num_batched_tokens,
        gpu_memory_utilization=d.limits.gpu_memory_utilization,
        max_model_len=d.limits.max_model_len,
        devices=[_devices(chosen.order, start, each) for start in starts] if dealt else [],
        flags=list(extra_flags(d, chosen.arch, chosen.gpu, found)),
        env=environment(d, chosen.arch, chosen.gpu),
    )


def _devices(order: Sequence[int], start: int, count: int) -> list[int]:
    dealt = range(start, start + count)
    return sorted(order[i] for i in dealt) if order else list(dealt)
