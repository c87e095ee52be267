"""`plan`: rank the deployments of a model that fit on a node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from shardwise.api.hardware import hardware_of
from shardwise.api.result import Result
from shardwise.api.verdicts import (
    Verdicts,
    document_of,
    verdict_lines,
    verdict_table,
    verdicts_of,
    with_pools,
)
from shardwise.errors import InputError, NothingMeetsError
from shardwise.files import AnyPath
from shardwise.layout.deployment import Deployment, FixedLimits
from shardwise.layout.speculation import Speculation
from shardwise.planner.command import Replica, checkpoint, note, replicas, replicas_across
from shardwise.planner.packing import Packed, pack
from shardwise.planner.plan import plan as plan_one
from shardwise.planner.question import Demand, Objective, Question
from shardwise.workload.workload import TRAFFIC_CV, Slo

if TYPE_CHECKING:
    from shardwise.hardware.node import Node
    from shardwise.planner.rank import Candidate
    from shardwise.reports.figure_style import Figure
    from shardwise.reports.table import Table

MAX_MODELS: Final = 16
FIRST_PORT: Final = 8000
T = TypeVar("T")


class Setting(msgspec.Struct, frozen=True):
    """Arguments of a plan other than the model and the load, as spelled by the user."""

    gpu: str = ""
    gpus: int | None = None  #: None: those of the node file, else 8
    node_file: AnyPath | None = None
    startup_log: str | None = None
    dtype: str | None = None
    kv_dtype: str = "auto"
    engine: str = "vllm"
    engine_version: str = ""
    limits: FixedLimits = msgspec.field(default_factory=FixedLimits)
    profile: str = "reference"
    catalogue_files: Sequence[AnyPath] = ()
    usd_per_gpu_hour: float | None = None
    speculation: Speculation | None = None
    nodes: int = 1
    network: str = ""


class Part(msgspec.Struct, frozen=True):
    """One model's answer in reading order."""

    recommendation: str
    table: Table
    rejected: Sequence[str]
    verdicts: Sequence[Sequence[str]]  #: on speculative decoding and on disaggregation
    verdict_table: Table | None
    commands: Sequence[Replica]
    remark: str  #: what the user must supply for the commands; "" for nothing


class PlannedModel(msgspec.Struct, frozen=True):
    """One model of a plan: its ranking, and the commands of the best deployment."""

    name: str  #: as given
    packed: Packed
    commands: Sequence[Replica]
    remark: str
    verdicts: Verdicts

    @property
    def best(self) -> Candidate:
        """The recommended candidate."""
        return self.packed.plan.best

    def part(self) -> Part:
        """Return the model's answer as texts and tables."""
        from shardwise.reports.plan_tables import plan_table, rejected_lines
        from shardwise.reports.plan_words import recommendation

        plan = self.packed.plan
        return Part(
            recommendation(plan),
            plan_table(plan),
            rejected_lines(plan.rejected),
            verdict_lines(self.verdicts),
            verdict_table(self.verdicts),
            self.commands,
            self.remark,
        )

    def document(self) -> dict[str, Any]:
        """Return the model's answer for JSON."""
        from shardwise.reports.plan_tables import plan_document

        found = plan_document(self.packed.plan, self.commands, self.remark)
        return found | document_of(self.verdicts)


