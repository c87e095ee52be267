"""`simulate_day`: replicas needed in each hour of a day, and the cost of the day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from shardwise.api.hardware import all_files
from shardwise.api.result import Result
from shardwise.errors import InputError
from shardwise.files import AnyPath
from shardwise.layout.deployment import Deployment
from shardwise.workload.workload import TRAFFIC_CV

if TYPE_CHECKING:
    from shardwise.reports.table import Table
    from shardwise.simulator.day import Day

HOUR_S: Final = 3600.0
MAX_HOURS: Final = 24 * 31


class DayResult(Result):
    """Replicas per hour, and cost and missed requests of three ways to run the day."""

    kind = "simulate_day"

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    @property
    def day(self) -> Day:
        """The hours with their replicas, and the plans for the whole day."""
        found: Day = self.found["day"]
        return found

    def tables(self) -> list[Table]:
        """Return the hours, then the plans."""
        from shardwise.reports.day_tables import day_tables

        return day_tables(self.found)

    def _answer(self) -> dict[str, Any]:
        return self.found


def simulate_day(
    deployment: Deployment,
    *,
    request_rates: Sequence[float],
    ttft_p99_s: float | None = None,
    tpot_p99_s: float | None = None,
    isl: float = 1000.0,
    osl: float = 500.0,
    length_cv: float = TRAFFIC_CV,
    start_up_s: float = 180.0,
    prefix_caching: bool = True,
    usd_per_gpu_hour: float | None = None,
    seed: int = 0,
    profile: str = "reference",
    catalogue_files: Sequence[AnyPath] = (),
    node_file: AnyPath | None = None,
    network: str = "",
    gpus_per_node: int | None = None,
) -> DayResult:
    """Find the replicas needed in each hour, and simulate the day.

    Args:
        deployment: One replica; the number of replicas is searched.
        request_rates: Requests per second of each hour, at most 744 hours.
        ttft_p99_s: Bound on the 99th percentile of time to first token, in seconds.
        tpot_p99_s: Bound on the 99th percentile of time per output token, in seconds.
        isl: Mean input tokens of a request.
        osl: Mean output tokens of a request.
        length_cv: Standard deviation of lengths over their mean.
        start_up_s: Time from the start of a replica to its first request, in seconds.
        prefix_caching: Whether the engine keeps finished blocks.
        usd_per_gpu_hour: Price; None takes the catalogue's.
        seed: Seed of arrivals and lengths.
        profile: Name of a profile, or a shared profile file.
        catalogue_files: TOML files with your own GPUs and prices.
        node_file: Node file that `shardwise doctor --save` wrote; its links are those of its GPU.
        network: What joins nodes, where a replica takes several: `ib-ndr`, `roce-400`, ….
        gpus_per_node: GPUs of a node; None: as many as the GPU's usual node has.

    Raises:
        InputError: No bound is given, or an argument cannot be used.
        DoesNotFitError: The deployment does not have the memory.
    """
    from shardwise.api.seeds import require_seed
    from shardwise.api.simulation import price_of, with_caching
    from shardwise.perfmodel.profiles import load_profile
    from shardwise.perfmodel.subject import catalogue_for
    from shardwise.reports.prices import price_note
    from shardwise.simulator.capacity import Target
    from shardwise.simulator.day import size_day
    from shardwise.simulator.fleet import fabric_of, make_group
    from shardwise.simulator.traffic import lengths_within

    require_seed(seed)
    bounds = {"ttft_s": ttft_p99_s, "tpot_s": tpot_p99_s}
    targets = [Target(name, 99, bound) for name, bound in bounds.items() if bound is not None]
    if not targets:
        raise InputError("a day without a bound", "needed: a bound on TTFT, on TPOT or on both")
    if len(request_rates) > MAX_HOURS:
        raise InputError(f"a day of {len(request_rates)} hours", f"allowed: up to {MAX_HOURS}")
    files = all_files(catalogue_files, node_file)
    catalogue = catalogue_for(files, deployment.gpu, deployment.engine)
    fabric = fabric_of(network, gpus_per_node, deployment, catalogue)
    made = make_group(deployment, load_profile(profile), catalogue, fabric)
    group = with_caching(made, prefix_caching)
    day = size_day(
        group,
        list(request_rates),
        lengths_within(isl, osl, length_cv, group.longest),
        targets,
        stage_s=HOUR_S,
        start_up_s=start_up_s,
        seed=seed,
    )
    price = price_of([group], usd_per_gpu_hour, catalogue)
    gpus = group.deployment.layout.replica_gpus
    hours = [plan.replica_hours for plan in day.plans]
    return DayResult(
        {
            "deployment": group.deployment,
            "day": day,
            "usd": [None if price is None else h * gpus * price.usd_per_hour for h in hours],
            "price_note": price_note(price),
        }
    )
