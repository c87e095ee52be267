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


def test_columns_that_run_into_each_other_and_three_dozen_network_cards() -> None:
    nics = [f"NIC{i}" for i in range(36)]
    header = "        GPU0    GPU1    " + "    ".join(nics[:12]) + "NIC12" + "".join(nics[13:])
    row = "    ".join(["NODE"] * 10) + "NODENODE" + "SYS" * 22 + "    NODEPIX"
    found = read(
        f"{header}    CPU Affinity    NUMA Affinity   GPU NUMA ID\n"
        f"GPU0     X      NV18    {row}     0-55,112-167    0               N/A\n"
        f"GPU1    NV18     X      {row}     0-55,112-167    1               N/A\n"
    )
    assert said(found) == {(0, 1): "NV18"}
    assert [d.numa for d in node_of(found).devices] == [0, 1]
    assert not found.problems
    assert node_of(found).nic_links[1, "NIC35"].code == "PIX"


def test_an_empty_cpu_column_between_tabs_is_no_numa_node() -> None:
    found = read(
        "\t\x1b[4mGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\n"
        "GPU0\t X \tNV18\t0-35\t0\t\tN/A\nGPU1\tNV18\t X \t\t1\t\tN/A\n"
    )
    assert [(d.cpus, d.numa) for d in node_of(found).devices] == [("0-35", 0), ("", 1)]


def test_one_gpu_with_its_affinity() -> None:
    header = "\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
    found = read(f"{header}GPU0\t X \t0-7\t\tN/A\t\tN/A\n")
    (device,) = node_of(found).devices
    assert (device.cpus, device.numa, device.gpu_numa_id) == ("0-7", None, None)


def test_sockets_between_xgmi_cliques() -> None:
    """rocm-smi: four and four, PCIE between them."""
    names = "       " + "".join(f"GPU{i}         " for i in range(4))
    rows = [("0", "XGMI", "PCIE", "PCIE"), ("XGMI", "0", "PCIE", "PCIE")]
    rows += [("PCIE", "PCIE", "0", "XGMI"), ("PCIE", "PCIE", "XGMI", "0")]
    table = "\n".join(f"GPU{i}   " + "".join(f"{c:13}" for c in row) for i, row in enumerate(rows))
    title, end = "==== Link Type between two GPUs ====", "==== Numa Nodes ===="
    found = read(f"{title}\n{names}\n{table}\n{end}\n")
    assert said(found)[0, 2] == "PCIE"
    assert said(found)[2, 3] == "XGMI/?"
    assert not found.problems


def test_amd_smi_static_blocks() -> None:
    found = read("""\
GPU: 0
    ASIC:
        MARKET_NAME: AMD Instinct MI300X
    BUS:
        BDF: 0000:05:00.0
        MAX_PCIE_WIDTH: 16
    VRAM:
        TYPE: HBM
        SIZE: 196592 MB
    NUMA:
        NODE: 1
""")
    (device,) = node_of(found).devices
    assert (device.name, device.bus_id) == ("AMD Instinct MI300X", "0000:05:00.0")
    assert (device.numa, device.pcie_width) == (1, 16)
    assert device.memory_bytes == 196592 * 2**20


def test_a_hypervisor_behind_two_colons_and_builds_without_a_version() -> None:
    versions = "vLLM Version: 0.6.1.post2@9ba0817ff1\nsglang: 0.5.7\n"
    found = read(f"Hypervisor vendor:: KVM\n{versions}")
    assert node_of(found).host.hypervisor == "KVM"
    assert found.versions == {"vllm": "0.6.1.post2", "sglang": "0.5.7"}


def test_the_profile_of_a_newer_vllm_and_a_negative_cache() -> None:
    (start,) = read(
        "DEBUG Memory profiling takes 1.21 seconds. Total non KV cache memory: 11.76GiB; torch "
        "peak memory increase: 0.71GiB; non-torch forward increase memory: 0.21GiB; weights "
        "memory: 10.84GiB.\nINFO [gpu_worker.py:462] Available KV cache memory: -0.19 GiB\n"
    ).startups
    gib = 2.0**30
    assert start.weights_bytes == pytest.approx(10.84 * gib)
    assert start.activation_bytes == pytest.approx(0.71 * gib)
    assert start.non_torch_bytes == pytest.approx((0.21 * gib, 0.21 * gib))
    assert start.kv_bytes == pytest.approx(-0.19 * gib)


