"""Answer a study's question: predict, analyse, and add advice, comparison data and provenance."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from shardwise.analysis.advice import Advice, NoAdvice, Use, advise, planned_advice
from shardwise.analysis.layouts import LayoutStudy, layouts_of
from shardwise.analysis.published import published_of
from shardwise.analysis.run import Question, Study, run
from shardwise.errors import DoesNotFitError
from shardwise.hardware.catalogue import Catalogue, default_catalogue
from shardwise.hardware.node import Node
from shardwise.hardware.user_files import own_ids
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.perfmodel.estimate import Subject
from shardwise.perfmodel.memory import plan
from shardwise.perfmodel.node_gpu import device_order_of, is_node_file
from shardwise.perfmodel.subject import Asked
from shardwise.planner import question as planning
from shardwise.planner.plan import Plan, explore
from shardwise.reports.about import about
from shardwise.reports.answer import shown_of
from shardwise.reports.engine_commands import EngineCommands, engine_commands
from shardwise.reports.memory import MemoryUse
from shardwise.reports.study_output import StudyOutput
from shardwise.units import GB
from shardwise.workload.workload import TRAFFIC_CV, Slo


class Wanted(msgspec.Struct, frozen=True):
    """A study's question with the SLO for online use, the price, and the original spelling.

    `usd_per_gpu_hour` None: the catalogue's default price, or GPU-hours if it has none.
    `request_rate` is the offered rate of the node for online use; None: as much as it sustains.
    `command` repeats the study; `asked` is the original spelling of its subject.
    """

    question: Question
    slo: Slo
    usd_per_gpu_hour: float | None = None
    command: str = ""
    request_rate: float | None = None
    asked: Asked | None = None


def answer(subject: Subject, catalogue: Catalogue, wanted: Wanted) -> StudyOutput:
    """Predict and analyse `wanted`. Raises as `analysis.run` does."""
    used = catalogue.price_used(subject.gpu.id, wanted.usd_per_gpu_hour)
    price = used.usd_per_hour if used else None
    found = run(subject, wanted.question, price)
    smallest = min(e.deployment.tp_size for e in found.evidence)
    try:
        made = plan_of(subject, wanted, price)
    except DoesNotFitError:  # a study may run one sequence at a time; a plan does not
        made = Planned({"online": None, "offline": None}, None)
    advice = [_advised(use, plan, wanted, found) for use, plan in made.by_use.items()]
    known = about(
        subject, catalogue, used, wanted.command, plan_command(wanted, subject.weight_dtype)
    )
    return StudyOutput(
        study=found,
        memory=memory_of_each_gpu(subject, catalogue, wanted.question, smallest),
        published=published_of(
            subject.arch.id, subject.gpu.id, subject.setting.arch.checkpoint_dtype
        ),
        advice=advice,
        about=replace(known, start=start_of(subject, wanted, advice[0])),
        layouts=made.layouts,
    )


def start_of(subject: Subject, wanted: Wanted, advice: Advice | NoAdvice) -> EngineCommands:
    """Return the engine's commands of the advised deployment; none without advice."""
    if not isinstance(advice, Advice):
        return EngineCommands()
    given = wanted.asked.model if wanted.asked else subject.arch.id
    d = shown_of(advice).evidence.deployment
    files = wanted.asked.catalogue_files if wanted.asked else ()
    order = device_order_of(files, d.gpu, d.tp_size)
    return engine_commands(given, subject.arch, subject.gpu, d, order)


class Planned(msgspec.Struct, frozen=True):
    """The planner's plans for both uses, None if it does not support the question, and every
    layout of the online one."""

    by_use: Mapping[Use, Plan | None]
    layouts: LayoutStudy | None


def plan_of(
    subject: Subject,
    wanted: Wanted,
    price: float | None,
    uses: Sequence[Use] = ("online", "offline"),
) -> Planned:
    """Plan a study's question for each of `uses`, which includes "online".

    Raises DoesNotFitError if no layout fits in memory.
    """
    if not planned(wanted.question):
        return Planned(dict.fromkeys(uses), None)
    made = {use: explore(plan_question(use, subject, wanted, price)) for use in uses}
    return Planned(made, layouts_of(made["online"]))


def _advised(use: Use, plan: Plan | None, wanted: Wanted, found: Study) -> Advice | NoAdvice:
    """Return the planner's answer, or one from the cells if the planner does not support the
    question."""
    if plan is not None:
        try:
            return planned_advice(use, plan, wanted.question.tp_sizes)
        except DoesNotFitError:
            pass
    return advise(use, wanted.slo if use == "online" else Slo(), found.costs, found.grid)