class PlanResult(Result):
    """Ranked deployments of one model, or of several that share a node."""

    kind = "plan"

    def __init__(self, models: tuple[PlannedModel, ...], order: tuple[int, ...]) -> None:
        self.models = models
        self._order = order

    @property
    def best(self) -> Candidate:
        """The recommended candidate, of the first model."""
        return self.models[0].best

    @property
    def deployment(self) -> Deployment:
        """The recommended deployment, of the first model."""
        return self.best.deployment

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every candidate of the first model: those within the SLO, best first, then the others."""
        plan = self.models[0].packed.plan
        return (*plan.ranked, *plan.missing)

    def summary(self) -> str:
        """Return the recommendation as text."""
        return "\n".join(part.recommendation for part in self.parts())

    def parts(self) -> list[Part]:
        """Return each model's answer as texts and tables."""
        return [m.part() for m in self.models]

    def tables(self) -> list[Table]:
        """Return the ranking of each model, and the effect of speculative decoding if requested."""
        return [t for part in self.parts() for t in (part.table, part.verdict_table) if t]

    def charts(self) -> dict[str, Figure]:
        """Return the charts `frontier` and `throughput_latency` of the first model."""
        from shardwise.analysis.layouts import layouts_of
        from shardwise.reports.figure_pareto import Series, pareto_figure
        from shardwise.reports.figure_style import Figure, caption

        plan = self.models[0].packed.plan
        question = plan.question
        cells = layouts_of(plan).cells
        series = Series(question.node.gpu.id, question.node.gpus, cells, None, question.slo)
        about = caption([self.best.evidence])[:1]
        views = {"frontier": "tok_s_per_user", "throughput_latency": "e2e_latency_s"}
        return {
            name: Figure(pareto_figure([series], view, "Every layout", about))
            for name, view in views.items()
        }

    def save(self, path: AnyPath) -> None:
        """Write the recommended deployment to a file for `shardwise up`.

        Over several nodes, the file is for `shardwise export`.

        Raises:
            InputError: The file cannot be written.
        """
        from shardwise.hosting import deployment_file
        from shardwise.hosting.planned import Chosen, planned

        chosen = [
            Chosen(
                m.name,
                m.packed.plan.question.arch,
                m.packed.plan.question.node.gpu,
                m.best.deployment,
                m.packed.first_device,
                self._order,
            )
            for m in self.models
        ]
        taken = [m.packed.plan.question.node for m in self.models]
        gpus = sum(node.gpus_per_node for node in taken)
        deployment_file.save(planned(chosen, gpus, taken[0].nodes), Path(path))

    def _answer(self) -> dict[str, Any]:
        found = [m.document() for m in self.models]
        return found[0] if len(found) == 1 else {"models": found}