def test_sglang_s_last_lines() -> None:
    (start,) = read("""\
[2025-07-14 05:48:43] Load weight begin. avail mem=22.60 GB
[2025-07-14 05:48:43] KV Cache is allocated. dtype: torch.float8_e4m3fn, #tokens: 38141
[2025-07-14 05:48:44] Capture target verify CUDA graph begin. avail mem=0.93 GB
[2025-07-14 05:49:02] Capture target verify CUDA graph end. Time elapsed: 18 s. mem usage=0.11 GB. \
avail mem=0.83 GB.
[2025-07-14 05:49:08] Capture draft decode CUDA graph end. mem usage=0.04 GB. avail mem=0.79 GB.
[2025-07-14 05:49:02] max_total_num_tokens=38141, chunked_prefill_size=2048, context_len=8192
""").startups
    gib = 2.0**30
    assert start.kv_tokens == 38141
    assert start.graph_bytes == pytest.approx(0.15 * gib)
    assert start.total_bytes == pytest.approx(22.6 * gib)
    assert start.max_model_len == 8192


def test_one_line_with_tokens_and_concurrency() -> None:
    (start,) = read(
        "(EngineCore pid=9) INFO [kv_cache_utils.py:1731] GPU KV cache size: 955,000 tokens, "
        "Maximum concurrency for 9,216 tokens per request: 103.62x\n"
    ).startups
    assert (start.kv_tokens, start.concurrency) == (955000, 103.62)


def test_sixteen_gpus_have_two_digits() -> None:
    links = {
        (a, b): "PIX" if a // 8 == b // 8 else "SYS" for a in range(16) for b in range(a + 1, 16)
    }
    found = read(topo(links, 16, nics=12))
    assert said(found) == links
    assert not found.problems


def test_whole_copies_are_no_replicas_of_attention() -> None:
    line = "[2026-01-21 19:39:12 {}] Load weight end. avail mem=14.5 GB, mem usage=7.2 GB.\n"
    tags = ("DP0 TP0", "DP0 TP1", "DP1 TP0", "DP1 TP1")
    (start,) = read("".join(line.format(tag) for tag in tags)).startups
    assert (start.attention_dp, start.tp_at_least, start.processes) == (1, 2, 4)


def test_pipeline_stages_with_different_caches_fail_once() -> None:
    (start,) = read("""\
(Worker_PP0 pid=1) INFO Available KV cache memory: 20.18 GiB
(Worker_PP1 pid=2) INFO Available KV cache memory: 3.18 GiB
(EngineCore_DP0 pid=3) ValueError: To serve at least one request with the models's max seq len \
(262144), (24.0 GiB KV cache is needed, which is larger than the available KV cache memory \
(3.18 GiB). Based on the available memory, the estimated maximum model length is 34736.
""").startups
    assert start.failure is not None
    assert start.failure.max_model_len == 34736
    assert start.kv_bytes == pytest.approx(3.18 * 2**30)


def test_the_oldest_vllm_states_its_configuration() -> None:
    (start,) = read(
        "INFO 01-11 15:51:02 llm_engine.py:70] Initializing an LLM engine with config: "
        "model='/models/alpaca-2', tokenizer='/models/alpaca-2', revision=None, max_seq_len=4096, "
        "tensor_parallel_size=2, quantization=None, enforce_eager=False, seed=0)\n"
        "INFO 01-11 15:51:18 llm_engine.py:275] # GPU blocks: 229, # CPU blocks: 512\n"
        "ValueError: The model's max seq len (4096) is larger than the maximum number of tokens "
        "that can be stored in KV cache (3664).\n"
    ).startups
    assert (start.model, start.tp_size, start.max_model_len) == ("/models/alpaca-2", 2, 4096)
    assert start.kv_tokens == 229 * 16
    assert start.failure is not None
    assert start.failure.max_model_len == 3664


def test_a_second_machine_in_one_paste_is_not_mixed_with_the_first() -> None:
    first = topo({(0, 1): "PHB"}, 2)
    found = read(first + topo({(0, 1): "NV4", (0, 2): "SYS", (1, 2): "SYS"}, 3))
    assert said(found) == {(0, 1): "PHB"}
    assert found.problems[0].line == 4
    again = read(first + first)
    assert said(again) == {(0, 1): "PHB"}
    assert not again.problems


def test_windows_names_its_driver_s_mode_in_the_same_cell() -> None:
    found = read("|   0  NVIDIA GeForce RTX 4090      WDDM  |   00000000:01:00.0  On |     Off |\n")
    assert node_of(found).devices[0].name == "NVIDIA GeForce RTX 4090"


