"""Forms of output that the samples do not have: other tools, versions and options."""

from __future__ import annotations

import pytest

from shardwise.node.node import Node
from shardwise.node.reading.read import Reading, read, require_whole
from shardwise.node.reading.startup import Startup

GIB = 2.0**30


def node_of(text: str) -> Node:
    found = read(text)
    assert not found.problems
    assert found.node is not None
    return found.node


def start_of(text: str) -> Startup:
    (start,) = read(text).startups
    return start


AMD_SMI = """\
ACCESS TABLE:
             0000:0c:00.0 0000:22:00.0
0000:0c:00.0 ENABLED      ENABLED
0000:22:00.0 ENABLED      ENABLED

WEIGHT TABLE:
             0000:0c:00.0 0000:22:00.0
0000:0c:00.0 0            15
0000:22:00.0 15           0

HOPS TABLE:
             0000:0c:00.0 0000:22:00.0
0000:0c:00.0 0            1
0000:22:00.0 1            0

LINK TYPE TABLE:
             0000:0c:00.0 0000:22:00.0
0000:0c:00.0 SELF         XGMI
0000:22:00.0 XGMI         SELF

NUMA BW TABLE:
             0000:0c:00.0 0000:22:00.0
0000:0c:00.0 N/A          50000-50000
0000:22:00.0 50000-50000  N/A

CACHE COHERANCY TABLE:
             0000:0c:00.0 0000:22:00.0
0000:0c:00.0 SELF         C
0000:22:00.0 C            SELF

ATOMICS TABLE:
             0000:0c:00.0 0000:22:00.0
0000:0c:00.0 SELF         64,32
0000:22:00.0 64,32        SELF

BI-DIRECTIONAL TABLE:
             0000:0c:00.0 0000:22:00.0
0000:0c:00.0 SELF         T
0000:22:00.0 T            SELF

Legend:
  SELF = Current GPU
  ENABLED / DISABLED = Link is enabled or disabled
"""


def test_amd_smi_s_further_tables_are_passed_over() -> None:
    """Bandwidths, coherence and atomics have cells of their own; they are no cut-off matrix."""
    node = node_of(AMD_SMI)
    assert {p: link.code for p, link in node.links.items()} == {(0, 1): "XGMI"}
    assert node.reaches(0, 1) is True
    require_whole(read(AMD_SMI))


def test_amd_smi_cut_within_the_link_types_is_an_error_with_its_line() -> None:
    lines = AMD_SMI.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("LINK TYPE"))
    found = read("\n".join(lines[: at + 3]))
    assert found.problems[0].line == at + 3


def test_rocm_smi_s_bandwidths_are_no_links() -> None:
    found = read("""\
========================= Bandwidth between two GPUs ==========================
     GPU0 GPU1 GPU2
GPU0 N/A 50000-200000 0-0
GPU1 50000-200000 N/A 50000-50000
GPU2 0-0 50000-50000 N/A
Format: min-max; Units: mps
""")
    assert found.node is None
    assert not found.problems


def test_amd_smi_s_overview() -> None:
    node = node_of("""\
| AMD-SMI 26.0.0+37d158ab      amdgpu version: 6.14.14  ROCm version: 7.0.0    |
| BDF                        GPU-Name | Mem-Uti   Temp   UEC       Power-Usage |
| GPU  HIP-ID  OAM-ID  Partition-Mode | GFX-Uti    Fan               Mem-Usage |
|=====================================+========================================|
| 0000:05:00.0    AMD Instinct MI355X | 0 %      44 °C   0          151/1400 W |
|   0       0       7        SPX/NPS1 | 0 %        N/A         283/294896 MB |
|-------------------------------------+----------------------------------------|
| 0000:15:00.0    AMD Instinct MI355X | 0 %      43 °C   0          150/1400 W |
|   1       1       5        CPX/NPS2 | 0 %        N/A       90283/294896 MB |
""")
    first, second = node.devices
    assert (first.name, first.bus_id) == ("AMD Instinct MI355X", "0000:05:00.0")
    assert (first.memory_bytes, second.used_bytes) == (294896 * 2**20, 90283 * 2**20)
    assert (first.partition, second.partition) == ("NPS1, SPX", "NPS2, CPX")
    assert first.power_cap_w == 1400


