"""A node's tables: what was said is shown, and nothing that was not."""

from __future__ import annotations

from shardwise.doctor.diagnosis import diagnose
from shardwise.node.reading.read import read
from shardwise.reports.doctor_tables import device_table, link_table, startup_table, verdict_table
from shardwise.reports.table import Table

PAIRS = """\
        GPU0    GPU1    GPU2    GPU3    CPU Affinity    NUMA Affinity
GPU0     X      NV12    SYS     SYS     0-31    0
GPU1    NV12     X      SYS     SYS     0-31    0
GPU2    SYS     SYS      X      NV12    32-63   1
GPU3    SYS     SYS     NV12     X      32-63   1
"""


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_only_columns_that_something_was_said_of() -> None:
    node = read(PAIRS).node
    assert node is not None
    table = device_table(node)
    assert [column.title for column in table.columns] == ["GPU", "name", "NUMA", "CPUs"]
    assert texts(table)[2] == ["2", "not said", "1", "32-63"]


def test_usable_memory_is_the_catalogue_s() -> None:
    node = read("GPU 0: NVIDIA H100 NVL (UUID: GPU-1)\n").node
    assert node is not None
    assert texts(device_table(node)) == [["0", "NVIDIA H100 NVL", "93.1"]]


def test_links_are_a_square_with_a_legend_of_what_is_there() -> None:
    node = read(PAIRS).node
    assert node is not None
    table = link_table(node)
    assert texts(table)[0] == ["GPU0", "X", "NV12", "SYS", "SYS"]
    assert table.notes == ("NV#: number of NVLinks; SYS: between CPU sockets",)


def test_engines_that_do_the_same_share_a_row() -> None:
    engines = ("vllm", "sglang")
    table = verdict_table(diagnose(read(PAIRS), engines), engines)
    rows = texts(table)
    assert [row[:4] for row in rows] == [
        ["2", "0,1  2,3", "NV12", "vllm"],
        ["2", "0,1  2,3", "NV12", "sglang"],
        ["4", "0,1,2,3", "SYS", "vllm, sglang"],
    ]
    assert "NCCL through host memory" in rows[2]
    assert any("A100 80GB in bridged pairs" in note for note in table.notes)


def test_a_failed_start_says_why_and_what_fits() -> None:
    starts = read(
        "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens "
        "that can be stored in KV cache (86432).\n"
    ).startups
    (row,) = texts(startup_table(starts))
    assert row[-1] == (
        "failed: max_model_len 131072 is above the 86432 tokens of the cache; 86,432 tokens fit"
    )
