"""How public rows were measured: scripts of their sources, and runs that were published twice."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace
from tests.reference import FOLDER, needs_reference

from shardwise.layout.deployment import Layout
from shardwise.perfmodel.batches import group
from shardwise.perfmodel.build import plain
from shardwise.perfmodel.predicting import usable_rows
from shardwise.perfmodel.recipes import Run, recipe_of
from shardwise.perfmodel.rows import ALL_QUEUED, Row, parse_row, read_table


def run(
    source: str = "aic_silicon_inferencex",
    model: str = "deepseek-r1",
    engine: str = "sglang",
    version: str = "0.5.9",
    layout: Layout | None = None,
    concurrency: float = 64,
    tokens: float = 1024,
) -> Run:
    return Run(source, model, engine, version, layout or Layout(8), concurrency, tokens, tokens)


@pytest.mark.parametrize(
    ("asked", "steps", "wait"),
    [
        # --scheduler-recv-interval: 10 below 16 requests in flight, then 30; half of it is waited
        (run(concurrency=8), 10, 4.5),
        (run(concurrency=16), 30, 14.5),
        (run(layout=Layout(4), concurrency=32), 10, 4.5),
        # batch_wait_timeout_iters 20: the first waits 20, 20 x 4 / 1024 = 0.08 others half of it
        (run(model="llama-3.1-70b", engine="trtllm", layout=Layout(4), concurrency=4), 20, 19.28),
        (run(model="llama-3.1-70b", engine="trtllm", layout=Layout(8)), 1, 0),
        (run(model="llama-3.1-70b", engine="trtllm", layout=Layout(4), tokens=8192), 1, 0),
        (run(source="", concurrency=16), 1, 0),
    ],
)
def test_schedulers_that_gather_requests_make_them_wait(
    asked: Run, steps: float, wait: float
) -> None:
    found = recipe_of(asked)
    assert found.gather_steps == steps
    assert found.gather_wait == pytest.approx(wait, abs=0.01)


def test_aiconfigurators_client_sends_ten_equal_requests_per_stream() -> None:
    # 16 sequences and floor(2524 / 1024) = 2 whole prompts; one of 4,096; 12 of 128
    for tokens, limit in ((1024, 16 + 2048), (4096, 16 + 4096), (128, 16 + 12 * 128)):
        asked = run("aic_silicon_other", "qwen3-32b", "trtllm", concurrency=16, tokens=tokens)
        found = recipe_of(asked)
        assert found.limits.max_num_batched_tokens == limit
        assert found.limits.gpu_memory_utilization == 0.8
        assert (found.waves, found.length_cv) == (10, 0.0)
    other = recipe_of(run("aic_silicon_other", "llama-3.1-8b", "trtllm"))
    assert other.length_cv is None
    assert other.extra_in_flight == 1


def test_pages_of_engines_say_how_many_requests_of_which_lengths_they_send() -> None:
    cookbook, recipes = (
        recipe_of(run(source, "minimax-m2.5", engine, concurrency=32))
        for source, engine in (("sgl_cookbook", "sglang"), ("vllm_recipes_mi300x_202605", "vllm"))
    )
    # uniform from 1 to twice the mean: 1 / sqrt(3)
    assert cookbook.length_cv == pytest.approx(3**-0.5, abs=1e-3)
    assert recipes.waves == pytest.approx(100 / 32)
    assert recipes.length_cv == 0.0


def cells(**given: str) -> dict[str, str]:
    usual = {
        "source_id": "aic_silicon_inferencex",
        "model_id": "minimax-m2.5",
        "gpu_id": "h200",
        "engine_id": "vllm",
        "engine": "vllm 0.18.0",
        "weight_dtype": "fp8",
        "tp": "8",
        "mode": "serving_closed_loop",
        "concurrency": "4",
        "isl": "1024",
        "osl": "1024",
        "ttft_ms": "100",
        "tpot_ms": "10",
        "use": "calibrate",
    }
    return {**usual, **given}


def test_minimax_ran_with_whole_experts_until_its_scripts_asked_for_more_than_one() -> None:
    assert parse_row(1, cells()).layout.ep_size == 8
    assert parse_row(1, cells(engine="vllm 0.19.0", tp="4")).layout.ep_size == 1
    assert parse_row(1, cells(engine="vllm 0.16.0", tp="4")).layout.ep_size == 1
    assert parse_row(1, cells(source_id="mine")).layout.ep_size == 1


def kv_dtype(**given: str) -> str:
    """The KV cache dtype with which a row is predicted."""
    batches, problems = group([parse_row(1, cells(**given))])
    assert not problems
    return batches[0].key.kv_dtype


def test_minimax_had_a_16_bit_cache_until_its_script_named_one() -> None:
    # minimaxm2.5_fp8_b200.sh: --gpu-memory-utilization 0.95, later 0.90, --kv-cache-dtype fp8,
    # --max-num-batched-tokens $((ISL * 2)), --stream-interval 20; _h200.sh as before
    before, since = cells(), cells(gpu_id="b200", engine="vllm 0.19.0", tp="4", isl="8192")
    assert kv_dtype(**before) == "bf16"
    assert kv_dtype(**since) == "fp8"
    assert parse_row(1, before).limits.gpu_memory_utilization == 0.95
    row = parse_row(1, since)
    assert (row.limits.gpu_memory_utilization, row.limits.max_num_batched_tokens) == (0.9, 16384)
    assert row.recipe.stream_interval == 20


def test_servers_that_gather_tokens_of_a_stream_handle_fewer_chunks() -> None:
    # --stream-interval 30 of SGLang's scripts; stream_interval of TensorRT-LLM's
    assert recipe_of(run()).stream_interval == 30
    assert recipe_of(run(engine="trtllm")).stream_interval == 10
    assert recipe_of(run(engine="trtllm", model="gpt-oss-120b")).stream_interval == 20
    assert recipe_of(run("aic_silicon_other", "llama-3.1-8b", "trtllm")).stream_interval == 1


@pytest.mark.parametrize(
    ("version", "stated", "limit"),
    [
        # ((64 + 1024 + 64 + 63) / 64) * 64; later at least 8,192
        ("1.1.0rc2.post2", 1024, 1152),
        ("1.2.0rc6.post2", 1024, 8192),
        ("1.2.0rc6.post2", 8192, 8320),
        ("", 8192, 8320),
    ],
)
def test_deepseek_on_tensorrt_llm_took_one_prompt_a_step(
    version: str, stated: float, limit: int
) -> None:
    asked = run(engine="trtllm", version=version, tokens=0.9 * stated)
    assert recipe_of(asked).limits.max_num_batched_tokens == limit


def atom(engine: str, **given: str) -> dict[str, str]:
    """A row of ATOM's nightly runs."""
    usual = {"source_id": "rocm_atom_dashboard", "gpu_id": "mi355x", "engine_id": engine}
    return cells(**{**usual, "engine": f"{engine} + ATOM plugin", **given})