def test_amd_smi_static_with_partitions_and_a_gpu_without_a_name() -> None:
    node = node_of("""\
GPU: 0
    ASIC:
        MARKET_NAME: AMD Instinct MI300X OAM
        DEVICE_ID: 0x74a1
    BUS:
        BDF: 0000:0c:00.0
        MAX_PCIE_WIDTH: 16
        PCIE_INTERFACE_VERSION: Gen 5
    LIMIT:
        MAX_POWER: 750 W
    PARTITION:
        COMPUTE_PARTITION: CPX
        MEMORY_PARTITION: NPS4
GPU: 1
    ASIC:
        MARKET_NAME: N/A
        DEVICE_ID: 0x74a5
    VRAM:
        SIZE: 262128 MB
    NUMA:
        NODE: 1
""")
    first, second = node.devices
    assert (first.name, first.partition) == ("AMD Instinct MI300X OAM", "NPS4, CPX")
    assert (first.pcie_gen, first.pcie_width, first.power_cap_w) == (5, 16, 750)
    assert (second.name, second.numa) == ("AMD Instinct MI325X", 1)


def test_amd_smi_list_names_no_vendor_s_gpu_an_nvidia_one() -> None:
    text = "GPU: 0\n    BDF: 0000:0c:00.0\n    NODE_ID: 2\nGPU: 1\n    BDF: 0000:22:00.0\n"
    assert node_of(text).vendor == ""


def test_a_query_without_its_header_is_read_by_its_command() -> None:
    node = node_of(
        "$ nvidia-smi --query-gpu=index,name,memory.total --format=csv,noheader\n"
        "0, NVIDIA L4, 23034 MiB\n1, NVIDIA L4, 23034 MiB\n"
    )
    assert [(d.name, d.memory_bytes) for d in node.devices] == [("NVIDIA L4", 23034 * 2**20)] * 2


def test_a_query_without_index_and_with_current_links() -> None:
    """The generation sinks while a GPU idles, so the current one says nothing; lanes stay."""
    node = node_of(
        "name, pci.bus_id, pcie.link.gen.current, pcie.link.width.current, memory.total [MiB]\n"
        "NVIDIA GeForce RTX 3090, 00000000:01:00.0, 1, 16, 24576 MiB\n"
        "NVIDIA GeForce RTX 3090, 00000000:21:00.0, 1, 8, 24576 MiB\n"
    )
    assert [(d.pcie_gen, d.pcie_width) for d in node.devices] == [(None, 16), (None, 8)]


def test_mig_slices_are_no_gpus() -> None:
    node = node_of("""\
|   0  NVIDIA A100-SXM4-80GB          On  |   00000000:07:00.0 Off |                   On |
| N/A   31C    P0             60W /  400W |      87MiB /  81920MiB |     N/A      Default |
|                                         |                        |              Enabled |
|   1  NVIDIA A100-SXM4-80GB          On  |   00000000:0F:00.0 Off |                    0 |
| N/A   30C    P0             58W /  400W |       0MiB /  81920MiB |      0%      Default |
|                                         |                        |             Disabled |
| MIG devices:                                                                            |
| GPU  GI  CI  MIG |                     Memory-Usage |        Vol|      Shared           |
|  0    1   0   0  |              37MiB / 40192MiB    | 42      0 |  3   0    2    0    0 |
|  0    2   0   1  |              37MiB / 40192MiB    | 42      0 |  3   0    2    0    0 |
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aaaa)
  MIG 3g.40gb     Device  0: (UUID: MIG-1)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-bbbb)
""")
    assert [(d.index, d.mig, d.memory_bytes) for d in node.devices] == [
        (0, True, 81920 * 2**20),
        (1, False, 81920 * 2**20),
    ]


def test_one_gpu_in_vllm_s_environment_stands_behind_the_heading() -> None:
    node = node_of(
        "GPU models and configuration : GPU 0: NVIDIA GB10\nNvidia driver version : 580.95.05\n"
    )
    assert [d.name for d in node.devices] == ["NVIDIA GB10"]


def test_rocm_s_environment_names_the_first_gpu_for_all() -> None:
    node = node_of("""\
GPU models and configuration : AMD Instinct MI300X (gfx942:sramecc+:xnack-)
vLLM Version                 : 0.1.dev0
GPU Topology:
  ============================ ROCm System Management Interface ============================
=============================== Link Type between two GPUs ===============================
       GPU0         GPU1
GPU0   0            XGMI
GPU1   XGMI         0
================================== End of ROCm SMI Log ===================================
""")
    assert [d.name for d in node.devices] == ["AMD Instinct MI300X"] * 2
    assert {p: link.code for p, link in node.links.items()} == {(0, 1): "XGMI"}


