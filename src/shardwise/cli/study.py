"""`shardwise study`: the published study's questions, for any model, GPU and lengths."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from shardwise.cli.files import show_progress
from shardwise.cli.options import sizes, subject_options


@click.command()
@subject_options
@click.option("--gpus", default=8, show_default=True, help="GPUs in the node.")
@click.option("--tp", default="1,2,4,8", show_default=True, help="TP sizes to compare.")
@click.option(
    "--batch",
    default="1,2,4,8,16,32,64,128,256",
    show_default=True,
    help="Requests in flight per copy.",
)
@click.option("--isl", default=2048, show_default=True, help="Input tokens of a request.")
@click.option("--osl", default=2048, show_default=True, help="Output tokens of a request.")
@click.option(
    "--mode",
    type=click.Choice(["closed_loop", "static_batch"]),
    default="closed_loop",
    show_default=True,
    help="Keep the batch in flight, or run it once.",
)
@click.option("--requests", default=0, help="Requests of each run; 0: ten per slot.")
@click.option("--tpot", default=50.0, show_default=True, help="Online user's TPOT bound, ms.")
@click.option("--ttft", default=2000.0, show_default=True, help="Online user's TTFT bound, ms.")
@click.option("--price", type=float, default=None, help="USD per GPU-hour instead of the default.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for files.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def study(**given: Any) -> None:
    """What the TP size does to latency, throughput and cost of MODEL on one node.

    MODEL is a bundled id (llama-3.1-70b), a folder or config.json, or a Hugging Face id.
    """
    from shardwise.reports.files import prepare_folder
    from shardwise.reports.study_output import write_study

    if given["output"]:
        prepare_folder(given["output"])
    output = _run(given)
    if given["as_json"]:
        _print_json(output)
    else:
        _print_tables(output)
    if given["output"]:
        written = write_study(output, given["output"], show_progress)
        click.echo(f"wrote {len(written)} files to {given['output']}/", err=True)


def _run(given: dict[str, Any]) -> Any:
    from shardwise.perfmodel.subject import Asked, subject_of
    from shardwise.reports.study_output import StudyOutput
    from shardwise.study.advice import advise
    from shardwise.study.published import load_published
    from shardwise.study.run import Question, run
    from shardwise.workload.workload import Slo

    asked = Asked(
        given["model"],
        given["gpu"],
        given["engine"],
        given["dtype"],
        given["kv_dtype"],
        given["profile"],
        given["catalogue_files"],
    )
    subject, catalogue = subject_of(asked)
    question = Question(
        given["gpus"],
        sizes(given["tp"], "--tp"),
        sizes(given["batch"], "--batch"),
        given["isl"],
        given["osl"],
        given["mode"],
        given["requests"],
    )
    slo = Slo(ttft_s=given["ttft"] / 1e3, tpot_s=given["tpot"] / 1e3)
    listed = catalogue.price(subject.gpu.id)
    price = given["price"] or (listed.usd_per_hour if listed else None)
    found = run(subject, question, price)
    published = load_published()
    same = (published.model, published.gpu, published.weight_dtype) == (
        subject.arch.id,
        subject.gpu.id,
        subject.setting.weight_dtype,
    )
    advice = [
        advise("online", slo, found.costs, found.grid),
        advise("offline", Slo(), found.costs, found.grid),
    ]
    memory = _memory(subject, question, catalogue)
    return StudyOutput(found, memory, published if same else None, advice)


def _memory(subject: Any, question: Any, catalogue: Any) -> list[Any]:
    """The model at TP=1 on one GPU of each kind, for the fit figure."""
    from shardwise.evidence.record import Deployment
    from shardwise.perfmodel.memory import plan
    from shardwise.reports.memory import MemoryUse

    uses = []
    for gpu in sorted(catalogue.gpus(), key=lambda g: (g.memory_bytes, g.id)):
        deployment = Deployment(
            subject.arch.id, gpu.id, 1, weight_dtype=subject.setting.weight_dtype
        )
        found = plan(subject.arch, gpu, deployment, question.isl + question.osl)
        parts = {
            "weights": found.weight_bytes,
            "kv_cache": found.kv_bytes_per_sequence,
            "activations": found.activation_bytes,
            "reserve": found.engine_bytes,
        }
        uses.append(MemoryUse(gpu.id, 1, subject.setting.weight_dtype, parts, found.budget_bytes))
    return uses


def _print_json(output: Any) -> None:
    import msgspec

    document = {"study": output.study, "advice": output.advice}
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def _print_tables(output: Any) -> None:
    from shardwise.reports.study_output import advice_lines, study_tables
    from shardwise.reports.table import show

    for table in study_tables(output):
        show(table, sys.stdout)
        click.echo()
    for skipped in output.study.skipped:
        click.echo(f"left out TP={skipped.tp_size}: {skipped.reason}")
    for line in advice_lines(output.advice):
        click.echo(line)
