"""`plan_percentiles`: the cheapest deployment for a rate and percentile bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardwise.analysis.slo_search import Finalist, SloSearch, hold
from shardwise.api.hardware import hardware_of
from shardwise.api.planning import Part, Setting, demands_of, questions_of
from shardwise.api.result import Result
from shardwise.errors import InputError
from shardwise.files import AnyPath
from shardwise.layout.deployment import Deployment, FixedLimits
from shardwise.layout.speculation import Speculation
from shardwise.planner.command import Replica, checkpoint, note, replicas, replicas_across
from shardwise.simulator.capacity import Target
from shardwise.workload.workload import TRAFFIC_CV, Slo

if TYPE_CHECKING:
    from shardwise.reports.table import Table


class PercentilePlan(Result):
    """Deployments that sustain a request rate, the cheapest first."""

    kind = "plan_percentiles"

    def __init__(self, name: str, found: SloSearch, order: tuple[int, ...]) -> None:
        self.found = found
        self._name, self._order = name, order
        q, best = found.best.question, found.best.deployment
        stored = checkpoint(name, q.arch, best)
        self.commands: Sequence[Replica]
        if q.node.nodes > 1:
            self.commands = replicas_across(best, q.arch, q.node, stored)
        else:
            self.commands = replicas(best, q.arch, q.node.gpu, stored, order=order)
        self.remark = note(stored)

    @property
    def best(self) -> Finalist:
        """The cheapest deployment that sustains the rate."""
        return self.found.best

    @property
    def deployment(self) -> Deployment:
        """The recommended deployment."""
        return self.best.deployment

    def summary(self) -> str:
        """Return the recommendation and the highest rate that it sustains."""
        from shardwise.reports.slo_search_tables import recommendation

        return recommendation(self.found)

    def parts(self) -> list[Part]:
        """Return the answer as texts and tables."""
        from shardwise.reports.slo_search_tables import rejected_lines, slo_search_table

        table, rejected = slo_search_table(self.found), rejected_lines(self.found)
        return [Part(self.summary(), table, rejected, [], None, self.commands, self.remark)]

    def tables(self) -> list[Table]:
        """Return the table of finalists."""
        return [part.table for part in self.parts()]

    def save(self, path: AnyPath) -> None:
        """Write the recommended deployment to a file for `shardwise up`.

        Raises:
            InputError: The file cannot be written.
        """
        from shardwise.hosting import deployment_file
        from shardwise.hosting.planned import Chosen, planned

        q, best = self.best.question, self.best.deployment
        chosen = Chosen(self._name, q.arch, q.node.gpu, best, order=self._order)
        nodes = q.node.nodes
        gpus = best.gpus if nodes == 1 else q.node.gpus_per_node
        deployment_file.save(planned([chosen], gpus, nodes), Path(path))

    def _answer(self) -> dict[str, Any]:
        from shardwise.reports.slo_search_tables import slo_search_document

        return slo_search_document(self.found, self.commands, self.remark)


def plan_percentiles(
    model: str,
    *,
    gpu: str | Sequence[str] = "",
    isl: int,
    osl: int,
    request_rate: float,
    gpus: int | None = None,
    cached_tokens: int = 0,
    length_cv: float = TRAFFIC_CV,
    ttft_p99_s: float | None = None,
    tpot_p99_s: float | None = None,
    e2e_latency_p99_s: float | None = None,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    e2e_latency_s: float | None = None,
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
    speculation: str = "none",
    acceptance: float | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> PercentilePlan:
    """Find the cheapest deployment that sustains a request rate, by simulating arrivals.

    Args:
        model: A bundled id, a folder, a `config.json` or a Hugging Face id.
        gpu: GPU id of the catalogue, or several to choose from.
        isl: Input tokens of a request.
        osl: Output tokens of a request.
        request_rate: Requests per second on the node, arriving as a Poisson process.
        gpus: GPUs in the node; None: those of the node file, else 8.
        cached_tokens: Tokens of `isl` that all prompts begin with, in the prefix cache.
        length_cv: Standard deviation of lengths over their means; 0: all equal.
        ttft_p99_s: Bound on the 99th percentile of time to first token, in seconds.
        tpot_p99_s: Bound on the 99th percentile of time per output token, in seconds.
        e2e_latency_p99_s: Bound on the 99th percentile of a request's latency, in seconds.
        ttft_s: Bound on the median time to first token, in seconds.
        tpot_s: Bound on the median time per output token, in seconds.
        e2e_latency_s: Bound on a request's median latency, in seconds.
        dtype: Weight dtype; None looks at the checkpoint's own and narrower ones.
        kv_dtype: KV cache dtype; `auto` is what the checkpoint asks for.
        engine: `vllm`, `sglang`, `trtllm`, `atom` or `builtin`.
        engine_version: Version of the engine; "" takes what holds for every known one.
        limits: Engine limits that are fixed instead of chosen.
        profile: Name of a profile, or a shared profile file.
        catalogue_files: TOML files with your own GPUs and prices.
        usd_per_gpu_hour: Price of one kind of GPU; None takes the catalogue's.
        node_file: Node file that `shardwise doctor --save` wrote.
        nodes: Nodes of `gpus` GPUs each.
        network: What joins several nodes: `ib-ndr`, `roce-400`, `ethernet-100`, ….
        speculation: Drafted tokens a step: `mtp:3` by the model's own heads, or `DRAFT-MODEL:4`.
        acceptance: Share of drafted tokens that is accepted; None assumes one, with a range.
        progress: Called with what is simulated, how many are done, and how many there are.

    Raises:
        InputError: An argument cannot be used.
        DoesNotFitError: No deployment has the memory.
        NothingMeetsError: None holds the rate within the bounds.
    """
    kinds = dict.fromkeys((gpu,) if isinstance(gpu, str) else (gpu or ("",)))
    if usd_per_gpu_hour is not None and len(kinds) > 1:
        raise InputError(
            f"--price with {len(kinds)} kinds of GPU",
            "allowed: one kind",
            "set the prices in a file for --catalogue",
            field="usd_per_gpu_hour",
        )
    demands = demands_of(1, isl, osl, None, request_rate, cached_tokens, length_cv)
    questions = []
    for kind in kinds:
        setting = Setting(
            kind, gpus, node_file, None, dtype, kv_dtype, engine, engine_version,
            limits or FixedLimits(), profile, catalogue_files, usd_per_gpu_hour,
            Speculation.parse(speculation, acceptance), nodes, network,
        )  # fmt: skip
        questions += questions_of((model,), demands, Slo(ttft_s, tpot_s, e2e_latency_s), setting)
    bounds = (
        ("ttft_s", 50.0, ttft_s),
        ("ttft_s", 99.0, ttft_p99_s),
        ("tpot_s", 50.0, tpot_s),
        ("tpot_s", 99.0, tpot_p99_s),
        ("e2e_latency_s", 50.0, e2e_latency_s),
        ("e2e_latency_s", 99.0, e2e_latency_p99_s),
    )
    asked = [Target(metric, at, bound) for metric, at, bound in bounds if bound is not None]
    found = hold(questions, asked, progress=progress)
    best = found.best
    taken = hardware_of(best.question.node.gpu.id, None, node_file, catalogue_files)
    return PercentilePlan(model, found, taken.device_order(best.deployment.tp_size))
