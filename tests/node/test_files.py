"""Node files: what is written is what is read, and what cannot be used is refused in one line."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.errors import InputError
from shardwise.node.files import read, to_toml, write
from shardwise.node.links import Link
from shardwise.node.node import Device, Host, Node

LINKS = st.one_of(
    st.builds(Link, st.just("NVLINK"), st.integers(1, 18)),
    st.builds(Link, st.just("XGMI"), hops=st.sampled_from([1, 2, 3, None])),
    st.builds(Link, st.sampled_from(["PIX", "PXB", "PHB", "NODE", "PCIE", "SYS"])),
)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    count = draw(st.integers(1, 6))
    pairs = list(combinations(range(count), 2))
    devices = tuple(
        Device(
            i,
            name=draw(WORDS),
            memory_bytes=draw(st.none() | st.integers(1, 300_000).map(lambda m: m * 2.0**20)),
            numa=draw(st.none() | st.integers(0, 7)),
            cpus=draw(st.sampled_from(["", "0-31,64-95"])),
            pcie_gen=draw(st.none() | st.integers(1, 6)),
        )
        for i in range(count)
    )
    links = {p: draw(LINKS) for p in pairs if draw(st.booleans())}
    peers = {p: draw(st.booleans()) for p in pairs if draw(st.booleans())}
    host = Host(cpu_name=draw(WORDS), sockets=draw(st.none() | st.integers(1, 4)))
    return Node(devices, links, peers, host=host)


@settings(max_examples=40)
@given(nodes())
def test_a_node_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, node: Node
) -> None:
    path = tmp_path_factory.mktemp("node") / "node.toml"
    write(path, node)
    assert read(path) == node
    assert not path.with_name("node.toml.partial").exists()


def test_the_file_is_one_that_a_person_writes() -> None:
    node = Node(
        (Device(0, name="NVIDIA L40S", numa=0), Device(1, name="NVIDIA L40S", numa=1)),
        {(0, 1): Link("SYS")},
        {(0, 1): False},
    )
    assert (
        to_toml(node)
        == """\
[[device]]
index = 0
name = "NVIDIA L40S"
numa = 0

[[device]]
index = 1
name = "NVIDIA L40S"
numa = 1

[links]  # NV#: bonded NVLinks; XGMI; PIX, PXB, PHB, NODE, SYS as nvidia-smi topo -m
0-1 = "SYS"

[peer_access]
0-1 = false
"""
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "device"),
        ("device = []", r"no \[\[device\]\]"),
        ("[[device]]\nindex = 0\nspeed = 3", "speed"),
        ('[[device]]\nindex = 0\n[links]\n0-1 = "PIX"', "link 0-1"),
        ('[[device]]\nindex = 0\n[[device]]\nindex = 1\n[links]\n0-1 = "FAST"', "allowed: NV1"),
        ('[[device]]\nindex = 0\n[[device]]\nindex = 1\n[links]\nab = "PIX"', "pair 'ab'"),
        ("[[device]]\nindex = 0\n[[device]]\nindex = 0", "two GPUs have one index"),
        ("[[device", "not TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=said) as refused:
        read(path)
    assert "node.toml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "none.toml")
