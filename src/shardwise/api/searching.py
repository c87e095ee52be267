"""`search`: run many simulations and save each result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shardwise.api.hardware import all_files
from shardwise.api.result import Result
from shardwise.errors import InputError
from shardwise.files import AnyPath
from shardwise.layout.deployment import Deployment
from shardwise.workload.workload import TRAFFIC_CV

if TYPE_CHECKING:
    from shardwise.hardware.network import Fabric
    from shardwise.reports.table import Table
    from shardwise.simulator.search import Job
    from shardwise.simulator.summary import Summary
    from shardwise.simulator.traffic import Arrivals

MAX_JOBS: Final = 1_000_000


class SearchResult(Result):
    """Results of each combination over its seeds."""

    kind = "search"

    def __init__(self, summaries: Sequence[Summary]) -> None:
        self.summaries = tuple(summaries)

    def tables(self) -> list[Table]:
        """Return a row per deployment, policy and rate."""
        from shardwise.reports.search_tables import search_table

        return [search_table(self.summaries)]

    def _answer(self) -> dict[str, Any]:
        return {"summaries": self.summaries}


def search(
    deployments: Sequence[Deployment],
    *,
    request_rates: Sequence[float],
    policies: Sequence[str] = ("least_loaded",),
    seeds: int = 1,
    store: AnyPath = Path("simulations.sqlite"),
    on: str = "",
    isl: float = 1000.0,
    osl: float = 500.0,
    length_cv: float = TRAFFIC_CV,
    arrivals: Arrivals = "poisson",
    duration_s: float = 600.0,
    warmup_s: float = 0.0,
    turns: float | None = None,
    think_s: float = 20.0,
    prefix_tokens: int = 0,
    prefixes: int = 1,
    prefix_caching: bool = True,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    profile: str = "reference",
    catalogue_files: Sequence[AnyPath] = (),
    node_file: AnyPath | None = None,
    network: str = "",
    gpus_per_node: int | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> SearchResult:
    """Simulate every deployment under every policy and rate, `seeds` times each.

    The call can be interrupted at any point; call it again with the same store to resume.

    Args:
        deployments: Deployments to simulate, each with its replicas.
        request_rates: Requests per second; sessions per second with `turns`.
        policies: Routing policies of the balancer.
        seeds: Number of runs per combination, with seeds from 0.
        store: File to save each result in.
        on: Ray cluster, `ray://host:port` or `auto`; "" uses all cores of this machine.
        isl: Mean input tokens of a request.
        osl: Mean output tokens of a request.
        length_cv: Standard deviation of lengths over their mean.
        arrivals: `poisson`, `bursty` or `constant`.
        duration_s: Time during which requests or sessions arrive, in seconds.
        warmup_s: Time at the start that is excluded from the results, in seconds.
        turns: Mean turns of a session; None: single requests.
        think_s: Mean time from an answer to the next turn, in seconds.
        prefix_tokens: Tokens of a system prompt that requests share.
        prefixes: Number of different system prompts.
        prefix_caching: Whether the engine keeps finished blocks.
        ttft_s: Bound on time to first token that a good request meets, in seconds.
        tpot_s: Bound on time per output token that a good request meets, in seconds.
        profile: Name of a profile, or a shared profile file.
        catalogue_files: TOML files with your own GPUs and prices.
        node_file: Node file that `shardwise doctor --save` wrote; its links are those of its GPU.
        network: What joins nodes, where a replica takes several: `ib-ndr`, `roce-400`, ….
        gpus_per_node: GPUs of a node; None: as many as the GPU's usual node has.
        progress: Called with how many simulations are done, and how many there are.

    Raises:
        InputError: An argument cannot be used, or there are no or too many combinations.
    """
    from shardwise.api.simulation import Asked, require_warmup, sessions_of
    from shardwise.perfmodel.subject import catalogue_for
    from shardwise.simulator.fleet import fabric_of
    from shardwise.simulator.search import Job, Store, digest_of
    from shardwise.simulator.search import search as run
    from shardwise.simulator.simulate import require_policy
    from shardwise.simulator.summary import summaries
    from shardwise.simulator.traffic import Lengths, Traffic
    from shardwise.workload.workload import Slo

    count = len(deployments) * len(request_rates) * len(policies) * seeds
    if not 1 <= count <= MAX_JOBS:
        raise InputError(f"{count} simulations", f"allowed: 1 to {MAX_JOBS:,}")
    for policy in policies:
        require_policy(policy)
    require_warmup(warmup_s, duration_s if turns is None else math.inf)
    sessions = Asked(
        isl=isl, osl=osl, length_cv=length_cv, duration_s=duration_s, turns=turns,
        think_s=think_s, prefix_tokens=prefix_tokens, prefixes=prefixes,
    )  # fmt: skip
    lengths = Lengths(isl, length_cv), Lengths(osl, length_cv)
    given = all_files(catalogue_files, node_file)
    files = tuple(str(path.resolve()) for path in given)
    digest = digest_of(given)

    def joined(one: Deployment) -> Fabric | None:
        return fabric_of(network, gpus_per_node, one, catalogue_for(given, one.gpu, one.engine))

    jobs: list[Job] = [
        Job(
            deployment,
            Traffic(
                rate, *lengths, duration_s, arrivals, prefixes=prefixes,
                prefix_tokens=prefix_tokens,
            ),
            Slo(ttft_s=ttft_s, tpot_s=tpot_s),
            policy,
            warmup_s,
            seed,
            sessions_of(sessions, rate) if turns is not None else None,
            prefix_caching=prefix_caching,
            profile=profile,
            catalogue_files=files,
            catalogue_digest=digest,
            fabric=joined(deployment),
        )
        for deployment, policy, rate in product(deployments, policies, request_rates)
        for seed in range(seeds)
    ]  # fmt: skip
    return SearchResult(summaries(jobs, run(jobs, Store(Path(store)), on=on, progress=progress)))
