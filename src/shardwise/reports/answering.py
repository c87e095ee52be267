"""A question to a whole study: predicted, analysed, with advice and what stands beside it."""

from __future__ import annotations

from dataclasses import dataclass

from shardwise.evidence.record import Deployment
from shardwise.hardware.catalogue import Catalogue
from shardwise.perfmodel.estimate import Subject
from shardwise.perfmodel.memory import plan
from shardwise.reports.about import about
from shardwise.reports.memory import MemoryUse
from shardwise.reports.study_output import StudyOutput
from shardwise.study.advice import advise
from shardwise.study.published import PublishedStudy, load_published
from shardwise.study.run import Question, run
from shardwise.workload.workload import Slo


@dataclass(frozen=True)
class Wanted:
    """A study's question with the SLO of the online user and the price, and how it was asked.

    `usd_per_gpu_hour` None: the catalogue's default price, or GPU-hours where it has none.
    """

    question: Question
    slo: Slo
    usd_per_gpu_hour: float | None = None
    command: str = ""


def answer(subject: Subject, catalogue: Catalogue, wanted: Wanted) -> StudyOutput:
    """Predict and analyse what is wanted. Raises InputError and DoesNotFitError as `study.run`."""
    listed = catalogue.price(subject.gpu.id)
    price = wanted.usd_per_gpu_hour
    if price is None and listed:
        price = listed.usd_per_hour
    found = run(subject, wanted.question, price)
    return StudyOutput(
        study=found,
        memory=memory_of_each_gpu(subject, catalogue, wanted.question),
        published=_published_of(subject),
        advice=[
            advise("online", wanted.slo, found.costs, found.grid),
            advise("offline", Slo(), found.costs, found.grid),
        ],
        about=about(subject, catalogue, wanted.command),
    )


def memory_of_each_gpu(
    subject: Subject, catalogue: Catalogue, question: Question, tp_size: int = 1
) -> list[MemoryUse]:
    """One rank of the model on each kind of GPU, for one sequence of the question's length."""
    dtype, uses = subject.setting.weight_dtype, []
    for gpu in sorted(catalogue.gpus(), key=lambda g: (g.memory_bytes, g.id)):
        deployment = Deployment(subject.arch.id, gpu.id, tp_size, weight_dtype=dtype)
        found = plan(subject.arch, gpu, deployment, question.isl + question.osl)
        parts = {
            "weights": found.weight_bytes,
            "kv_cache": found.kv_bytes_per_sequence,
            "activations": found.activation_bytes,
            "reserve": found.engine_bytes,
        }
        uses.append(MemoryUse(gpu.id, tp_size, dtype, parts, found.budget_bytes))
    return uses


def _published_of(subject: Subject) -> PublishedStudy | None:
    """The published study, where it is about this model, GPU and dtype."""
    published = load_published()
    theirs = (published.model, published.gpu, published.weight_dtype)
    ours = (subject.arch.id, subject.gpu.id, subject.setting.weight_dtype)
    return published if theirs == ours else None