def plan(
    model: str | Sequence[str],
    *,
    gpu: str = "",
    isl: int | Sequence[int],
    osl: int | Sequence[int],
    gpus: int | None = None,
    concurrency: int | Sequence[int] | None = None,
    request_rate: float | Sequence[float] | None = None,
    cached_tokens: int | Sequence[int] = 0,
    length_cv: float = TRAFFIC_CV,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    e2e_latency_s: float | None = None,
    objective: Objective = "cost",
    dtype: str | None = None,
    kv_dtype: str = "auto",
    engine: str = "vllm",
    engine_version: str = "",
    limits: FixedLimits | None = None,
    profile: str = "reference",
    catalogue_files: Sequence[AnyPath] = (),
    usd_per_gpu_hour: float | None = None,
    node_file: AnyPath | None = None,
    nodes: int = 1,
    network: str = "",
    startup_log: str | None = None,
    speculation: str = "none",
    acceptance: float | None = None,
    disaggregated: bool = False,
) -> PlanResult:
    """Rank the deployments of a model that fit on a node.

    Args:
        model: A bundled id, a folder, a `config.json` or a Hugging Face id; several share the node.
        gpu: GPU id of the catalogue; may be left out with `node_file`.
        isl: Input tokens per request; with several models, one value for all or one per model.
        osl: Output tokens per request; with several models, one value for all or one per model.
        gpus: GPUs in the node; None: those of the node file, else 8.
        concurrency: Requests in flight on the node. None with `request_rate` None: the number that
            is best for the objective.
        request_rate: Requests per second on the node, instead of `concurrency`.
        cached_tokens: Tokens of `isl` that all prompts begin with, in the prefix cache.
        length_cv: Standard deviation of lengths over their means; 0: all equal.
        ttft_s: Longest median time to first token, in seconds.
        tpot_s: Longest median time per output token, in seconds.
        e2e_latency_s: Longest median latency of a request, in seconds.
        objective: `cost`, `latency` or `throughput`.
        dtype: Weight dtype; None looks at the checkpoint's own and narrower ones.
        kv_dtype: KV cache dtype; `auto` is what the checkpoint asks for.
        engine: `vllm`, `sglang`, `trtllm`, `atom` or `builtin`.
        engine_version: Version of the engine; "" takes what holds for every known one.
        limits: Engine limits that are fixed instead of chosen.
        profile: Name of a profile, or a shared profile file.
        catalogue_files: TOML files with your own GPUs and prices.
        usd_per_gpu_hour: Price; None takes the catalogue's.
        node_file: Node file that `shardwise doctor --save` wrote; gives GPUs, links and devices.
        nodes: Nodes of `gpus` GPUs each.
        network: What joins several nodes: `ib-ndr`, `roce-400`, `ethernet-100`, ….
        startup_log: Text of a start-up log of the engine; its KV cache is taken as a fact.
        speculation: Drafted tokens a step: `mtp:3` by the model's own heads, or `DRAFT-MODEL:4`.
        acceptance: Share of drafted tokens that is accepted; None assumes one, with a range.
        disaggregated: Whether to judge pools of prefill and decode instances too.

    Raises:
        InputError: An argument cannot be used.
        DoesNotFitError: No deployment has the memory.
        NothingMeetsError: Deployments exist, and none is within the SLO.
    """
    names = (model,) if isinstance(model, str) else tuple(model)
    if not 1 <= len(names) <= MAX_MODELS:
        raise InputError(f"{len(names)} models", f"allowed: 1 to {MAX_MODELS}")
    setting = Setting(
        gpu, gpus, node_file, startup_log, dtype, kv_dtype, engine, engine_version,
        limits or FixedLimits(), profile, catalogue_files, usd_per_gpu_hour,
        Speculation.parse(speculation, acceptance), nodes, network,
    )  # fmt: skip
    demands = demands_of(len(names), isl, osl, concurrency, request_rate, cached_tokens, length_cv)
    slo = Slo(ttft_s, tpot_s, e2e_latency_s)
    asked = questions_of(names, demands, slo, setting)
    questions = [replace(question, objective=objective) for question in asked]
    try:
        packed = pack(questions) if len(names) > 1 else (Packed(plan_one(questions[0]), 0),)
    except NothingMeetsError as error:
        if len(names) > 1 or not disaggregated:
            raise
        raise with_pools(questions[0], error) from None
    widest = max(p.plan.best.deployment.tp_size for p in packed)
    order = hardware_of(gpu, gpus, node_file, catalogue_files).device_order(widest)
    models, port = [], FIRST_PORT
    for name, item in zip(names, packed, strict=True):
        q, best = item.plan.question, item.plan.best
        found = checkpoint(name, q.arch, best.deployment)
        if q.node.nodes > 1:
            commands = replicas_across(best.deployment, q.arch, q.node, found)
        else:
            commands = replicas(
                best.deployment, q.arch, q.node.gpu, found, item.first_device, port, order
            )
        port += len(commands)
        models.append(
            PlannedModel(name, item, commands, note(found), verdicts_of(item.plan, disaggregated))
        )
    return PlanResult(tuple(models), order)


def demands_of(
    count: int,
    isl: int | Sequence[int],
    osl: int | Sequence[int],
    concurrency: int | Sequence[int] | None,
    request_rate: float | Sequence[float] | None,
    cached_tokens: int | Sequence[int],
    length_cv: float,
) -> list[Demand]:
    """Return the load of each of `count` models. Raises InputError if numbers differ."""
    isls, osls = _each(isl, "isl", count), _each(osl, "osl", count)
    slots, rates = (
        _each(concurrency, "concurrency", count),
        _each(request_rate, "request_rate", count),
    )
    cached = _each(cached_tokens, "cached_tokens", count)
    loads = zip(isls, osls, slots, rates, cached, strict=True)
    return [
        Demand(_given(i, "isl"), _given(o, "osl"), c, r, n or 0, length_cv)
        for i, o, c, r, n in loads
    ]


