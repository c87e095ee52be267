"""Arguments of the engine's functions that cannot be used: one line, before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")

from shardwise import InputError, bench_sweep, explain, profile_steps, serve
from shardwise.engine.options import EngineOptions, resolved

MODEL = "llama-51m"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tp_size": 0}, "tp_size is 0; allowed: 1 or more"),
        ({"max_num_seqs": -1}, "max_num_seqs is -1; allowed: 1 or more"),
        ({"device": "tpu"}, "device is 'tpu'; allowed: auto, cpu, cuda"),
        ({"dtype": "fp8"}, "dtype is 'fp8'; allowed: auto, fp32, bf16, fp16"),
        ({"threads_per_rank": -1}, "threads_per_rank is -1; allowed: 1 or more; 0 is an equal"),
        ({"max_num_batched_tokens": 8}, "max_num_batched_tokens is 8; allowed: max_num_seqs (64)"),
        ({"kv_cache_tokens": 1}, "kv_cache_tokens is 1; allowed: 16 or more"),
    ],
)
def test_an_option_is_checked_before_a_rank_is_started(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        resolved(EngineOptions(**changes))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words", "field"),
    [
        ({"tp_sizes": ()}, "0 tp_sizes; needed: at least 1", "tp_sizes"),
        ({"batches": ()}, "0 batches; needed: at least 1", "batches"),
        ({"batches": (4, 0)}, "batch is 0; allowed: 1 or more", "batch"),
        ({"isl": 0}, "isl is 0; allowed: 1 or more", "isl"),
        ({"repeats": 0}, "repeats is 0; allowed: 1 or more", "repeats"),
        ({"dtype": "int8"}, "dtype is 'int8'; allowed: auto, fp32", "dtype"),
    ],
)
def test_a_profile_that_cannot_be_made_is_refused(
    changes: dict[str, Any], words: str, field: str
) -> None:
    with pytest.raises(InputError) as caught:
        profile_steps(MODEL, random_weights=True, **changes)
    assert words in str(caught.value)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tp_sizes": ()}, "0 TP sizes; needed: at least 1"),
        ({"port": 70_000}, "port is 70000; allowed: 1 to 65535"),
        ({"port": 0}, "port is 0; allowed: 1 to 65535"),
        ({"tp_sizes": (3,)}, "TP=3 neither divides the 4 KV heads"),
    ],
)
def test_a_sweep_that_cannot_start_writes_no_store(
    changes: dict[str, Any], words: str, tmp_path: Any
) -> None:
    with pytest.raises(InputError) as caught:
        bench_sweep(MODEL, store=tmp_path / "cells.sqlite", **changes)
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"), [({"tp_size": 0}, "is 0 for 12 heads"), ({"layer": 99}, "99")]
)
def test_a_layer_or_cut_that_the_model_lacks_is_not_explained(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        explain(MODEL, random_weights=True, **changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tp_size": 0}, "tp_size is 0; allowed: 1 or more"),
        ({"port": -1}, "port is -1; allowed: 1 to 65535"),
        ({"port": 70_000}, "port is 70000; allowed: 1 to 65535"),
        ({"devices": (99,)}, "devices 99; allowed on this machine: "),
        ({"engine": "llama.cpp"}, "random weights on llama.cpp; allowed: the built-in engine"),
    ],
)
def test_a_server_that_cannot_start_is_refused_before_its_process(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught, serve(MODEL, random_weights=True, **changes):
        pass
    assert words in str(caught.value)
