"""What a paste goes through on its way, and that nothing is misread on it."""

from __future__ import annotations

import re
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.errors import InputError
from shardwise.node.node import Node
from shardwise.node.reading.read import Reading, merge, read, require_something, require_whole
from shardwise.node.reading.startup import Startup

CODES = ("NV4", "NV12", "NV18", "PIX", "PXB", "PHB", "NODE", "SYS")
#: What stands before a line in other people's logs.
PREFIXES = (
    "",
    "    ",
    "> ",
    "worker-0  | ",
    "2026-05-01T20:44:30.358Z stdout F ",
    "Aug 18 13:15:02 host run[28145]: ",
    "\x1b[32m",
)
STARTUP = """\
INFO 05-15 02:12:07 [gpu_model_runner.py:5448] Model loading took 55.67 GiB memory and 44.5 seconds
INFO 05-15 02:13:17 [gpu_worker.py:462] Available KV cache memory: 19.55 GiB
INFO 05-15 02:13:18 [kv_cache_utils.py:1731] GPU KV cache size: 341,504 tokens
INFO 05-15 02:13:18 [kv_cache_utils.py:1732] Maximum concurrency for 202,752 tokens per request: \
1.68x
INFO 05-15 02:14:34 [gpu_model_runner.py:7232] Graph capturing finished in 33 secs, took 1.22 GiB
"""


def node_of(found: Reading) -> Node:
    assert found.node is not None
    return found.node


def topo(links: dict[tuple[int, int], str], count: int, nics: int = 0, tabs: bool = False) -> str:
    """A matrix as nvidia-smi prints it."""
    gap = "\t" if tabs else "    "
    names = [f"GPU{i}" for i in range(count)] + [f"NIC{i}" for i in range(nics)]
    lines = [gap.join(["", *names, "CPU Affinity", "NUMA Affinity", "GPU NUMA ID"])]
    for a in range(count):
        cells = [
            " X " if a == b else links[min(a, b), max(a, b)] if b < count else "SYS"
            for b in range(len(names))
        ]
        lines.append(gap.join([f"GPU{a}", *cells, "0-31", "0", *([""] if tabs else []), "N/A"]))
    return "\n".join(lines) + "\n"


@st.composite
def matrices(draw: st.DrawFn) -> tuple[int, dict[tuple[int, int], str]]:
    count = draw(st.integers(2, 8))
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    return count, {p: draw(st.sampled_from(CODES)) for p in pairs}


def said(found: Reading) -> dict[tuple[int, int], str]:
    return {p: link.code for p, link in node_of(found).links.items()}


@settings(max_examples=40)
@given(matrices(), st.integers(0, 4), st.booleans(), st.sampled_from(PREFIXES))
def test_any_matrix_is_read_as_it_was_printed(
    matrix: tuple[int, dict[tuple[int, int], str]], nics: int, tabs: bool, prefix: str
) -> None:
    count, links = matrix
    text = "".join(f"{prefix}{line}\n" for line in topo(links, count, nics, tabs).splitlines())
    found = read(text)
    assert said(found) == links
    assert not found.problems
    assert {d.numa for d in node_of(found).devices} == {0}
    assert {d.cpus for d in node_of(found).devices} == {"0-31"}


@settings(max_examples=40)
@given(matrices(), st.data())
def test_a_cut_matrix_is_an_error_with_its_line_and_says_nothing_false(
    matrix: tuple[int, dict[tuple[int, int], str]], data: st.DataObject
) -> None:
    """Cut between two cells: what is left agrees with the whole."""
    count, links = matrix
    lines = topo(links, count).splitlines()
    row = data.draw(st.integers(1, count))
    kept = data.draw(st.integers(1, count - 1))
    words = lines[row].split()
    text = "\n".join([*lines[:row], "    ".join(words[: kept + 1])])
    found = read(text)
    assert found.problems[0].line == row + 1
    assert said(found).items() <= links.items()
    unknown = set(links) - set(said(found))
    assert set(found.unknown_pairs) == unknown
    if unknown:
        with pytest.raises(InputError, match=f"line {row + 1}: "):
            require_whole(found)


@settings(max_examples=40)
@given(st.text(max_size=400))
def test_no_text_is_an_error_of_ours(text: str) -> None:
    read(text)


@pytest.mark.parametrize("width", [40, 61, 80])
def test_rows_that_a_terminal_wrapped_are_read_whole(width: int) -> None:
    links = {(a, b): CODES[(a + b) % len(CODES)] for a in range(8) for b in range(a + 1, 8)}
    lines = topo(links, 8, nics=8).splitlines()
    text = "\n".join(
        piece for line in lines for piece in textwrap.wrap(line, width, drop_whitespace=True)
    )
    found = read(text)
    assert said(found) == links
    assert not found.problems