def test_older_sglang_says_what_is_free_before_and_after() -> None:
    (start,) = read(
        "[gpu=0] Load weight begin. avail mem=78.50 GB\n"
        "[gpu=0] Load weight end. type=LlamaForCausalLM, dtype=torch.float16, avail mem=63.25 GB\n"
    ).startups
    assert start.weights_bytes == pytest.approx(15.25 * 2**30)


def test_sglang_of_early_2025() -> None:
    (start,) = read("""\
[2025-01-23 19:35:20 TP0] Load weight end. type=LlamaForCausalLM, avail mem=63.72 GB
[2025-01-23 19:35:20 TP0] KV Cache is allocated. K size: 27.13 GB, V size: 27.13 GB.
[2025-01-23 19:35:20 TP0] Memory pool end. avail mem=8.34 GB
[2025-01-23 19:35:20 TP0] Capture cuda graph begin. This can take up to several minutes.
100%|██████████| 23/23 [00:06<00:00,  3.51it/s]
[2025-01-23 19:35:27 TP0] Capture cuda graph end. Time elapsed: 6.57 s
[2025-01-23 19:35:27 TP0] max_total_num_tokens=444500, max_running_requests=2049, context_len=131072
""").startups
    assert start.kv_bytes == pytest.approx(54.26 * 2**30)
    assert start.kv_tokens == 444500
    assert start.graph_bytes is None
    assert start.left_bytes == pytest.approx(8.34 * 2**30)


def test_colours_that_were_written_out() -> None:
    line = "#033[1;36m(VllmWorkerProcess pid=240)#033[0;0m INFO model weights take 3.97GiB;\n"
    (start,) = read(line + line.replace("pid=240", "pid=241").replace("#033", "^[")).startups
    assert start.processes == 2
    assert start.weights_bytes == pytest.approx(3.97 * 2**30)


def test_a_matrix_made_into_a_markdown_table() -> None:
    found = read("""\
|      | GPU0 | GPU1 | GPU2 | CPU Affinity | NUMA Affinity |
|------|------|------|------|--------------|---------------|
| **GPU0** | X    | NV12 | SYS | 0-31  | 0 |
| **GPU1** | NV12 | X    | SYS | 0-31  | 0 |
| **GPU2** | SYS  | SYS  | X   | 32-63 | 1 |
""")
    node = node_of(found)
    assert not found.problems
    assert [link.code for link in node.links.values()] == ["NV12", "SYS", "SYS"]
    assert [device.numa for device in node.devices] == [0, 0, 1]
    amd = node_of(
        read("""\
**Weight Between Two GPUs**

|          | GPU0 | GPU1 |
| :------- | :--: | :--: |
| **GPU0** |   0  |  15  |
| **GPU1** |  15  |   0  |
""")
    )
    assert amd.vendor == "amd"
    assert [link.kind for link in amd.links.values()] == ["XGMI"]


def test_nic_columns_that_run_into_each_other() -> None:
    node = node_of(
        read("""\
        GPU0    GPU1    NIC0    NIC12       NIC13   NIC33       CPU Affinity    NUMA Affinity
GPU0     X      NV18    PIX     NODENODE    NODE    0-55,112-167    0
GPU1    NV18     X      NODE    NODENODE    PIX     0-55,112-167    0
NIC0    PIX     NODE     X      X PIX       PIX
""")
    )
    assert [(d.numa, d.cpus) for d in node.devices] == [(0, "0-55,112-167")] * 2


def test_affinity_columns_that_are_shifted_say_nothing() -> None:
    node = node_of(
        read("""\
        GPU0    GPU1    NIC0    CPU Affinity    NUMA Affinity
GPU0     X      PHB     PIX     PIX     0-55    0
GPU1    PHB      X      NODE    PIX     0-55    0
""")
    )
    assert [(d.numa, d.cpus) for d in node.devices] == [(None, "")] * 2


def test_vllm_0_6_writes_its_profile_as_keys_and_values() -> None:
    (start,) = read(
        "INFO 11-20 09:15:50 worker.py:232] Memory profiling results: total_gpu_memory=79.10GiB "
        "initial_memory_usage=15.42GiB peak_torch_memory=16.21GiB memory_usage_post_profile="
        "15.58GiB\n non_torch_memory=0.17GiB kv_cache_size=54.81GiB gpu_memory_utilization=0.90\n"
    ).startups
    assert start.kv_bytes == pytest.approx(54.81 * 2**30)
    assert start.total_bytes == pytest.approx(79.10 * 2**30)
    assert start.non_torch_bytes == pytest.approx((0.17 * 2**30,) * 2)
    assert start.gpu_memory_utilization == pytest.approx(0.90)
    assert start.weights_bytes is None