def test_a_matrix_in_grep_s_output_and_one_with_a_shifted_header() -> None:
    commented = node_of(
        "a.submit:# \tGPU0\tGPU1\tmlx5_0\tCPU Affinity\tNUMA Affinity\n"
        "a.submit:# GPU0\t X \tNV4\tSYS\t48-63\t3\na.submit:# GPU1\tNV4\t X \tSYS\t32-47\t2\n"
    )
    shifted = node_of(
        "GPU0\tGPU1\tmlx5_0 CPU Affinity NUMA Affinity\n"
        "GPU0\t X \tNV4\tSYS\t48-63\t3\nGPU1\tNV4\t X \tSYS\t32-47\t2\n"
    )
    for node in (commented, shifted):
        assert {p: link.code for p, link in node.links.items()} == {(0, 1): "NV4"}
        assert [(d.numa, d.cpus) for d in node.devices] == [(3, "48-63"), (2, "32-47")]


def test_nccl_s_transports_of_several_versions() -> None:
    nccl = read("""\
n:1:5 [2] NCCL INFO Channel 00 : 2[2] -> 3[3] via SHM/direct/direct
n:1:2 [7] NCCL INFO Channel 00/0 : 7[7] -> 8[0] [send] via NET/IB/0/GDRDMA
n:1:2 [0] NCCL INFO Channel 02/0 : 0[17000] -> 1[2a000] via P2P/IPC/read
""").nccl
    assert nccl is not None
    assert nccl.by_pair == {
        (2, 3): "SHM/direct/direct",
        (7, 8): "NET/IB/0/GDRDMA",
        (0, 1): "P2P/IPC/read",
    }
    assert not nccl.peer_to_peer


def test_nvidia_smi_q() -> None:
    node = node_of("""\
==============NVSMI LOG==============
Driver Version                            : 550.54.15
Attached GPUs                             : 2
GPU 00000000:18:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    MIG Mode
        Current                           : Disabled
    PCI
        GPU Link Info
            PCIe Generation
                Max                       : 5
                Current                   : 1
            Link Width
                Max                       : 16x
                Current                   : 8x
    FB Memory Usage
        Total                             : 81559 MiB
        Used                              : 4 MiB
    BAR1 Memory Usage
        Total                             : 131072 MiB
GPU 00000000:2A:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    MIG Mode
        Current                           : Enabled
""")
    first, second = node.devices
    assert (first.name, first.bus_id) == ("NVIDIA H100 80GB HBM3", "00000000:18:00.0")
    assert (first.memory_bytes, first.used_bytes) == (81559 * 2**20, 4 * 2**20)
    assert (first.pcie_gen, first.pcie_width, first.mig) == (5, 16, False)
    assert (second.index, second.mig) == (1, True)


def test_a_gpu_s_numa_node_of_its_own_behind_an_empty_tab_column() -> None:
    node = node_of(
        "NVIDIA Topology: \n"
        "\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
        "GPU0\t X \tNV18\t0-63\t0\t\t2\nGPU1\tNV18\t X \t64-127\t1\t\t10\n(legend trimmed)\n"
    )
    assert [(d.numa, d.gpu_numa_id) for d in node.devices] == [(0, 2), (1, 10)]


def test_network_cards_by_name_and_their_legend() -> None:
    node = node_of("""\
        GPU0    GPU1    rocep65s0       mlx5_bond_0   CPU Affinity    NUMA Affinity
GPU0     X      NV4     PHB     NODE    0-15    0
GPU1    NV4      X      SYS     SYS     16-31   1
rocep65s0       PHB     SYS      X      SYS

NIC Legend:

  NIC0: mlx5_0
  NIC1: mlx5_bond_1
""")
    assert {p: link.code for p, link in node.links.items()} == {(0, 1): "NV4"}
    assert [d.numa for d in node.devices] == [0, 1]
    assert node.nic_links[0, "rocep65s0"].code == "PHB"


@pytest.mark.parametrize(
    "text",
    [
        "I have 4 GPUs. GPU0 and GPU1 are on one switch (PIX), GPU2 X GPU3 not.\n",
        "GPU0: 45C  GPU1: 50C\nGPU0  OK\n",
        "| GPU0 | fast |\n| GPU1 | slow |\n",
        'In the docs: "Available KV cache memory: X GiB".\nModel loading took forever.\n',
        "Engine 000: Avg prompt throughput: 10.0 tokens/s, GPU KV cache usage: 0.4%\n",
    ],
)
def test_prose_about_gpus_says_nothing(text: str) -> None:
    found: Reading = read(text)
    assert found.node is None or not found.node.links
    assert not found.startups
    assert not found.problems


