"""What `shardwise plan` was asked, from its options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from shardwise.cli.options import fixed_limits, speculation_of
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.hardware.gpu import Gpu
    from shardwise.hardware.node import Node
    from shardwise.planner.question import Question

_TIME: Final = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*(ms|s|)\s*")


def seconds(given: str | None, name: str) -> float | None:
    """`200ms`, `2s` or `200` (milliseconds) in seconds. Raises InputError for anything else."""
    if given is None:
        return None
    match = _TIME.fullmatch(given)
    if match is None or float(match.group(1)) == 0:
        raise InputError(
            f"--{name} is {given[:40]!r}", "allowed: a time above 0 as in 200ms, 2s or 200 (ms)"
        )
    return float(match.group(1)) * (1.0 if match.group(2) == "s" else 1e-3)


def questions_of(names: tuple[str, ...], options: dict[str, Any], gpu: str) -> list[Question]:
    """What is asked of each model, on one kind of GPU; `gpu` may be empty with a node file."""
    from shardwise.architecture.models import load
    from shardwise.hardware.catalogue import default_catalogue
    from shardwise.hardware.node import Node
    from shardwise.perfmodel.profiles import load_profile
    from shardwise.perfmodel.subject import catalogue_for
    from shardwise.planner.question import Demand, Question
    from shardwise.reports.prices import price_note
    from shardwise.workload.workload import Slo

    catalogue = catalogue_for(options["catalogue_files"])
    if options["node"] is None:
        node = Node(catalogue.gpu(gpu), options["gpus"])
    else:
        node = _node_of(options, catalogue.gpu(gpu) if gpu else None)
    node = _several(node, options, names)
    node, memory_note = _with_log(names, node, options)
    price = catalogue.price_used(node.gpu.id, options["price"])
    count = len(names)
    columns = [
        _each(options[key], key, count)
        for key in ("isl", "osl", "concurrency", "request_rate", "cached_tokens")
    ]
    slo = Slo(*(seconds(options[key], key) for key in ("ttft", "tpot", "e2e")))
    profile = load_profile(options["profile"])
    siblings = {gpu.id: gpu for gpu in default_catalogue().gpus()}
    dtype = None if options["dtype"] == "auto" else options["dtype"]
    return [
        Question(
            arch=load(name),
            node=node,
            demand=Demand(isl, osl, concurrency, rate, cached or 0, options["length_cv"]),
            profile=profile,
            siblings=siblings,
            slo=slo,
            objective=options["objective"],
            engine=options["engine"],
            weight_dtype=dtype,
            kv_dtype=options["kv_dtype"],
            speculation=speculation_of(options),
            engine_version=options["engine_version"],
            limits=fixed_limits(options),
            usd_per_gpu_hour=price.usd_per_hour if price else None,
            price_note=price_note(price),
            memory_note=memory_note,
        )
        for name, isl, osl, concurrency, rate, cached in zip(names, *columns, strict=True)
    ]


def _several(node: Node, options: dict[str, Any], names: tuple[str, ...]) -> Node:
    """`node` as often as --nodes says, joined by --network."""
    from shardwise.hardware.network import network
    from shardwise.hardware.node import Node

    count, joined = options["nodes"], None
    if options["network"]:
        joined = network(options["network"])
    if count == 1 and joined is not None:
        raise InputError(
            f"--network {options['network']} for one node", "needed: --nodes 2 or more"
        )
    if count == 1:
        return node
    if len(names) > 1:
        raise InputError(f"{len(names)} models on {count} nodes", "allowed: one model")
    return Node(node.gpu, node.gpus * count, count, joined)


def _with_log(names: tuple[str, ...], node: Node, options: dict[str, Any]) -> tuple[Node, str]:
    """`node` with the KV cache that --startup-log states, and a note of what was taken from it."""
    if options["startup_log"] is None:
        return node, ""
    from shardwise.architecture.models import load
    from shardwise.cli.pasted import pasted
    from shardwise.doctor.logged_cache import logged_cache
    from shardwise.node.reading.read import read

    if len(names) > 1 or len(options["gpu"]) > 1:
        raise InputError(
            "--startup-log with several models or kinds of GPU", "allowed: one of each"
        )
    found = logged_cache(
        read(pasted(options["startup_log"])).startups,
        load(names[0]),
        node.gpu,
        options["engine"],
        options["dtype"] or "auto",
    )
    gpu = replace(node.gpu, cache_shortfall_bytes=found.shortfall_bytes)
    return replace(node, gpu=gpu), found.note


def _each(values: tuple[Any, ...], key: str, count: int) -> list[Any]:
    """One value for each of `count` models."""
    if not values:
        return [None] * count
    if len(values) not in {1, count}:
        raise InputError(
            f"--{key.replace('_', '-')} given {len(values)} times for {count} models",
            f"allowed: once, or {count} times",
        )
    return list(values) * (count if len(values) == 1 else 1)


def order_of(node: Path | None, tp_size: int) -> tuple[int, ...]:
    """The GPUs of a node file in the order in which replicas of `tp_size` take them; empty without
    a file: as they are numbered."""
    if node is None:
        return ()
    from shardwise.doctor.planning import device_order
    from shardwise.node.files import read

    return device_order(read(node), tp_size)


def _node_of(options: dict[str, Any], gpu: Gpu | None) -> Node:
    """The node of a file: as many GPUs as it has, with the all-reduces that its links allow."""
    from shardwise.doctor.planning import gpu_on
    from shardwise.hardware.node import Node
    from shardwise.node.files import read

    found = read(options["node"])
    return Node(gpu_on(found, gpu, options["engine"]), len(found.devices))
