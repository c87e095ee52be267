"""The study's claims on cells whose figures are known."""

from __future__ import annotations

import math

import pytest

from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.experiment.claims import Claim, claims
from shardwise.experiment.correct import Compared
from shardwise.experiment.design import Cell
from shardwise.experiment.split import Split
from shardwise.layout.deployment import Deployment, Layout
from shardwise.workload.workload import Workload

ONE, TWO, COPIES = Split(1, 1, 1), Split(2, 1, 1), Split(1, 2, 1)


def measured(
    split: Split,
    batch: int,
    e2e_s: float,
    width: float = 0.01,
    paces: tuple[float, ...] = (),
) -> Compared:
    def about(value: float) -> Interval:
        return Interval(value, value * (1 - width), value * (1 + width), 20)

    load = Workload(128, 32, batch)
    rate = batch * 32 / e2e_s  # Little's law
    evidence = Evidence(
        Deployment(
            model="m",
            gpu="cpu",
            layout=Layout(tp_size=split.tp_size, replicas=split.replicas),
        ),
        load,
        {"e2e_latency_s": about(e2e_s), "output_tok_s": about(rate)},
        Source("measured", "test"),
    )
    return Compared(
        f"{split} {batch}", Cell(split, load), evidence, usable=True, judged=False, paces=paces
    )


def found(cells: list[Compared], text: str) -> list[Claim]:
    return [claim for claim in claims(cells) if claim.text.startswith(text)]


def test_throughput_gained_is_more_than_latency_cut_where_a_step_up_helps() -> None:
    # 1.0 s to 0.5 s: -50 % latency, +100 % throughput: 50 points
    (claim,) = found([measured(ONE, 4, 1.0), measured(TWO, 4, 0.5)], "throughput gained")
    assert claim.value.value == pytest.approx(50.0)
    assert claim.verdict == "holds"


def test_a_difference_within_the_noise_is_not_resolved() -> None:
    cells = [measured(ONE, 1, 1.0, 0.2), measured(TWO, 1, 0.95, 0.2)]
    (claim,) = found(cells, "smallest batch")
    assert claim.verdict == "not resolved"


def test_a_small_batch_that_a_step_slows_does_not_gain() -> None:
    (claim,) = found([measured(ONE, 1, 1.0), measured(TWO, 1, 1.2)], "smallest batch")
    assert claim.value.value == pytest.approx(1.2)
    assert claim.verdict == "does not hold"


def test_the_batch_that_keeps_the_latency_is_read_between_batches() -> None:
    # TP=1 takes 1 s at 4 and 2 s at 16; TP=2 at 16 takes 1.5 s: halfway on log batch, 8 of 16
    cells = [measured(ONE, 4, 1.0), measured(ONE, 16, 2.0), measured(TWO, 16, 1.5)]
    (claim,) = found(cells, "batch that keeps")
    assert claim.value.value == pytest.approx(0.5)
    assert claim.value.lo < 0.5 < claim.value.hi
    assert claim.verdict == "not resolved"


def test_copies_cost_the_inverse_of_their_throughput() -> None:
    # 2 copies at 16 requests: 0.8 s against 1.0 s, 1.25x the throughput, 0.8x the cost
    cells = [measured(TWO, 16, 1.0), measured(COPIES, 16, 0.8)]
    values = {c.text: (round(c.value.value, 3), c.verdict) for c in claims(cells)}
    assert values["replicas: throughput is higher"] == (1.25, "holds")
    assert values["replicas: cost per token is lower"] == (0.8, "holds")
    assert values["replicas: E2E latency is longer"] == (0.8, "does not hold")


def test_a_cell_that_the_client_could_not_keep_up_with_claims_nothing() -> None:
    from msgspec.structs import replace

    cells = [replace(measured(ONE, 4, 1.0), usable=False), measured(TWO, 4, 0.5)]
    assert claims(cells) == ()


@pytest.mark.parametrize(
    ("slower", "verdict"),
    [
        (1.0, "holds"),
        (1.2, "holds"),
        # the machine itself became slower by a quarter, and 1 s to 0.8 s is no more than that
        (1.25, "not judged"),
        (2.0, "not judged"),
    ],
)
def test_a_machine_that_drifted_by_the_effect_judges_nothing(slower: float, verdict: str) -> None:
    cells = [
        measured(ONE, 1, 1.0, paces=(0.03, 0.03 * slower)),
        measured(TWO, 1, 0.8, paces=(0.03, 0.03)),
    ]
    (claim,) = found(cells, "smallest batch")
    assert claim.verdict == verdict
    assert claim.drift == pytest.approx(slower - 1.0)


def test_a_drift_between_the_two_cells_counts_too() -> None:
    cells = [measured(ONE, 1, 1.0, paces=(0.06, 0.06)), measured(TWO, 1, 0.8, paces=(0.03, 0.03))]
    assert {claim.verdict for claim in claims(cells)} <= {"not judged", "not resolved"}


def test_without_a_pace_the_interval_alone_decides() -> None:
    (claim,) = found([measured(ONE, 1, 1.0), measured(TWO, 1, 0.8)], "smallest batch")
    assert claim.verdict == "holds"
    assert math.isnan(claim.drift)
