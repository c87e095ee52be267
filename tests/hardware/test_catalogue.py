"""The bundled catalogue, prices, topology and nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.errors import InputError, UnknownNameError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.node import Node

CATALOGUE = default_catalogue()
IDS = ["h100", "h200", "b200", "b300", "gb200", "gb300", "a100-80gb", "l40s"]
IDS += ["mi300x", "mi325x", "mi355x"]


def test_every_gpu_of_the_issue_is_there() -> None:
    assert [gpu.id for gpu in CATALOGUE.gpus()] == IDS


@pytest.mark.parametrize(
    ("spelling", "gpu_id"),
    [
        ("H100 SXM", "h100"),
        ("nvidia h100", "h100"),
        ("MI300X OAM", "mi300x"),
        ("instinct mi300x", "mi300x"),
        ("AMD_Instinct_MI300X-OAM", "mi300x"),
        ("B200-SXM", "b200"),
        ("A100 80GB", "a100-80gb"),
    ],
)
def test_common_spellings_are_recognised(spelling: str, gpu_id: str) -> None:
    assert CATALOGUE.gpu(spelling).id == gpu_id


def test_an_unknown_gpu_is_refused_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match="mi300x"):
        CATALOGUE.gpu("mi300z")


def test_every_fact_has_a_unit_source_and_date() -> None:
    for gpu_id in IDS:
        facts = CATALOGUE.facts(gpu_id)
        assert len(facts) >= 6
        assert all(fact.unit and fact.source and fact.date for fact in facts)
        assert all(bool(fact.alternatives) == bool(fact.why) for fact in facts)


def test_memory_is_what_the_driver_reports() -> None:
    h100 = CATALOGUE.gpu("h100")
    assert h100.memory_bytes == 81559 * 2**20
    assert h100.nominal_memory_gb == 80


@pytest.mark.parametrize(("tp_size", "gb_per_s"), [(2, 64), (4, 192), (8, 448)])
def test_a_mesh_uses_one_link_per_peer(tp_size: int, gb_per_s: float) -> None:
    # MI300X: 7 links of 64 GB/s; TP=n reaches n-1 peers, one link each.
    rate = CATALOGUE.gpu("mi300x").interconnect.peer_bandwidth(tp_size)
    assert rate == pytest.approx(gb_per_s * 1e9)


@given(st.sampled_from(IDS), st.integers(1, 71))
def test_peer_bandwidth_never_falls_with_tp(gpu_id: str, tp_size: int) -> None:
    link = CATALOGUE.gpu(gpu_id).interconnect
    assert link.peer_bandwidth(tp_size + 1) >= link.peer_bandwidth(tp_size)


def test_default_prices_are_of_one_tier_so_that_gpus_compare() -> None:
    prices = [price for gpu_id in IDS if (price := CATALOGUE.price(gpu_id))]
    assert {price.tier for price in prices} == {"3-year rental"}
    assert len(prices) == 9
    mi300x = CATALOGUE.price("mi300x")
    assert mi300x is not None
    assert mi300x.usd_per_hour == 1.55


def test_a_gpu_without_price_is_not_guessed() -> None:
    assert CATALOGUE.price("l40s") is None
    assert CATALOGUE.price("a100-80gb") is None


def test_an_unknown_tier_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="owning neocloud TCO"):
        CATALOGUE.price("h100", "freebie")


def test_a_node_ends_at_the_scale_up_domain() -> None:
    Node(CATALOGUE.gpu("gb200"), 72).check_tp(16)
    with pytest.raises(InputError, match="allowed: 1 to 8"):
        Node(CATALOGUE.gpu("h100"), 16)
    with pytest.raises(InputError, match="TP=8"):
        Node(CATALOGUE.gpu("h100"), 4).check_tp(8)