def test_vllm_sums_its_start_up_up() -> None:
    """vLLM 0.21 and later; the ranks differ a little, and the least cache counts."""
    line = (
        "(Worker_TP{0}_EP{0} pid=115{0}) INFO 09-04 11:00:17 [gpu_worker.py:855] Free memory on "
        "device (92.36/94.97 GiB) on startup. Desired GPU memory utilization is (0.91, 86.42 GiB). "
        "Actual usage is 64.19 GiB for consumed memory (weights + non-torch), 4.19 GiB for peak "
        "activation, and 0.25 GiB for CUDAGraph memory. Replace gpu_memory_utilization config with "
        "`--kv-cache-memory=18944768082` (17.64 GiB) to fit into requested memory, or "
        "`--kv-cache-memory=25316786176` (23.58 GiB) to fully utilize gpu memory. Current kv cache "
        "memory in use is 1{1}.04 GiB.\n"
    )
    start = start_of(line.format(0, 7) + line.format(1, 8))
    assert start.total_bytes == pytest.approx(94.97 * GIB)
    assert start.gpu_memory_utilization == 0.91
    assert start.kv_bytes == pytest.approx(17.04 * GIB)
    assert start.activation_bytes == pytest.approx(4.19 * GIB)
    assert start.graph_bytes == pytest.approx(0.25 * GIB)
    assert start.tp_at_least == 2


def test_vllm_s_summary_of_2025_beside_its_own_lines_is_one_start() -> None:
    start = start_of("""\
(EngineCore_DP0 pid=271) INFO [gpu_model_runner.py:2392] Model loading took 14.9889 GiB and 3 s
(EngineCore_DP0 pid=271) INFO [gpu_worker.py:298] Available KV cache memory: 54.91 GiB
(EngineCore_DP0 pid=271) INFO [gpu_worker.py:391] Free memory on device (78.62/79.11 GiB) on \
startup. Desired GPU memory utilization is (0.9, 71.2 GiB). Actual usage is 14.99 GiB for weight, \
1.23 GiB for peak activation, 0.05 GiB for non-torch memory, and 0.48 GiB for CUDAGraph memory. \
Replace gpu_memory_utilization config with `--kv-cache-memory=58234567` to fit into requested \
memory. Current kv cache memory in use is 58958765824 bytes.
""")
    assert start.weights_bytes == pytest.approx(14.9889 * GIB)
    assert start.kv_bytes == pytest.approx(54.91 * GIB)
    assert start.non_torch_bytes == pytest.approx((0.05 * GIB, 0.05 * GIB))
    alone = start_of("INFO Current kv cache memory in use is 58958765824 bytes.\n")
    assert alone.kv_bytes == 58958765824


def test_vllm_s_graph_pool_and_its_estimate() -> None:
    start = start_of(
        "(Worker_TP0 pid=9) INFO [gpu_worker.py:792] CUDA graph pool memory: 0.25 GiB (actual), "
        "0.38 GiB (estimated), difference: 0.12 GiB (50.0%).\n"
    )
    assert start.graph_bytes == pytest.approx(0.25 * GIB)
    assert start.graph_estimate_bytes == pytest.approx(0.38 * GIB)


def test_data_parallel_engines_are_one_start_with_the_least_cache() -> None:
    start = start_of("""\
(EngineCore_DP0 pid=11) INFO Model loading took 20.10 GiB memory and 44.5 seconds
(EngineCore_DP1 pid=12) INFO Model loading took 20.10 GiB memory and 44.7 seconds
(EngineCore_DP0 pid=11) INFO Available KV cache memory: 48.20 GiB
(EngineCore_DP1 pid=12) INFO Available KV cache memory: 48.19 GiB
(EngineCore_DP0 pid=11) INFO GPU KV cache size: 263,200 tokens
(EngineCore_DP1 pid=12) INFO GPU KV cache size: 263,184 tokens
""")
    assert (start.kv_tokens, start.processes) == (263184, 2)
    assert start.weights_bytes == pytest.approx(20.10 * GIB)


def test_the_first_v1_counted_blocks() -> None:
    start = start_of(
        "INFO 01-30 03:19:14 kv_cache_utils.py:395] # GPU blocks: 1381\n"
        "INFO 01-30 03:19:14 kv_cache_utils.py:398] Maximum concurrency for 2048 tokens per "
        "request: 10.79x\n"
    )
    assert (start.block_tokens, start.kv_tokens) == (16, 1381 * 16)


