"""The simulated deployment: groups of equal replicas behind one balancer."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec.structs import replace

from shardwise.architecture.bundled import stored_in
from shardwise.architecture.models import load as load_architecture
from shardwise.engines.checks import problems
from shardwise.engines.device import device_of
from shardwise.engines.registry import get
from shardwise.errors import InputError
from shardwise.hardware.catalogue import Catalogue, default_catalogue
from shardwise.hardware.network import Fabric, network, networks
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.layout.nodes import straddles
from shardwise.layout.rules import require_kv_dtype, violations
from shardwise.perfmodel.drafts import require_draft
from shardwise.perfmodel.estimate import Subject, note_on
from shardwise.perfmodel.intervals import half_width, with_speculation
from shardwise.perfmodel.memory import require_fit
from shardwise.perfmodel.profiles import Profile, bundled_profile, calibrated
from shardwise.simulator import surface
from shardwise.simulator.scheduling import PLAIN, Scheduling, padded, scheduling_of
from shardwise.simulator.state import Fleet
from shardwise.simulator.steptable import StepTable, step_table
from shardwise.simulator.trace import Floats, Ints

#: In a closed loop a request arrives as its predecessor ends, just too late for the next step. The
#: performance model's `wait_steps` includes that step, but the simulation waits for it explicitly.
RESIDUAL_STEPS = 1.0
REFERENCE_CONTEXT = 1024.0  #: tokens; one request of this length must fit on a replica


class Group(msgspec.Struct, frozen=True):
    """Equal replicas of one deployment, with their limits."""

    deployment: Deployment
    table: StepTable
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_capacity_tokens: int
    max_context: int
    delay_s: float  #: from arrival until the scheduler sees a request
    tokenize_s: float  #: the same, per token of the prompt
    delay_steps: float  #: the same, in steps
    half_widths: dict[str, float]  #: log half-widths of 80 % intervals by metric
    note: str = ""
    scheduling: Scheduling = PLAIN

    @property
    def longest(self) -> int:
        """Tokens of the longest request that a replica accepts."""
        block = self.scheduling.block_tokens
        return min(self.max_context, self.kv_capacity_tokens // block * block)

    def slower(self, factor: float) -> Group:
        """Return the same group with everything `factor` times as slow."""
        return replace(
            self,
            table=self.table.scaled(factor),
            delay_s=self.delay_s * factor,
            tokenize_s=self.tokenize_s * factor,
            scheduling=self.scheduling.slower(factor),
        )


def fabric_of(
    network_name: str, gpus_per_node: int | None, deployment: Deployment, catalogue: Catalogue
) -> Fabric | None:
    """Return the network between the nodes of a deployment; None if no network is named.

    Args:
        network_name: Id in the catalogue of networks, or "".
        gpus_per_node: GPUs of one node; None: those of the GPU's default node.
        deployment: Its GPU's catalogue entry has the default node.
        catalogue: The catalogue of GPUs.

    Raises InputError for an unknown network, and for GPUs of a node without a network.
    """
    if not network_name:
        if gpus_per_node is not None:
            raise InputError(
                f"--gpus-per-node {gpus_per_node} for one node",
                f"needed: --network with one of {', '.join(networks())}",
                field="gpus_per_node",
            )
        return None
    gpu, joined = catalogue.gpu(deployment.gpu), network(network_name)
    size = gpu.node_gpus if gpus_per_node is None else gpus_per_node
    if not 1 <= size <= gpu.interconnect.max_world:
        raise InputError(
            f"{size} x {gpu.id} in one node",
            f"allowed: 1 to {gpu.interconnect.max_world} GPUs",
            field="gpus_per_node",
        )
    return Fabric(size, joined)


def _require_nodes(subject: Subject, layout: Layout) -> None:
    """Raise InputError for a replica larger than a node without a network."""
    gpu, fabric = subject.gpu, subject.fabric
    if fabric is None:
        if layout.replica_gpus > gpu.interconnect.max_world:
            raise InputError(
                f"{layout.name} needs {layout.replica_gpus} GPUs, but a node of {gpu.id} has "
                f"{gpu.interconnect.max_world}",
                f"allowed: several nodes connected by one of {', '.join(networks())}",
                "name it with --network",
                field="network",
            )
        return
    if reason := straddles(layout, fabric.gpus_per_node):
        raise InputError(reason)
    engine = get(subject.engine)
    spread = layout.replica_gpus > fabric.gpus_per_node
    if spread and not engine.capabilities.multi_node:
        raise InputError(f"{engine.title} across nodes: its flags are not known here")


def make_group(
    deployment: Deployment,
    profile: Profile | None = None,
    catalogue: Catalogue | None = None,
    fabric: Fabric | None = None,
) -> Group:
    """Create the replicas of a deployment, with predicted step times and KV cache.

    Raises UnknownNameError, InputError or DoesNotFitError.
    """
    return group_of(subject_for(deployment, profile, catalogue, fabric), deployment)


def subject_for(
    deployment: Deployment,
    profile: Profile | None = None,
    catalogue: Catalogue | None = None,
    fabric: Fabric | None = None,
) -> Subject:
    """Return a deployment's model, GPU and engine. Raises UnknownNameError or InputError."""
    known = catalogue or default_catalogue()
    arch, gpu = load_architecture(deployment.model), known.gpu(deployment.gpu)
    siblings = known.by_id
    engine, version = deployment.engine, deployment.engine_version
    seen = calibrated(profile or bundled_profile(), gpu, engine, siblings, version)
    stored = stored_in(arch, deployment.dtypes.weight)
    if deployment.dtypes.kv != "auto":
        require_kv_dtype(deployment.dtypes.kv, gpu)
    if deployment.speculation is not None:
        require_draft(stored, deployment.speculation)
    drafted = deployment.speculation
    return Subject(stored, gpu, engine, deployment.dtypes.kv, seen, version, drafted, fabric)


