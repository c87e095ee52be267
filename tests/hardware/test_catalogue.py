"""The bundled catalogue, prices, topology and nodes."""

from __future__ import annotations

import csv

import pytest
from msgspec.structs import replace
from tests.reference import FOLDER, needs_reference

from shardwise.errors import InputError, UnknownNameError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.node import Node

CATALOGUE = default_catalogue()
IDS = [gpu.id for gpu in CATALOGUE.gpus()]
DATACENTER = ["h100", "h200", "h20", "h100-pcie", "h100-nvl", "h200-nvl", "b200", "b300", "gb200"]
DATACENTER += ["gb300", "a100-80gb", "a100-40gb", "a100-pcie", "a10", "l40s", "l4", "t4"]
DATACENTER += ["h800", "h20-141gb", "a800-80gb", "a40", "l40", "l20", "v100-16gb", "v100-32gb"]
DATACENTER += ["mi300x", "mi325x", "mi350x", "mi355x"]
DESK = [
    "rtx-a6000",
    "rtx-6000-ada",
    "rtx-3090",
    "rtx-4090",
    "rtx-5090",
    "rtx-pro-6000",
    "gb10",
    "arc-pro-b60",
]


def test_what_people_run_models_on_is_there() -> None:
    assert set(DATACENTER + DESK) <= set(IDS)


def test_measured_links_are_taken_from_hopper_first() -> None:
    # A GPU without all-reduce rows of its own takes those of the first with the same links.
    assert IDS[0] == "h100"


@needs_reference
@pytest.mark.parametrize(
    ("file", "column"),
    [("field_cases.csv", "gpu"), ("serving_2026.csv", "gpu_id"), ("collectives.csv", "gpu")],
)
def test_every_gpu_of_the_reference_rows_is_known(file: str, column: str) -> None:
    with (FOLDER / file).open(encoding="utf-8") as rows:
        named = {row[column] for row in csv.DictReader(rows)} - {"any"}
    assert named <= set(IDS)


@pytest.mark.parametrize(
    ("gpu_id", "known_as", "driver_mib"),
    [
        ("rtx-4090", 24, 24564),
        ("h200", 141, 143771),
        ("mi300x", 192, 196592),
        ("mi355x", 288, 294896),
        ("rtx-pro-6000", 96, 97887),
        ("h100-nvl", 94, 95830),
    ],
)
def test_memory_as_sold_stands_beside_the_drivers(
    gpu_id: str, known_as: float, driver_mib: int
) -> None:
    gpu = CATALOGUE.gpu(gpu_id)
    assert (gpu.memory_nameplate_gb, gpu.memory_bytes) == (known_as, driver_mib * 2**20)


def test_engines_see_less_than_the_driver_where_the_runtime_reports_it() -> None:
    # vLLM 0.6.5 and 0.8 printed a total of 79.15 to 79.22 GiB on 80 GB cards.
    assert CATALOGUE.gpu("h100").visible_memory_bytes / 2**30 == pytest.approx(79.18, abs=0.05)
    v100 = CATALOGUE.gpu("v100-32gb")  # no runtime figure is known
    assert v100.visible_memory_bytes == v100.memory_bytes


@pytest.mark.parametrize("gpu_id", ["a100-80gb", "a10", "rtx-3090", "t4", "v100-32gb"])
def test_an_fp8_cache_is_impossible_before_ada(gpu_id: str) -> None:
    assert CATALOGUE.gpu(gpu_id).kv_fp8 is False


@pytest.mark.parametrize("gpu_id", ["l4", "rtx-4090", "h20", "b200", "gb10", "mi300x", "mi355x"])
def test_an_fp8_cache_is_possible_from_ada_and_cdna3_on(gpu_id: str) -> None:
    assert CATALOGUE.gpu(gpu_id).kv_fp8 is True


@pytest.mark.parametrize(
    ("gpu_id", "formats"),
    [
        ("mi355x", ("mxfp4",)),
        ("mi350x", ("mxfp4",)),
        ("b200", ("mxfp4", "nvfp4")),
        ("gb10", ("mxfp4", "nvfp4")),
        ("h200", ()),
        ("mi300x", ()),
    ],
)
def test_four_bit_formats_are_native_from_blackwell_and_cdna4_on(
    gpu_id: str, formats: tuple[str, ...]
) -> None:
    assert CATALOGUE.gpu(gpu_id).fp4_formats == formats


def test_a_gpu_without_bf16_computes_16_bits_at_its_fp16_rate() -> None:
    assert CATALOGUE.gpu("t4").matrix_rate("bf16") == 65e12
    assert CATALOGUE.gpu("t4").matrix_rate("fp8") == 65e12


def test_announced_gpus_say_so() -> None:
    announced = {gpu.id for gpu in CATALOGUE.gpus() if gpu.status == "announced"}
    assert announced == {"mi455x", "vr200"}


def test_a_fitted_bridge_is_used_within_the_pair_only() -> None:
    link = CATALOGUE.gpu("h100-nvl").interconnect  # 600 GB/s both ways; PCIe 5.0 x16 beyond
    assert [link.peer_bandwidth(tp) / 1e9 for tp in (2, 4)] == [300, 64]
    assert [link.topology_of(tp) for tp in (2, 4)] == ["full_mesh", "pcie"]


def test_an_optional_bridge_is_not_assumed() -> None:
    link = CATALOGUE.gpu("rtx-3090").interconnect
    assert link.island is not None
    assert link.peer_bandwidth(2) == 32e9
    assert replace(link, island=replace(link.island, fitted=True)).peer_bandwidth(2) == 56.25e9


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
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx-pro-6000"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA H20-3e", "h20-141gb"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA GB10", "gb10"),
        ("DGX Spark", "gb10"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("Intel Arc Pro B60", "arc-pro-b60"),
    ],
)
def test_common_spellings_are_recognised(spelling: str, gpu_id: str) -> None:
    assert CATALOGUE.gpu(spelling).id == gpu_id


def test_an_unknown_gpu_is_refused_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match="mi300x"):
        CATALOGUE.gpu("mi300z")


@pytest.mark.parametrize(("tp_size", "gb_per_s"), [(2, 64), (4, 192), (8, 448)])
def test_a_mesh_uses_one_link_per_peer(tp_size: int, gb_per_s: float) -> None:
    # MI300X: 7 links of 64 GB/s; TP=n reaches n-1 peers, one link each.
    rate = CATALOGUE.gpu("mi300x").interconnect.peer_bandwidth(tp_size)
    assert rate == pytest.approx(gb_per_s * 1e9)


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
