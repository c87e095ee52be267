"""A start-up log beside a prediction: what is compared, and which assumption a gap points to."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.node.samples import needs_samples, reading

from shardwise.doctor.startup_check import (
    Comparison,
    Flags,
    Prediction,
    compare,
    flags_of,
    predict_memory,
)
from shardwise.errors import UnknownNameError
from shardwise.node.reading.read import read
from shardwise.units import GIB

LOG = """\
$ vllm serve some/model --tensor-parallel-size 2 --kv-cache-dtype fp8 --max-num-seqs 64
INFO [gpu_model_runner.py:1] Model loading took 10.00 GiB memory and 4.5 seconds
INFO [gpu_worker.py:2] Available KV cache memory: 20.00 GiB
INFO [kv_cache_utils.py:3] GPU KV cache size: 327,680 tokens
"""


def made(weights: float, kv: float, per_token: float) -> Comparison:
    """LOG beside a prediction: sizes in GiB, a token's cache in KiB."""

    def predict(model: str, gpu: str, flags: Flags) -> Prediction:
        assert (model, gpu, flags.tp_size) == ("m", "g", 2)
        return Prediction(weights * GIB, kv * GIB, kv * GIB / (per_token * 1024), per_token * 1024)

    (found,) = compare(read(LOG).startups, "m", "g", predict)
    return found


def test_a_prediction_that_holds_blames_nothing() -> None:
    found = made(10.1, 21.0, 64)
    assert [q.name for q in found.quantities] == ["weights", "KV cache", "KV tokens"]
    assert all(q.holds for q in found.quantities)
    assert found.off == ()


def test_wrong_weights_are_said_with_the_gap() -> None:
    found = made(12.0, 20.0, 64)
    assert found.quantities[0].error_pct == pytest.approx(20)
    assert "weights by +2.00 GiB" in found.off[0]


def test_wrong_bytes_a_token_are_told_from_wrong_memory() -> None:
    """20 GiB over 327,680 tokens are 64 KiB a token."""
    (off,) = made(10.0, 20.0, 128).off
    assert "64.0 KiB logged, 128.0 predicted" in off
    (memory,) = made(10.0, 30.0, 64).off
    assert "memory left for the cache by +10.00 GiB" in memory


def test_the_log_s_own_flags_are_taken() -> None:
    (start,) = read(LOG).startups
    flags = flags_of(start)
    assert (flags.tp_size, flags.kv_dtype, flags.max_num_seqs) == (2, "fp8", 64)


def test_attention_replicas_share_the_tp_ranks() -> None:
    """SGLang's DP7 TP7: eight ranks, attention cut over one of them each."""
    (start,) = read(
        "[2025-07-02 06:41:58 DP7 TP7] Load weight end. avail mem=21.7 GB, mem usage=166.6 GB.\n"
    ).startups
    flags = flags_of(start)
    assert (flags.tp_size, flags.attention_dp) == (1, 8)


def test_a_start_without_sizes_is_not_compared() -> None:
    assert compare(read("$ vllm serve some/model\n").startups, "m", "g") == ()


def test_weights_that_a_log_rounds_to_nothing_are_not_compared() -> None:
    def predict(_model: str, _gpu: str, _flags: Flags) -> Prediction:
        return Prediction(1e6, 20 * GIB, 327_680, 64 * 1024)

    (found,) = compare(read(LOG.replace("10.00 GiB", "0.00 GiB")).startups, "m", "g", predict)
    assert [q.name for q in found.quantities] == ["KV cache", "KV tokens"]
    assert found.off == ()


def test_a_quantity_is_printed_with_its_error_and_tolerance() -> None:
    first, weights, *_ = made(12.0, 20.0, 64).lines()
    assert first == "vllm, lines 1 to 4: predicted and logged"
    assert weights == "  weights: logged 10.00 GiB, predicted 12.00 (+20.0 %, outside 3 %)"
    assert "within 3 %" in list(made(10.1, 20.0, 64).lines())[1]


def test_an_unknown_model_is_refused_by_name() -> None:
    with pytest.raises(UnknownNameError, match="llama-9"):
        compare(read(LOG).startups, "llama-9", "h100")


def test_the_memory_that_the_log_states_replaces_the_catalogue_s() -> None:
    given = Flags(utilization=0.9, max_num_seqs=256, max_num_batched_tokens=2048)
    small = predict_memory("llama-3-8b", "h100", replace(given, total_bytes=40 * GIB))
    large = predict_memory("llama-3-8b", "h100", replace(given, total_bytes=80 * GIB))
    assert large.kv_bytes - small.kv_bytes == pytest.approx(0.9 * 40 * GIB, rel=1e-6)


@needs_samples
def test_llama_3_8b_is_predicted_as_both_of_its_logs_say() -> None:
    one, two = compare(
        reading("startup/vllm06_llama3_8b_tp2_memory_table.txt").startups, "llama-3-8b", "h100"
    )
    assert {q.name: q.holds for q in one.quantities} == {"weights": True, "KV cache": True}
    assert {q.name: q.holds for q in two.quantities} == {"weights": True}


@needs_samples
def test_four_ranks_of_qwen3_30b_have_the_weights_that_were_logged() -> None:
    (found,) = compare(
        reading("startup/vllm085_qwen3moe_tp4_compose_prefix_oom.txt").startups,
        "qwen3-30b-a3b",
        "h100",
    )
    (weights,) = found.quantities
    assert weights.logged == pytest.approx(14.2474)
    assert weights.holds


@needs_samples
def test_a_hybrid_model_s_tokens_are_its_concurrency_times_the_length() -> None:
    """The log counts 75,456 tokens and holds 3.87 sequences of 65,536."""
    (start,) = reading("startup/vllm020_qwen36_35b_a3b_nvfp4_tp1_doubletime.txt").startups
    (found,) = compare([start], "m", "g", lambda *_: Prediction(1.0, 1.0, 1.0, 1.0))
    tokens = next(q.logged for q in found.quantities if q.name == "KV tokens")
    assert tokens == pytest.approx(3.87 * 65536)


@needs_samples
def test_the_version_of_a_log_that_does_not_say_it_is_the_first_engine_s() -> None:
    """vLLM 0.10 sorts the logits of all 1,024 sequences while it profiles: 6 GiB less cache."""
    starts = reading("startup/both_qwen3_235b_fp8_tp4_h100.txt").startups
    vllm, sglang = compare(starts, "qwen3-235b-a22b-fp8", "h100", version="0.10.0")
    assert vllm.start.startswith("vllm 0.10.0, ")
    assert sglang.start.startswith("sglang, ")
    assert all(q.holds for found in (vllm, sglang) for q in found.quantities)


@needs_samples
def test_qwen3_omni_s_cache_is_that_of_its_language_model() -> None:
    starts = reading("startup/sglang_qwen3omni30b_tp4.txt").startups
    (found,) = compare(starts, "qwen3-30b-a3b", "h100", tp_size=4)
    assert {q.name for q in found.quantities if q.holds} == {"KV cache", "KV tokens"}