def test_gpt_oss_on_b200_ran_with_an_fp8_cache() -> None:
    for gpu, kv_dtype in (("b200", "fp8"), ("h200", "")):  # kv-cache-dtype in gptoss_fp4_b200.sh
        asked = replace(run(model="gpt-oss-120b", engine="vllm", version="0.15.1"), gpu=gpu)
        assert recipe_of(asked).kv_dtype == kv_dtype


def test_scripts_say_which_prompts_ran_as_graphs() -> None:
    def tokens(
        model: str, engine: str, version: str, load: tuple[float, float, float] = (1024, 1024, 64)
    ) -> float:
        isl, osl, concurrency = load
        asked = run(model=model, engine=engine, version=version, concurrency=concurrency)
        return recipe_of(replace(asked, isl=isl, osl=osl)).graph_tokens

    # max-cudagraph-capture-size: 2048
    assert tokens("gpt-oss-120b", "vllm", "0.15.1") == 2048
    # enable_piecewise_cuda_graph, up to the 8,192 tokens of a step: from 64 in flight, 128 for long
    # answers, below 256, and not in the script before
    short, long = 921.6, 7372.8
    deepseek = ("deepseek-r1", "trtllm", "1.2.0rc6.post2")
    assert tokens(*deepseek, (short, short, 64)) == 8192
    assert tokens(*deepseek, (short, short, 32)) == 0
    assert tokens(*deepseek, (short, long, 64)) == 0
    assert tokens(*deepseek, (short, long, 128)) == 8192
    assert tokens(*deepseek, (short, long, 256)) == 0
    assert tokens(*deepseek, (long, short, 256)) == 8512
    assert math.isnan(tokens("deepseek-r1", "trtllm", "1.1.0rc2", (short, short, 64)))
    assert math.isnan(tokens("llama-3.1-70b", "vllm", "0.15.1"))  # the engine's default


