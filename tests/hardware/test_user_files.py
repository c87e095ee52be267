"""Users' own TOML: the how-to's example loads; each mistake is one line naming file and key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shardwise.errors import InputError
from shardwise.hardware.catalogue import load_catalogue
from shardwise.hardware.user_files import own_hardware

PAGE = Path(__file__).parents[2] / "docs/howto/hardware.md"


def example() -> str:
    block = re.search(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert block is not None
    return block[1]


def test_the_howto_example_adds_a_gpu_and_prices(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(example())
    catalogue = load_catalogue([path])
    assert catalogue.gpu("MI308X OAM").memory_bandwidth == pytest.approx(5.3e12)
    price = catalogue.price("a100")
    assert price is not None
    assert (price.usd_per_hour, price.source) == (1.25, "mine.toml")


def test_a_users_price_replaces_the_default_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[price]]\ngpu = "H200 SXM"\ncost = { value = 3, unit = "USD/h" }\n')
    catalogue = load_catalogue([path])
    price = catalogue.price("h200")
    assert price is not None
    assert price.usd_per_hour == 3
    assert len(catalogue.prices("h200")) == 4  # three of the survey and this one


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('{ value = 650, unit = "W" }', "{ value = 650 }", r"tdp.*unit.*allowed keys"),
        ('{ value = 650, unit = "W" }', '{ unit = "W" }', r"tdp.*value.*allowed keys"),
        ('{ value = 650, unit = "W" }', '{ value = -1, unit = "W" }', r"tdp.*-1.*above 0"),
        ('{ value = 650, unit = "W" }', '{ value = nan, unit = "W" }', r"tdp.*nan.*above 0"),
        ('{ value = 650, unit = "W" }', '{ value = 650, unit = "GB" }', r"tdp.*GB.*allowed: W"),
        ('{ value = 650, unit = "W" }', '{ value = "x", unit = "W" }', r"tdp.value.*float"),
        ('value = 188, unit = "TFLOPS"', 'value = 188, unit = "PFLOPS"', r"bf16.*check its unit"),
        ("node_gpus = 8", "node_gpus = 9", r"node_gpus: 9.*1 to 8"),
        ("node_gpus = 8", "nodes = 8", r"gpu.mi308x.*`nodes`.*node_gpus"),
        ("flops.fp8", "flops.fp7", r"flops.*fp7.*fp8"),
        ("interconnect.links = 7", "interconnect.links = 6", r"links: 6.*one per peer"),
        ('"full_mesh"', '"ring"', r"topology.*ring"),
        ('"2026-05-18"', '"yesterday"', r"memory.*yesterday.*YYYY-MM-DD"),
        ('gpu = "a100-80gb"', 'gpu = "a100-80"', r"price 2.*a100-80.*a100-80gb"),
        ("[[price]]", "[[prices]]", r"prices.*gpu, price"),
        ("value = 80,", "value = 80.5,", r"compute_units.*80.5.*whole"),
        ("[gpu.mi308x]", "[gpu.mi308x", r"not TOML"),
    ],
)
def test_each_mistake_is_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "mine.toml"
    assert old in example()
    path.write_text(example().replace(old, new))
    with pytest.raises(InputError, match=says) as caught:
        load_catalogue([path])
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.toml"):
        load_catalogue([tmp_path / "gone.toml"])


OWN = """
[gpu.{id}]
vendor = "cpu"
memory = {{ value = 12, unit = "GB" }}
memory_bandwidth = {{ value = 40, unit = "GB/s" }}
flops.bf16 = {{ value = 400, unit = "GFLOPS" }}
flops.fp32 = {{ value = 200, unit = "GFLOPS" }}
compute_units = {{ value = 1, unit = "1" }}
interconnect.topology = "switched"
interconnect.max_world = 2
interconnect.bandwidth = {{ value = 6, unit = "GB/s" }}
[[gpu.{id}.all_reduce]]
world_size = 2
latency = {{ value = 20, unit = "us" }}
bandwidth = {{ value = 5, unit = "GB/s" }}
"""


def test_files_in_the_users_hardware_folder_are_read_by_name_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDWISE_HOME", str(tmp_path))
    assert own_hardware() == ()
    folder = tmp_path / "hardware"
    folder.mkdir()
    for name in ("b", "a"):
        (folder / f"{name}.toml").write_text(OWN.format(id=f"cpu-{name}"))
    assert own_hardware() == (folder / "a.toml", folder / "b.toml")
    gpu = load_catalogue(own_hardware()).gpu("cpu-a")
    assert gpu.all_reduce[2].latency_s == pytest.approx(20e-6)
    assert gpu.all_reduce[2].bytes_per_s == pytest.approx(5e9)
    assert gpu.tdp_w == 0  # not known


def test_fp32_has_a_rate_of_its_own_only_where_it_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN.format(id="mine"))
    known = load_catalogue([path])
    assert known.gpu("mine").matrix_rate("fp32") == pytest.approx(200e9)
    assert known.gpu("h200").matrix_rate("fp32") == known.gpu("h200").matrix_rate("bf16")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("world_size = 1", r"all_reduce: world_size 1; allowed: 2 or more"),
        ("world_sizes = 2", r"all_reduce.*world_size"),
    ],
)
def test_an_all_reduce_that_means_nothing_is_one_line(
    tmp_path: Path, wrong: str, says: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN.format(id="mine").replace("world_size = 2", wrong))
    with pytest.raises(InputError, match=says):
        load_catalogue([path])
