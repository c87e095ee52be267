"""Arguments of an engine as users write them and as engines print them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.node.reading.read import read
from shardwise.node.reading.startup_args import from_command, from_dictionary, from_fields


def words(options: str) -> dict[str, object]:
    found = from_command(f"$ vllm serve org/model {options}")
    assert found is not None
    engine, args = found
    assert engine == "vllm"
    return {name: value for name, value in args.items() if name != "model"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("-tp 4 --max-num-seqs=64", {"tensor_parallel_size": 4, "max_num_seqs": 64}),
        ("--enforce-eager", {"enforce_eager": True}),
        ("--enable-expert-parallel --dtype bfloat16",
         {"enable_expert_parallel": True, "dtype": "bfloat16"}),
        ("--gpu-memory-utilization 0.95", {"gpu_memory_utilization": 0.95}),
        # vLLM's human_readable_int: k is 1,000 and K is 1,024
        ("--max-model-len 32k", {"max_model_len": 32_000}),
        ("--max-model-len 32K", {"max_model_len": 32_768}),
        ("--max-model-len=25.6k", {"max_model_len": 25_600}),
        ("--max-model-len 1m", {"max_model_len": 1_000_000}),
        # the first of a repeated argument
        ("--tp 2 --tensor-parallel-size 8", {"tensor_parallel_size": 2}),
    ],
)  # fmt: skip
def test_arguments_are_read_under_any_of_their_spellings(
    options: str, expected: dict[str, object]
) -> None:
    assert words(options) == expected


@pytest.mark.parametrize(
    "options",
    [
        "--max-model-len auto",  # the engine fits it to the memory
        "--max-model-len -1",  # the same
        "--chunked-prefill-size -1",  # off
        "--max-num-seqs",  # a line that a terminal cut
        "--tensor-parallel-size two",
        "--pipeline-parallel-size 0",
        "--gpu-memory-utilization 90%",
        "--gpu-memory-utilization nan",
        "--decode-context-parallel-size inf",
    ],
)
def test_a_size_that_is_no_number_above_0_is_left_to_the_engine(options: str) -> None:
    assert words(options) == {}


def test_keys_and_addresses_are_not_kept() -> None:
    assert words("--api-key secret --host 10.1.2.3 --max-num-seqs 8") == {"max_num_seqs": 8}


def test_another_command_is_no_start() -> None:
    assert from_command("$ pip install vllm") is None
    assert from_command("$ docker ps") is None


def test_an_open_quote_of_a_cut_line_does_not_hide_the_arguments_before_it() -> None:
    assert words("--tp 4 --chat-template 'my tem") == {"tensor_parallel_size": 4}


def test_a_dictionary_and_a_printed_configuration_say_the_same() -> None:
    printed = "non-default args: {'model': 'm', 'max_model_len': 4096, 'tensor_parallel_size': 2}"
    fields = "model='m', max_model_len=4096, tensor_parallel_size=2, quantization=None"
    assert dict(from_dictionary(printed)) == dict(from_fields(fields))
    # the repr of an object is no Python literal
    assert from_dictionary("non-default args: {'tp_size': 2, 'x': <object at 0x7f>}") == {
        "tensor_parallel_size": 2
    }
    assert from_dictionary("non-default args: {'max_model_len': -1, 'tp_size': True}") == {}


@given(st.text(alphabet="0123456789.kKmMgG-+einfatuo ", max_size=12))
def test_no_value_of_a_length_ends_in_a_traceback(value: str) -> None:
    for start in read(
        f"$ vllm serve m --max-model-len {value}\nModel loading took 1 GiB\n"
    ).startups:
        length = start.max_model_len
        assert length is None or (length >= 0 and math.isfinite(length))