def test_atoms_nightly_runs_have_an_fp8_cache_and_some_have_equal_lengths() -> None:
    # atom_oot_test.sh: --kv-cache-dtype fp8; oot_benchmark_models.json: 16,384 tokens, and
    # --random-range-ratio 1 for 1,000 + 100, 5,000 + 500 and 10,000 + 1,000 tokens
    assert kv_dtype(**atom("vllm")) == "fp8"
    assert kv_dtype(**atom("sglang")) == "fp8"
    varied, equal = (parse_row(1, atom("vllm", isl=isl, osl="100")) for isl in ("1024", "1000"))
    assert varied.isl == pytest.approx(921.6)
    assert varied.length_cv == 0.064
    assert (equal.isl, equal.osl, equal.length_cv, equal.lengths_told) == (1000, 100, 0.0, True)
    assert varied.limits.max_num_batched_tokens == 16384
    small = parse_row(1, atom("vllm", model_id="gpt-oss-120b", weight_dtype="fp4"))
    assert small.limits.gpu_memory_utilization == 0.8


def queued(gpu: str, engine: str, gpus: str, **given: str) -> dict[str, str]:
    """A row of NVIDIA's throughput tables."""
    usual = {"source_id": "trtllm_perf_v1.0", "gpu_id": gpu, "engine_id": "trtllm"}
    mode = {"mode": "offline_throughput_inf_rate", "concurrency": "max", "output_tok_s": "1000"}
    times = {"ttft_ms": "", "tpot_ms": "", "isl": "1000", "osl": "2000"}
    return cells(**{**usual, **mode, **times, "engine": engine, "gpus": gpus, "tp": gpus, **given})


def test_nvidias_tables_queue_a_number_of_requests_that_depends_on_their_lengths() -> None:
    # perf-overview.md, "Preparing a Dataset": 1,500 of 1,000 + 2,000 tokens, 30,000 of 128 + 128
    row = parse_row(1, queued("h200", "TensorRT-LLM 0.20 (PyTorch backend)", "1"))
    assert (row.concurrency, row.max_num_seqs, row.length_cv) == (1500, 4096, 0)
    short = queued("h200", "TensorRT-LLM 0.20 (PyTorch backend)", "1", isl="128", osl="128")
    assert parse_row(1, short).concurrency == 30000
    other = queued("h200", "TensorRT-LLM 0.20 (PyTorch backend)", "1", isl="3000", osl="7")
    assert parse_row(1, other).concurrency == ALL_QUEUED


def layout_run(engine: str, gpus: str, model: str = "qwen3-30b-a3b", **given: str) -> Layout:
    """The layout with which a row of NVIDIA's tables is predicted."""
    row = queued("rtx-pro-6000", engine, gpus, model_id=model, weight_dtype="fp4", **given)
    batches, problems = group([parse_row(1, row)])
    assert not problems
    return batches[0].rows[0].layout


def test_nvidias_moe_tables_copy_attention_from_version_1_on() -> None:
    # the page calls them TP; its options for MoE models contain enable_attention_dp: true
    assert layout_run("TensorRT-LLM 1.0", "8") == Layout(1, ep_size=8, attention_dp=8)
    assert layout_run("TensorRT-LLM 1.0", "1") == Layout(1)
    two_stages = layout_run("TensorRT-LLM 1.0", "8", tp="4", pp="2")
    assert two_stages == Layout(1, pp_size=2, ep_size=4, attention_dp=4)
    assert layout_run("TensorRT-LLM 0.20", "8") == Layout(8)
    assert layout_run("TensorRT-LLM 1.0", "8", model="llama-3.3-70b") == Layout(8)
    assert layout_run("TensorRT-LLM 1.0", "8", source_id="mine") == Layout(8)


def test_gpustacks_lab_ran_engines_with_their_default_limits() -> None:
    # vLLM 0.11, arg_utils.py: 256 sequences and 2,048 tokens on A100, 1,024 and 8,192 on H100
    for gpu, seqs, tokens in (("a100-80gb", 256, 2048), ("h100", 1024, 8192)):
        row = queued(gpu, "vLLM 0.11 (default flags)", "1", engine_id="vllm", model_id="qwen3-14b")
        row |= {"source_id": "gpustack_performance_lab", "concurrency": "1000"}
        load = group([parse_row(1, {**row, "weight_dtype": "bf16"})])[0][0].load
        assert (load.max_num_seqs.item(), load.max_num_batched_tokens.item()) == (seqs, tokens)
    stated = {**row, "weight_dtype": "bf16", "max_num_seqs": "32", "max_num_batched_tokens": "512"}
    load = group([parse_row(1, stated)])[0][0].load
    assert (load.max_num_seqs.item(), load.max_num_batched_tokens.item()) == (32, 512)


def inferencex(model: str, gpu: str, engine: str, tp: str, **given: str) -> Row:
    """A row of InferenceX on the GPUs of one node."""
    name = engine.partition(" ")[0]
    usual = {"model_id": model, "gpu_id": gpu, "engine_id": name, "engine": engine}
    return parse_row(1, cells(**{**usual, "gpus": tp, "tp": tp, **given}))