def test_columns_that_lost_their_blanks_are_read() -> None:
    text = "GPU0GPU1GPU2CPU AffinityNUMA Affinity\nGPU0 XNV12SYS 0-15 0\nGPU1 NV12XSYS 0-15 0\n"
    found = read(text + "GPU2 SYSSYSX 16-31 1\n")
    assert said(found) == {(0, 1): "NV12", (0, 2): "SYS", (1, 2): "SYS"}
    assert [d.numa for d in node_of(found).devices] == [0, 0, 1]


def test_a_matrix_without_its_header_is_read_by_its_diagonal() -> None:
    found = read("GPU0  X  PIX  SYS\nGPU1  PIX  X  SYS\nGPU2  SYS  SYS  X\n")
    assert said(found) == {(0, 1): "PIX", (0, 2): "SYS", (1, 2): "SYS"}


def test_older_names_of_links_and_network_cards() -> None:
    found = read(
        "      GPU0 GPU1 mlx5_0 mlx5_bond_0 CPU Affinity\nGPU0 X SOC PIX SOC 0-9,20-29\n"
        "GPU1 SOC X SOC PIX 10-19,30-39\nmlx5_0 PIX SOC X SOC\nmlx5_bond_0 SOC PIX SOC X\n"
    )
    assert said(found) == {(0, 1): "SYS"}
    assert [d.cpus for d in node_of(found).devices] == ["0-9,20-29", "10-19,30-39"]
    assert node_of(found).nic_links[0, "mlx5_0"].code == "PIX"


def test_the_nvlink_form_of_p2p_says_nothing_of_peer_access() -> None:
    table = "  GPU0 GPU1\n GPU0 X NS\n GPU1 NS X\n"
    assert node_of(read(f"$ nvidia-smi topo -p2p r\n{table}")).reaches(0, 1) is False
    assert read(f"$ nvidia-smi topo -p2p n\n{table}").node is None


def test_amd_smi_s_tables() -> None:
    found = read("""\
ACCESS TABLE:
             0000:03:00.0 0000:0c:00.0
0000:03:00.0 ENABLED      DISABLED
0000:0c:00.0 DISABLED     ENABLED
WEIGHT TABLE:
             0000:03:00.0 0000:0c:00.0
0000:03:00.0 0            40
0000:0c:00.0 40           0
HOPS TABLE:
             0000:03:00.0 0000:0c:00.0
0000:03:00.0 0            2
0000:0c:00.0 2            0
LINK TYPE TABLE:
             0000:03:00.0 0000:0c:00.0
0000:03:00.0 SELF         PCIE
0000:0c:00.0 PCIE         SELF
NUMA BW TABLE:
             0000:03:00.0 0000:0c:00.0
0000:03:00.0 N/A          N/A
0000:0c:00.0 N/A          N/A
""")
    assert said(found) == {(0, 1): "PCIE"}
    assert node_of(found).reaches(0, 1) is False
    assert not found.problems


def test_an_nvidia_smi_table() -> None:
    found = read("""\
| NVIDIA-SMI 550.54.15        Driver Version: 550.54.15      CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------|
|   0  NVIDIA H100 80GB HBM3          On  |   00000000:18:00.0 Off |              0 |
| N/A   30C    P0              71W / 700W |       4MiB /  81559MiB |   0%   Default |
|                                         |                        |       Disabled |
|   1  NVIDIA H100 80GB HBM3          On  |   00000000:2A:00.0 Off |              0 |
| N/A   31C    P0              70W / 700W |   70123MiB /  81559MiB |   0%   Default |
|                                         |                        |        Enabled |
| Processes:                                                                        |
|    1   N/A  N/A     12345      C   python                              70100MiB |
""")
    first, second = node_of(found).devices
    assert first.name == "NVIDIA H100 80GB HBM3"
    assert first.memory_bytes == 81559 * 2**20
    assert second.used_bytes == 70123 * 2**20
    assert second.power_cap_w == 700
    assert (first.mig, second.mig) == (False, True)
    assert found.versions["driver"] == "550.54.15"


def test_lscpu_in_any_language() -> None:
    found = read("NUMA node0 CPU(s):   0-23,48-71\nNUMA 节点1 CPU：  24-47,72-95\nSocket(s): 2\n")
    assert node_of(found).host.numa_cpus == {0: "0-23,48-71", 1: "24-47,72-95"}
    assert node_of(found).host.sockets == 2


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_start_up_log_behind_any_prefix(prefix: str) -> None:
    text = "".join(f"{prefix}{line}\n" for line in STARTUP.splitlines())
    (start,) = read(text).startups
    check_startup(start)