def test_sglang_s_window_pool_is_part_of_the_cache_and_no_drafter_s() -> None:
    start = start_of("""\
[2025-09-01 10:00:00 TP0] Load weight end. type=GptOssForCausalLM, avail mem=64.00 GB, \
mem usage=14.20 GB.
[2025-09-01 10:00:01 TP0] Use Sliding window memory pool. full_layer_tokens=540000, \
swa_layer_tokens=432000
[2025-09-01 10:00:01 TP0] KV Cache is allocated. #tokens: 432000, K size: 9.89 GB, V size: 9.89 GB
[2025-09-01 10:00:01 TP0] KV Cache is allocated. #tokens: 540000, K size: 12.36 GB, V size: 12.36 GB
[2025-09-01 10:00:01 TP0] Memory pool end. avail mem=11.00 GB
""")
    assert start.kv_tokens == 540000
    assert start.kv_bytes == pytest.approx(44.5 * GIB)
    assert start.draft_kv_bytes is None


def test_sglang_of_2026_with_experts_a_drafter_and_a_cache_that_is_not_stated() -> None:
    start = start_of("""\
[2026-09-11 23:34:13 TP0 EP0] Load weight begin. avail mem=111.47 GB
[2026-09-11 23:43:15 TP0 EP0] Load weight end. elapsed=541.76 s, type=DeepseekV4ForCausalLM, \
quant=fp8, avail mem=17.47 GB, mem usage=94.00 GB.
[2026-09-11 23:44:38 TP0 EP0] Load weight begin. avail mem=17.54 GB
[2026-09-11 23:45:53 TP0 EP0] Load weight end. elapsed=74.58 s, type=DeepseekV4Draft, quant=fp8, \
avail mem=14.74 GB, mem usage=2.80 GB.
[2026-09-11 23:46:13 TP0 EP0] Memory pool end. avail mem=9.90 GB
[2026-09-11 23:46:44 TP0 EP0] Capture target verify CUDA graph end. elapsed=13.48 s, \
mem usage=0.58 GB, avail mem=7.62 GB.
[2026-09-11 23:46:49 TP0 EP0] Capture draft verify CUDA graph end. elapsed=4.26 s, \
mem usage=-0.01 GB, avail mem=7.68 GB.
[2026-09-11 23:46:50 TP0 EP0] max_total_num_tokens=183296, chunked_prefill_size=4096, \
max_running_requests=4, context_len=131072, available_gpu_mem=7.68 GB
""")
    assert start.weights_bytes == pytest.approx(94 * GIB)
    assert start.total_bytes == pytest.approx(111.47 * GIB)
    assert (start.kv_tokens, start.kv_bytes) == (183296, None)
    assert start.graph_bytes == pytest.approx(0.57 * GIB)


def test_sglang_s_cache_of_states_is_no_cache_of_tokens() -> None:
    start = start_of("""\
[2026-02-01 00:05:03 TP0] Mamba Cache is allocated. max_mamba_cache_size: 38, conv_state size: \
0.03GB, ssm_state size: 2.74GB
[2026-02-01 00:05:03 TP0] KV Cache is allocated. #tokens: 399740, K size: 1.52 GB, V size: 1.52 GB
""")
    assert start.kv_tokens == 399740
    assert start.kv_bytes == pytest.approx(3.04 * GIB)


def test_tensorrt_llm_allocates_its_cache_twice_and_the_last_counts() -> None:
    start = start_of("""\
[TensorRT-LLM][INFO] [MemUsageChange] Allocated 1.20 GiB for max tokens in paged KV cache (98304).
[TensorRT-LLM][INFO] Memory usage when calculating max tokens in paged kv cache: total: 79.11 GiB, \
available: 60.02 GiB
[TensorRT-LLM][INFO] Number of tokens per block: 32.
[TensorRT-LLM][INFO] [MemUsageChange] Allocated 52.30 GiB for max tokens in paged KV cache (428384)
""")
    assert start.engine == "trtllm"
    assert start.kv_tokens == 428384
    assert start.kv_bytes == pytest.approx(52.3 * GIB)
    assert start.total_bytes == pytest.approx(79.11 * GIB)


def test_a_log_cut_before_its_arguments_still_names_the_model() -> None:
    start = start_of(
        "(EngineCore_DP0 pid=12) INFO 10-02 11:22:33 [gpu_model_runner.py:2602] Starting to load "
        "model openai/gpt-oss-120b...\n"
        "(EngineCore_DP0 pid=12) INFO 10-02 11:23:33 [gpu_model_runner.py:2653] Model loading took "
        "64.3809 GiB and 45.2 seconds\n"
    )
    assert start.model == "openai/gpt-oss-120b"