def test_tensorrt_llm_ran_with_whole_experts_until_its_results_named_a_version() -> None:
    """Scripts of October 2025: `--ep_size=$TP` in gptoss_fp4_h200_trt_slurm.sh, `EP_SIZE="$TP"` in
    dsr1_fp8_b200_trt_slurm.sh. Later results state the EP."""
    fp4 = {"weight_dtype": "fp4"}
    assert inferencex("gpt-oss-120b", "h200", "trtllm ", "4", **fp4).layout.ep_size == 4
    assert inferencex("deepseek-r1", "b200", "trtllm ", "8").layout.ep_size == 8
    assert inferencex("deepseek-r1", "b200", "trtllm 1.2.0rc6.post2", "8").layout.ep_size == 1
    assert inferencex("llama-3.1-70b", "h200", "trtllm ", "4").layout.ep_size == 1


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (("qwen3.5-397b-a17b", "b200", "sglang 0.5.9", "4"), "likely"),
        (("qwen3.5-397b-a17b", "b200", "sglang 0.5.9", "8"), "unlikely"),
        (("deepseek-r1", "b200", "sglang 0.5.6", "8"), "unlikely"),
        (("deepseek-r1", "b200", "sglang 0.5.9", "4"), "unlikely"),
        (("deepseek-r1", "b200", "trtllm 1.2.0rc6.post2", "8"), "unlikely"),
        (("deepseek-r1", "b200", "trtllm 1.2.0rc6.post3", "8"), "likely"),
    ],
)
def test_the_search_spaces_of_inferencex_tell_which_runs_drafted(
    row: tuple[str, str, str, str], says: str
) -> None:
    found = inferencex(*row, speculation="unknown", measured_on="2026-03-25")
    assert found.speculation == says
    assert found.is_plain == (says == "unlikely")


def test_loads_that_were_run_both_ways_stay_as_the_row_says() -> None:
    sglang = ("deepseek-r1", "b200", "sglang 0.5.9", "8")
    for load, says in (
        ({"concurrency": "64"}, "unknown"),
        ({"concurrency": "128"}, "likely"),
        ({"concurrency": "4", "isl": "8192"}, "unknown"),
        ({"concurrency": "8", "isl": "8192"}, "likely"),
    ):
        assert inferencex(*sglang, speculation="unknown", **load).speculation == says
    both = ("deepseek-r1", "b200", "trtllm 1.1.0rc2.post2", "8")
    for date, says in (("2025-12-15", "unlikely"), ("2026-01-14", "likely"), ("", "unknown")):
        row = inferencex(*both, speculation="unknown", measured_on=date)
        assert row.speculation == says


def test_a_copy_of_a_run_with_drafts_is_not_taken_for_one_without() -> None:
    drafted = inferencex("qwen3.5-397b-a17b", "b200", "sglang 0.5.9", "4", speculation="unknown")
    copy = inferencex(
        "qwen3.5-397b-a17b",
        "b200",
        "sglang 0.5.9",
        "4",
        speculation="unknown",
        source_id="aic_silicon_other",
    )
    assert copy.is_plain
    assert plain([drafted, copy]) == []


def test_what_a_row_says_counts_before_what_its_source_does() -> None:
    assert parse_row(1, cells()).limits.gpu_memory_utilization == 0.95
    said = parse_row(1, cells(gpu_memory_utilization="0.8"))
    assert said.limits.gpu_memory_utilization == 0.8


def test_a_run_published_twice_counts_once_as_the_source_that_names_its_client_has_it() -> None:
    first = parse_row(1, cells())
    copied = parse_row(2, cells(source_id="aic_silicon_other"))
    other = parse_row(3, cells(source_id="aic_silicon_other", ttft_ms="101"))
    # the copy's layout is that of its scripts only where the source is known
    assert plain([first, copied, other]) == [first, copied, other]
    again = parse_row(4, cells(source_id="aic_silicon_other", ep="8"))
    assert plain([first, again, other]) == [first, other]


@needs_reference
def test_45_rows_of_the_reference_are_copies_and_the_minimax_rows_on_eight_h200_count() -> None:
    rows = usable_rows(read_table(FOLDER / "serving_2026.csv")[1])[0]
    marked = [row for row in rows if row.use == "calibrate" and row.is_plain]
    kept = plain(rows)
    assert len(marked) - len(kept) == 45
    assert sum((r.model, r.gpu, r.tp_size) == ("minimax-m2.5", "h200", 8) for r in kept) == 36