def planned(question: Question) -> bool:
    """Return whether the planner supports `question`: a fixed number of requests in flight."""
    return question.mode == "closed_loop" and question.osl > 1


def plan_question(
    use: Use, subject: Subject, wanted: Wanted, price: float | None
) -> planning.Question:
    """Return the planner's question for one use of a study."""
    online, asked = use == "online", wanted.question
    return planning.Question(
        arch=subject.arch,
        node=Node(subject.gpu, asked.gpus),
        demand=planning.Demand(
            asked.isl,
            asked.osl,
            request_rate=wanted.request_rate if online else None,
            cached_tokens=asked.cached_tokens,
            length_cv=asked.length_cv,
        ),
        profile=subject.calibrated.profile,
        siblings=default_catalogue().by_id,
        slo=wanted.slo if online else Slo(),
        engine=subject.engine,
        weight_dtype=subject.setting.arch.checkpoint_dtype,
        engine_version=subject.engine_version,
        limits=asked.limits,
        kv_dtype=subject.kv_dtype,
        speculation=subject.speculation,
        usd_per_gpu_hour=price,
    )


def plan_command(wanted: Wanted, weight_dtype: str) -> str:
    """Return the command that plans the online deployment in `weight_dtype`, or "" if the planner
    cannot. Without a dtype, a plan considers narrower ones too."""
    asked, question, slo = wanted.asked, wanted.question, wanted.slo
    if asked is None or not planned(question):
        return ""
    words = ["shardwise", "plan", asked.model, "--gpu", asked.gpu, "--gpus", str(question.gpus)]
    words += ["--isl", str(question.isl), "--osl", str(question.osl)]
    words += ["--cached-tokens", str(question.cached_tokens)] if question.cached_tokens else []
    words += ["--length-cv", f"{question.length_cv:g}"] if question.length_cv != TRAFFIC_CV else []
    words += ["--dtype", weight_dtype, "--kv-dtype", asked.kv_dtype]
    words += ["--engine", asked.engine] if asked.engine != "vllm" else []
    if asked.speculation is not None:
        words += asked.speculation.options
    words += ["--profile", asked.profile] if asked.profile != "reference" else []
    words += file_options(asked.catalogue_files)
    bounds = (("--ttft", slo.ttft_s), ("--tpot", slo.tpot_s), ("--e2e", slo.e2e_latency_s))
    for option, bound in bounds:
        words += [option, f"{bound * 1e3:g}ms"] if bound else []
    words += ["--request-rate", f"{wanted.request_rate:g}"] if wanted.request_rate else []
    words += ["--price", f"{wanted.usd_per_gpu_hour:g}"] if wanted.usd_per_gpu_hour else []
    return shlex.join([*words, "--save", "deployment.toml"])


def file_options(files: Sequence[Path]) -> list[str]:
    """The options that name `files`: --node for a node file, --catalogue for the others."""
    return [
        word
        for file in files
        for word in ("--node" if is_node_file(file) else "--catalogue", str(file))
    ]


def memory_of_each_gpu(
    subject: Subject, catalogue: Catalogue, question: Question, tp_size: int = 1
) -> list[MemoryUse]:
    """Return the memory of one rank on each kind of GPU, for one sequence of the question's
    length. Machines that the user measured are left out unless the question is about them."""
    dtype, uses = subject.weight_dtype, []
    own = own_ids()
    sold = [
        g
        for g in catalogue.gpus()
        if g.id == subject.gpu.id or (g.status == "released" and g.id not in own)
    ]
    for gpu in sorted(sold, key=lambda g: (g.memory_bytes, g.id)):
        deployment = Deployment(
            subject.arch.id,
            gpu.id,
            Layout(tp_size),
            dtypes=Dtypes(weight=dtype),
            engine=subject.engine,
            engine_version=subject.engine_version,
            speculation=subject.speculation,
        )
        found = plan(subject.arch, gpu, deployment, question.isl + question.osl)
        parts = {
            "weights": found.weight_bytes,
            "kv_cache": found.kv_bytes_per_sequence,
            "activations": found.activation_bytes,
            "reserve": found.engine_bytes,
        }
        sold_as = gpu.memory_nameplate_gb or round(gpu.memory_bytes / GB)
        uses.append(MemoryUse(gpu.id, tp_size, dtype, parts, found.budget_bytes, sold_as))
    return uses