def check_startup(start: Startup) -> None:
    gib = 2.0**30
    assert start.weights_bytes == pytest.approx(55.67 * gib)
    assert start.kv_bytes == pytest.approx(19.55 * gib)
    assert start.kv_tokens == 341504
    assert start.concurrency == 1.68
    assert start.graph_bytes == pytest.approx(1.22 * gib)


@pytest.mark.parametrize("width", [64, 72, 80])
def test_a_start_up_log_that_a_terminal_cut_in_the_middle_of_words(width: int) -> None:
    cut = [line[i : i + width] for line in STARTUP.splitlines() for i in range(0, len(line), width)]
    (start,) = read("\n".join(cut)).startups
    check_startup(start)


def test_units_of_either_kind_mean_the_same_in_a_log() -> None:
    """Both engines divide by 2**30 and some of their versions print GB."""
    sizes = {
        read(f"Model loading took {size} and 1.0 seconds").startups[0].weights_bytes
        for size in ("8.5 GiB", "8.5 GB", "8704 MiB", "8.5GiB memory")
    }
    assert sizes == {8.5 * 2**30}


def test_ranks_are_counted_and_their_weights_are_not_added_up() -> None:
    text = "".join(
        f"(Worker_TP{rank}_EP{rank} pid={900 + rank}) INFO Model loading took 10.0 GiB memory\n"
        for rank in range(4)
    )
    (start,) = read(text).startups
    assert start.weights_bytes == 10 * 2**30
    assert (start.processes, start.tp_at_least) == (4, 4)


def test_a_drafter_of_sglang_is_no_second_start() -> None:
    (start,) = read("""\
[2026-02-26 15:41:06 TP0] Load weight end. type=LlamaForCausalLM, avail mem=60 GB, mem usage=17 GB.
[2026-02-26 15:41:18 TP0] KV Cache is allocated. #tokens: 171008, K size: 5.22 GB, V size: 5.22 GB
[2026-02-26 15:41:30 TP0] Load weight end. type=LlamaEagle, avail mem=40.0 GB, mem usage=1.0 GB.
[2026-02-26 15:41:31 TP0] KV Cache is allocated. #tokens: 171008, K size: 0.33 GB, V size: 0.33 GB
""").startups
    assert start.weights_bytes == 17 * 2**30
    assert start.kv_bytes == pytest.approx(10.44 * 2**30)
    assert start.draft_kv_bytes == pytest.approx(0.66 * 2**30)


def test_arguments_come_from_command_lines_too() -> None:
    (start,) = read("""\
$ python3 -m sglang.launch_server --model-path Qwen/Qwen3-8B \\
    --tp-size 2 --mem-fraction-static=0.8 --api-key secret
[2026-02-26 15:41:06 TP0] Memory pool end. avail mem=12.00 GB
""").startups
    assert start.args == {
        "model": "Qwen/Qwen3-8B",
        "tensor_parallel_size": 2,
        "mem_fraction_static": 0.8,
    }


def test_why_the_engine_s_own_all_reduce_is_off_is_kept() -> None:
    (start,) = read(
        "WARNING [custom_all_reduce.py:154] Custom allreduce is disabled because it's not "
        "supported on more than two PCIe-only GPUs. To silence this warning, specify "
        "disable_custom_all_reduce=True explicitly.\n"
    ).startups
    assert start.custom_all_reduce is False
    assert start.said["custom_off"] == "it's not supported on more than two PCIe-only GPUs"


def test_text_that_says_nothing_is_refused_with_what_is_read() -> None:
    with pytest.raises(InputError, match="nvidia-smi topo -m"):
        require_something(read("hello\nworld\n", "notes.txt"))


def test_two_pastes_of_one_machine_are_one_reading() -> None:
    names = read("GPU 0: NVIDIA L40S (UUID: GPU-1)\nGPU 1: NVIDIA L40S (UUID: GPU-2)\n")
    links = read("  GPU0 GPU1\nGPU0 X PHB\nGPU1 PHB X\n")
    both = node_of(merge([names, links]))
    assert [d.name for d in both.devices] == ["NVIDIA L40S"] * 2
    assert both.links[0, 1].code == "PHB"


def test_pastes_of_two_machines_are_refused() -> None:
    two = read("  GPU0 GPU1\nGPU0 X PHB\nGPU1 PHB X\n", "a.txt")
    three = read(topo({(0, 1): "PIX", (0, 2): "SYS", (1, 2): "SYS"}, 3), "b.txt")
    with pytest.raises(InputError, match=re.escape("a.txt: 2 GPUs, b.txt: 3 GPUs")):
        merge([two, three])
