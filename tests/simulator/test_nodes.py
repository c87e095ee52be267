"""Replicas over several nodes under arrivals: slower by the network, refused without one."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shardwise.api.simulation import simulate
from shardwise.errors import InputError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.network import Fabric, network
from shardwise.layout.deployment import Deployment, Dtypes, Layout, layout_of
from shardwise.simulator.fleet import fabric_of, make_group

TWO_NODES = Deployment("deepseek-r1", "h100", Layout(8, 2), dtypes=Dtypes("fp8"))


def over(name: str, layout: str = "TP8xPP2") -> float:
    """Seconds of a decode step of 32 sequences of a replica over two nodes."""
    group = make_group(
        replace(TWO_NODES, layout=layout_of(layout)), fabric=Fabric(8, network(name))
    )
    return float(group.table.decode[32])


def test_a_slower_network_makes_slower_steps() -> None:
    assert over("ib-ndr") < over("ethernet-25")
    assert over("ib-ndr", "TP8xDP2xEP16") < over("ethernet-25", "TP8xDP2xEP16")


def test_intervals_are_those_of_no_row_across_nodes() -> None:
    joined = make_group(TWO_NODES, fabric=Fabric(8, network("ib-ndr")))
    roomy = make_group(replace(TWO_NODES, gpu="h200", layout=Layout(8)))
    assert joined.half_widths["tpot_s"] > roomy.half_widths["tpot_s"]


def test_a_replica_larger_than_a_node_needs_a_network() -> None:
    with pytest.raises(InputError, match="TP8 x PP2 needs 16 GPUs, but a node of h100 has 8") as no:
        make_group(TWO_NODES)
    assert "name it with --network" in str(no.value)
    for layout, why in (("TP16", "TP within a node"), ("TP8xPP3", "")):
        deployment = replace(TWO_NODES, layout=layout_of(layout))
        if why:
            with pytest.raises(InputError, match=why):
                make_group(deployment, fabric=Fabric(8, network("ib-ndr")))
        else:
            assert make_group(deployment, fabric=Fabric(8, network("ib-ndr"))).table.pp_size == 3


def test_gpus_of_a_node_are_the_usual_ones_unless_they_are_given() -> None:
    catalogue = default_catalogue()
    found = fabric_of("ib-ndr", None, TWO_NODES, catalogue)
    assert found is not None
    assert found.gpus_per_node == 8
    assert fabric_of("", None, TWO_NODES, catalogue) is None
    for name, size, why in (
        ("", 4, "needed: --network"),
        ("ib-ndr", 9, "allowed: 1 to 8 GPUs"),
        ("token-ring", None, "allowed: ib-hdr"),
    ):
        with pytest.raises(InputError, match=why):
            fabric_of(name, size, TWO_NODES, catalogue)


def test_a_simulation_over_two_nodes_answers_its_requests() -> None:
    found = simulate(
        TWO_NODES, request_rate=0.5, isl=1000, osl=100, duration_s=60, network="ib-ndr"
    )
    assert found.found["outcomes"]["done"] == found.found["requests"]
    with pytest.raises(InputError, match="a network between nodes"):
        simulate(TWO_NODES, request_rate=0.5, network="ib-ndr", prefill_replicas=1)
