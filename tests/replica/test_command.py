"""One replica's command line and environment, for each engine and kind of device."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment, EngineLimits, Layout
from shardwise.replica.command import MEMORY_SHARE, Instance, argv, device_env, engine_flags


def instance(engine: str, tp_size: int = 2, **others: Any) -> Instance:
    limits = EngineLimits(max_num_seqs=32, max_num_batched_tokens=4096, max_model_len=2048)
    return Instance(
        Deployment("org/Model-8B", "", Layout(tp_size), limits, engine=engine), **others
    )


def test_vllm_gets_its_limits_its_address_and_the_flags_last() -> None:
    words = argv(instance("vllm", flags=("--seed", "7")), "127.0.0.1", 8123, "cuda")
    pairs = dict(pairwise(words))
    assert pairs["--tensor-parallel-size"] == "2"
    assert pairs["--max-num-seqs"] == "32"
    assert pairs["--max-model-len"] == "2048"
    assert (pairs["--host"], pairs["--port"]) == ("127.0.0.1", "8123")
    assert pairs["--served-model-name"] == "Model-8B"
    assert words[-2:] == ["--seed", "7"]


def test_the_engines_own_interpreter_starts_it() -> None:
    words = argv(instance("vllm", python="/opt/vllm/bin/python"), "127.0.0.1", 8000, "cuda")
    assert words[0] == "/opt/vllm/bin/python"


def test_a_memory_share_that_is_given_replaces_ours() -> None:
    ours = engine_flags(instance("sglang"), "cuda")
    given_flags = (MEMORY_SHARE, "0.5")
    left = engine_flags(instance("sglang", flags=given_flags), "cuda")
    assert MEMORY_SHARE in ours
    assert MEMORY_SHARE not in left
    assert len(ours) - len(left) == 2
    whole = argv(instance("sglang", flags=given_flags), "127.0.0.1", 8000, "cuda")
    assert whole.count(MEMORY_SHARE) == 1
    assert whole[whole.index(MEMORY_SHARE) + 1] == "0.5"


def test_a_command_of_ones_own_has_its_places_filled() -> None:
    own = instance("command", command=("serve", "{model}", "--at={host}:{port}"), flags=("-v",))
    assert argv(own, "0.0.0.0", 9000, "cpu") == ["serve", "org/Model-8B", "--at=0.0.0.0:9000", "-v"]


def test_an_engine_that_reads_a_file_names_it() -> None:
    both = instance("trtllm")
    spread = replace(both, deployment=both.deployment.with_layout(tp_size=1, attention_dp=2))
    with pytest.raises(InputError, match="takes these settings from a file"):
        argv(spread, "127.0.0.1", 8000, "cuda")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cuda", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "2,3"}),
        ("rocm", {"HIP_VISIBLE_DEVICES": "2,3"}),
    ],
)
def test_a_replica_sees_its_own_gpus_alone(kind: str, expected: dict[str, str]) -> None:
    assert device_env(instance("vllm"), (2, 3), kind) == expected


@given(tp_size=st.integers(1, 8), cores=st.lists(st.integers(0, 63), min_size=8, unique=True))
def test_ranks_on_a_cpu_share_no_core(tp_size: int, cores: list[int]) -> None:
    found = device_env(instance("vllm", tp_size), tuple(cores), "cpu")
    ranks = [part.split(",") for part in found["VLLM_CPU_OMP_THREADS_BIND"].split("|")]
    assert len(ranks) == tp_size
    assert len({len(rank) for rank in ranks}) == 1
    named = [int(core) for rank in ranks for core in rank]
    assert len(set(named)) == len(named)
    assert set(named) <= set(cores)


def test_other_engines_on_a_cpu_get_threads_by_rank() -> None:
    assert device_env(instance("builtin"), (0, 1, 2, 3), "cpu") == {"OMP_NUM_THREADS": "2"}
    assert device_env(instance("builtin"), (), "cpu") == {}


def test_without_named_cores_vllm_shares_all_that_there_are() -> None:
    found = device_env(instance("vllm", 1), (), "cpu")["VLLM_CPU_OMP_THREADS_BIND"]
    assert {int(core) for core in found.split(",")} == os.sched_getaffinity(0)


def test_an_instance_at_another_tp_keeps_the_rest() -> None:
    first = instance("vllm", name="m")
    moved = first.at(4).for_sequences(8)
    assert (moved.tp_size, moved.limits.max_num_seqs) == (4, 8)
    assert replace(moved, deployment=first.deployment) == first
    assert first.served_name == "m"
    assert instance("builtin").served_name == "Model-8B"