def questions_of(
    names: Sequence[str], demands: Sequence[Demand], slo: Slo, setting: Setting
) -> list[Question]:
    """Return the question of each model on one kind of GPU."""
    from shardwise.architecture.models import load
    from shardwise.hardware.catalogue import default_catalogue
    from shardwise.hardware.node import Node
    from shardwise.perfmodel.profiles import load_profile
    from shardwise.reports.prices import price_note

    taken = hardware_of(setting.gpu, setting.gpus, setting.node_file, setting.catalogue_files)
    catalogue = taken.catalogue(setting.engine)
    node = _several(Node(catalogue.gpu(taken.gpu), taken.gpus), setting, len(names))
    node, memory_note = _with_log(names, node, setting)
    price = catalogue.price_used(node.gpu.id, setting.usd_per_gpu_hour)
    profile = load_profile(setting.profile)
    siblings = default_catalogue().by_id
    return [
        Question(
            arch=load(name),
            node=node,
            demand=demand,
            profile=profile,
            siblings=siblings,
            slo=slo,
            engine=setting.engine,
            weight_dtype=None if setting.dtype == "auto" else setting.dtype,
            kv_dtype=setting.kv_dtype,
            speculation=setting.speculation,
            engine_version=setting.engine_version,
            limits=setting.limits,
            usd_per_gpu_hour=price.usd_per_hour if price else None,
            price_note=price_note(price),
            memory_note=memory_note,
        )
        for name, demand in zip(names, demands, strict=True)
    ]


def _several(node: Node, setting: Setting, models: int) -> Node:
    """Return `node` repeated and connected by the network."""
    from shardwise.hardware.network import network
    from shardwise.hardware.node import Node

    count = setting.nodes
    joined = network(setting.network) if setting.network else None
    if count == 1 and joined is not None:
        raise InputError(
            f"--network {setting.network} for one node", "needed: --nodes 2 or more", field="nodes"
        )
    if count == 1:
        return node
    if models > 1:
        raise InputError(f"{models} models on {count} nodes", "allowed: one model", field="nodes")
    return Node(node.gpu, node.gpus * count, count, joined)


def _with_log(names: Sequence[str], node: Node, setting: Setting) -> tuple[Node, str]:
    """Return `node` with the KV cache of a start-up log, and a note about it."""
    if setting.startup_log is None:
        return node, ""
    from shardwise.architecture.models import load
    from shardwise.doctor.logged_cache import logged_cache
    from shardwise.node.reading.read import read

    if len(names) > 1:
        raise InputError("a start-up log with several models", "allowed: one model")
    found = logged_cache(
        read(setting.startup_log).startups,
        load(names[0]),
        node.gpu,
        setting.engine,
        setting.dtype or "auto",
        setting.engine_version,
    )
    gpu = replace(node.gpu, cache_shortfall_bytes=found.shortfall_bytes)
    return replace(node, gpu=gpu), found.note


def _each(values: T | Sequence[T] | None, name: str, count: int) -> list[Any]:
    """Return one value for each of `count` models."""
    found = list(values) if isinstance(values, Sequence) else [values]
    if not found:
        return [None] * count
    if len(found) not in {1, count}:
        raise InputError(
            f"{name} given {len(found)} times for {count} models",
            f"allowed: once, or {count} times",
            field=name,
        )
    return found * (count if len(found) == 1 else 1)


def _given(value: int | None, name: str) -> int:
    if value is None:
        raise InputError(f"{name} is missing", "allowed: a number of tokens", field=name)
    return value