def group_of(subject: Subject, deployment: Deployment) -> Group:
    """Create the replicas of a deployment of `subject`. Raises InputError or DoesNotFitError."""
    if deployment.replicas < 1:
        raise InputError(f"replicas is {deployment.replicas}", "allowed: 1 or more")
    arch, setting, d = subject.arch, subject.setting, deployment
    broken = violations(arch, d.layout)
    if broken:
        raise InputError(broken[0].message)
    for problem in problems(get(d.engine), d, device_of(subject.gpu), arch):
        raise problem
    _require_nodes(subject, d.layout)
    stored = replace(d, dtypes=Dtypes(arch.checkpoint_dtype, setting.kv_dtype))
    memory = require_fit(arch, subject.gpu, stored, REFERENCE_CONTEXT)
    coefficients = setting.coefficients
    facts = subject.platform.scheduling
    stream_s = 0.0 if facts.merges_output else coefficients["stream"]
    rules = scheduling_of(d.engine, coefficients["handle"], stream_s)
    tokens, copies = deployment.limits.max_num_batched_tokens, d.layout.attention_dp
    graph_tokens = facts.prompt_graphs.tokens(
        arch, d.layout, drafts=subject.speculation is not None
    )
    seqs = min(deployment.limits.max_num_seqs, tokens // setting.query_tokens) * copies
    widths = {
        metric: with_speculation(
            half_width(subject.calibrated.profile, subject.asked, metric, d.layout),
            subject.speculation,
            metric,
        )
        for metric in ("ttft_s", "tpot_s", "e2e_latency_s")
    }
    return Group(
        deployment=stored,
        table=step_table(setting, d.layout, max(seqs, 1), tokens, graph_tokens),
        max_num_seqs=max(seqs, 1),
        max_num_batched_tokens=tokens,
        kv_capacity_tokens=memory.kv_capacity_tokens,
        max_context=deployment.limits.max_model_len or arch.max_context,
        delay_s=coefficients["request"],
        tokenize_s=coefficients["tokenize"],
        delay_steps=max(coefficients["wait_steps"] + facts.steps_ahead - RESIDUAL_STEPS, 0.0),
        half_widths=widths,
        note=note_on(subject, [d.layout]),
        scheduling=replace(rules, reserve=1.0) if facts.reserves_output else rules,
    )


def model_names(groups: Sequence[Group]) -> list[str]:
    """Return the models that the groups serve, in order of first appearance."""
    return list(dict.fromkeys(group.deployment.model for group in groups))


class Failure(msgspec.Struct, frozen=True):
    """Replica number `replica` is down from `down_s` to `up_s` (infinite: it stays down)."""

    replica: int
    down_s: float
    up_s: float = float("inf")


def make_fleet(groups: Sequence[Group]) -> Fleet:
    """Create arrays of every replica of every group."""
    if not groups:
        raise InputError("no deployment", "needed: at least one")
    names = model_names(groups)
    counts = [group.deployment.replicas for group in groups]

    def column(values: Sequence[float]) -> Floats:
        return np.repeat(np.array(values, dtype=np.float64), counts)

    def whole(values: Sequence[int]) -> Ints:
        return np.repeat(np.array(values, dtype=np.int64), counts)

    def stacked(rows: Sequence[Floats]) -> Floats:
        out = np.zeros((len(rows), max(len(row) for row in rows)))
        for k, row in enumerate(rows):
            out[k, : len(row)] = row
        return out

    def beside(table: StepTable) -> Floats:
        if len(table.beside):
            return table.beside
        q = table.query_tokens
        head = table.decode[1:] - table.decode[1]
        matrices = table.prompt[q : q * len(table.decode) : q] - table.prompt[q]
        return np.append(head - matrices, 0.0)

    def decode(group: Group) -> Floats:
        table, sizes = group.table, group.scheduling.graph_sizes
        whole = padded(table.decode, sizes, table.query_tokens / table.copies)
        return whole / table.tokens_per_step

    rules = [g.scheduling for g in groups]
    return Fleet(
        model=whole([names.index(g.deployment.model) for g in groups]),
        table=whole(list(range(len(groups)))),
        max_seqs=whole([g.max_num_seqs for g in groups]),
        max_tokens=whole([g.max_num_batched_tokens for g in groups]),
        kv_blocks=whole([g.kv_capacity_tokens // g.scheduling.block_tokens for g in groups]),
        block=whole([x.block_tokens for x in rules]),
        mixed=whole([int(x.mixed) for x in rules]),
        caching=whole([int(x.prefix_caching) for x in rules]),
        reserve=column([x.reserve for x in rules]),
        max_context=whole([g.max_context for g in groups]),
        delay_s=column([g.delay_s for g in groups]),
        tokenize_s=column([g.tokenize_s for g in groups]),
        delay_steps=column([g.delay_steps for g in groups]),
        request_s=column([x.request_s for x in rules]),
        token_s=column([x.token_s for x in rules]),
        least_step_s=column(
            [float(g.table.decode[1:].min()) / g.table.tokens_per_step for g in groups]
        ),
        pp_size=np.array([g.table.pp_size for g in groups], dtype=np.int64),
        copies=np.array([g.table.copies for g in groups], dtype=np.int64),
        queries=np.array([g.table.query_tokens for g in groups], dtype=np.int64),
        yields=np.array([g.table.tokens_per_step for g in groups]),
        decode=stacked([decode(g) for g in groups]),
        prompt=stacked([padded(g.table.prompt, g.scheduling.graph_sizes) for g in groups]),
        beside=stacked([beside(g.table) for g in groups]),
        copy=stacked([g.table.copy for g in groups]),
        reads=surface.stacked([g.table.reads.scaled(1 / g.table.tokens_per_step) for g in groups]),
        scores=surface.stacked([g.table.scores for g in groups]),
        launch=np.array([g.table.launch for g in groups]),
        graph_tokens=np.array([g.table.graph_tokens for g in groups]),
    )
