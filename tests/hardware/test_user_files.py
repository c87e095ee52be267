"""Users' own TOML: the how-to's example loads; each mistake is one line naming file and key."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from shardwise.cli.plan import plan
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
        ('value = 188, unit = "TFLOPS"', 'value = 188, unit = "PFLOPS"', r"bf16.*check the units"),
        ("node_gpus = 8", "node_gpus = 9", r"node_gpus: 9.*1 to 8"),
        ("node_gpus = 8", "nodes = 8", r"gpu.mi308x.*`nodes`.*node_gpus"),
        ("flops.fp8", "flops.fp7", r"flops.*fp7.*fp8"),
        ("interconnect.links = 7", "interconnect.links = 6", r"links: 6.*one per peer"),
        ('"full_mesh"', '"ring"', r"topology.*ring"),
        (
            "value = 188, unit",
            "value = 188e12, unit",
            r"bf16: 1.88e\+14 TFLOPS.*plausible: .*TFLOPS",
        ),
        ("value = 188, unit", "value = 0.188, unit", r"bf16: 0.188 TFLOPS with.*plausible: 10.6"),
        ('5.3, unit = "TB/s"', '5300, unit = "TB/s"', r"memory_bandwidth: 5300 TB/s.*to 500 TB/s"),
        ('448, unit = "GB/s"', '448e9, unit = "GB/s"', r"bandwidth: 4.48e\+11 GB/s.*to 50000 GB/s"),
        ("value = 192, unit", "value = 1.92, unit", r"usable_memory: 206.142 GB of.*1.92 GB"),
        (
            "value = 196592",
            "value = 96592",
            r"usable_memory: 101.284 GB of.*192 GB; plausible: 144",
        ),
        ('196592, unit = "MiB"', '196592, unit = "GiB"', r"196592 GiB.*not a plausible memory"),
        ('650, unit = "W"', '650e6, unit = "W"', r"tdp: 6.5e\+08 W.*to 20000 W"),
        ('1.10, unit = "USD/h"', '1.1e6, unit = "USD/h"', r"price 1.cost.*1.1e\+06 USD/h.*10000"),
        ("flops.bf16", "flops.fp32", r"flops: no 16-bit rate.*flops.fp16"),
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


ISLAND = """
interconnect.island.gpus = {gpus}
interconnect.island.bandwidth = {{ value = 300, unit = "GB/s" }}
"""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('compute_capability = { value = "9" }', r"compute_capability: value '9'.*\"9.0\""),
        ("compute_capability = 9.0", r"compute_capability.*object"),
        ('released = { value = "soon" }', r"released: value 'soon'.*YYYY"),
        ('status = "rumoured"', r"status.*rumoured"),
        (ISLAND.format(gpus=8), r"island.gpus: 8; allowed: 2 to 7"),
        (ISLAND.format(gpus=2).replace("300", "-3"), r"island.bandwidth: value -3.*above 0"),
        ("interconnect.island.size = 2", r"island.*size.*allowed keys: gpus, bandwidth"),
    ],
)
def test_each_mistake_in_what_may_be_left_out_is_one_line(
    tmp_path: Path, line: str, says: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(example().replace("node_gpus = 8", f"node_gpus = 8\n{line}"))
    with pytest.raises(InputError, match=says) as caught:
        load_catalogue([path])
    assert "\n" not in str(caught.value)


def test_what_may_be_left_out_is_not_known_rather_than_guessed(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN.format(id="mine"))
    gpu = load_catalogue([path]).gpu("mine")
    assert (gpu.kv_fp8, gpu.compute_capability, gpu.released) == (None, None, "")
    assert (gpu.l2_cache_bytes, gpu.interconnect.island) == (0, None)


@pytest.mark.parametrize(
    ("line", "can"),
    [
        ('compute_capability = { value = "8.6" }', False),
        ('compute_capability = { value = "8.9" }', True),
        ('llvm_target = { value = "gfx90a" }', False),
        ('llvm_target = { value = "gfx942" }', True),
        ('compute_capability = { value = "8.6" }\nkv_fp8 = true', True),
    ],
)
def test_an_fp8_cache_follows_from_the_instruction_set(
    tmp_path: Path, line: str, can: bool
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(example().replace("node_gpus = 8", f"node_gpus = 8\n{line}"))
    assert load_catalogue([path]).gpu("mi308x").kv_fp8 is can


def test_a_users_gpu_in_one_file_can_be_planned_for(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(example())
    asked = ["llama-3.1-8b", "--gpu", "mi308x", "--gpus", "8", "--isl", "512", "--osl", "128"]
    done = CliRunner().invoke(plan, [*asked, "--catalogue", str(path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["ranked"][0]["evidence"]
    assert found["deployment"]["gpu"] == "mi308x"
    assert found["source"]["kind"] == "predicted"


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
