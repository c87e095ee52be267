"""Time between nodes: what crosses, at which rate, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise import kernels
from shardwise.architecture.models import load
from shardwise.engines.device import device_of
from shardwise.engines.registry import get
from shardwise.errors import InputError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.network import Fabric, network, networks
from shardwise.hardware.node import Node as HardwareNode
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.estimate import sweep
from shardwise.perfmodel.loads import Offered
from shardwise.perfmodel.messages import Node, exchange_seconds, hops
from shardwise.perfmodel.operators import _gathered_bytes
from shardwise.perfmodel.subject import Asked, subject_of

H100 = default_catalogue().gpu("h100")
NDR = Fabric(8, network("ib-ndr"))
ONE = np.ones(1)


def test_rates_are_the_data_sheets() -> None:
    assert network("ib-ndr").bytes_per_s == 50e9
    assert NDR.node_bytes_per_s == 400e9  # an adapter for each of 8 GPUs
    assert Fabric(8, network("ethernet-100")).node_bytes_per_s == 12.5e9  # one for the node
    for each in networks().values():
        assert each.source
        assert each.date


def test_a_hand_over_between_nodes_is_at_one_adapters_rate() -> None:
    node = Node(H100, "vllm", fabric=NDR)
    within = 16384.0 / H100.interconnect.peer_bandwidth(2)
    assert hops(node, Layout(4, 2), 16384.0) == (within, 0.0)
    assert hops(node, Layout(8, 2), 16384.0) == pytest.approx((16384.0 / 50e9, 15e-6))
    # of three hand-overs one crosses
    mean = within + (16384.0 / 50e9 - within) / 3
    assert hops(node, Layout(4, 4), 16384.0) == pytest.approx((mean, 5e-6))
    assert hops(Node(H100, "vllm"), Layout(8, 2), 16384.0) == (within, 0.0)


def test_an_exchange_over_two_nodes_is_one_within_and_a_half_between() -> None:
    model, tokens = load("deepseek-r1"), np.array([512.0])
    wide, narrow = (
        exchange_seconds(Node(H100, "vllm", fabric=f), model, [layout], tokens)[0, 0]
        for f, layout in (
            (NDR, Layout(1, attention_dp=16, ep_size=16)),
            (None, Layout(1, attention_dp=8, ep_size=8)),
        )
    )
    # 58 expert layers, twice: half of 512 x 7168 x 2 bytes at 400 GB/s, and 15 us
    size = 512 * 7168 * 2
    assert wide - narrow == pytest.approx(58 * 2 * (15e-6 + size / 2 / 400e9))


def test_quantized_inputs_take_less_of_an_exchange_and_outputs_do_not() -> None:
    model, tokens, layout = load("deepseek-r1"), np.array([8192.0]), Layout(1, 1, 8, 8)
    node = Node(H100, "trtllm")
    wide, narrow = (
        exchange_seconds(node, model, [layout], tokens, size)[0, 0] for size in (2.0, 0.5625)
    )
    # 58 expert layers; nvfp4 has half a byte and a byte of scale per 16 values
    gathered = kernels.all_gather(H100, 8, 8192.0 * 7168 * np.array([2.0, 0.5625])).seconds
    assert wide - narrow == pytest.approx(58 * (gathered[0] - gathered[1]))
    between = (
        exchange_seconds(Node(H100, "vllm", fabric=f), model, [x], tokens, 1.0)[0, 0]
        for f, x in ((NDR, Layout(1, 1, 16, 16)), (None, layout))
    )
    # one byte there and two back, half of each between the nodes
    size = 8192 * 7168 * (1 + 2)
    assert next(between) - next(between) == pytest.approx(58 * (2 * 15e-6 + size / 2 / 400e9))


def test_inputs_of_weight_only_kernels_are_gathered_in_16_bits() -> None:
    catalogue = default_catalogue()
    facts = get("trtllm").scheduling(device_of(H100))
    found = {
        (gpu, name): _gathered_bytes(catalogue.gpu(gpu), name, facts)
        for gpu in ("b200", "h100", "a100-80gb")
        for name in ("nvfp4", "fp8", "fp8_block")
    }
    assert found["b200", "nvfp4"] == 0.5625  # half a byte, and a scale per 16 values
    assert found["h100", "nvfp4"] == 2.0  # no fp4 units: Marlin
    assert (found["h100", "fp8"], found["h100", "fp8_block"]) == (1.0, 2.0)
    assert found["a100-80gb", "fp8"] == 2.0


def test_several_nodes_need_a_network() -> None:
    with pytest.raises(InputError, match="2 nodes without a network; allowed: ib-hdr, ib-ndr"):
        HardwareNode(H100, 16, 2)
    with pytest.raises(InputError, match="16 x h100 in one node"):
        HardwareNode(H100, 32, 2, network("ib-ndr"))
    with pytest.raises(InputError, match="network 'fast'; allowed: ib-hdr"):
        network("fast")
    node = HardwareNode(H100, 16, 2, network("ib-ndr"))
    assert node.name == "2 nodes of 8 x h100"
    assert node.fabric == NDR
    assert HardwareNode(H100, 8).fabric is None


LAYOUTS = [Layout(8, 2), Layout(4, 4), Layout(2, 8)]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(LAYOUTS), st.integers(1, 128), st.integers(16, 8000), st.integers(2, 2000))
def test_a_slower_network_is_never_faster(
    layout: Layout, concurrency: int, isl: int, osl: int
) -> None:
    plain, _ = subject_of(Asked("llama-3.1-70b", "h100"))
    deployments = Deployments(Layouts.of([layout]), 512.0 * ONE, 8192.0 * ONE, 0.9 * ONE)
    asked = Offered(concurrency * ONE, isl * ONE, osl * ONE, 10 * concurrency * ONE)
    found = [
        sweep(replace(plain, fabric=fabric), "closed_loop", deployments, asked).e2e_latency_s[0]
        for fabric in (None, NDR, Fabric(8, network("ethernet-25")))
    ]
    assert found[0] <= found[1] * (1 + 1e-9)
    assert found[1] <= found[2] * (1 + 1e-9)


def test_what_crosses_nodes_was_never_measured() -> None:
    plain, _ = subject_of(Asked("llama-3.1-70b", "h100"))
    known = plain.calibrated.profile.knowledge
    several = replace(plain, fabric=NDR)
    assert "nodes" in known.unseen(several.asked, Layout(8, 2))
    assert "nodes" not in known.unseen(several.asked, Layout(8))
    assert "nodes" not in known.unseen(plain.asked, Layout(8, 2))
    assert known.far(several.asked, Layout(8, 2)) == "no row spans nodes"
