"""Traces from files, and the lines that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.simulator.trace_file import read_lengths, read_trace, with_lengths
from shardwise.simulator.traffic import Lengths, Stage, Traffic, draw, in_stages


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def test_the_azure_format_is_read_with_its_seven_digit_fractions(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:04.4799600,110,27\n2023-11-16 18:17:03.9799600,4808,10\n"
    )
    trace = read_trace(written(tmp_path, text))
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 0.5])  # sorted, from the first
    assert trace.isl.tolist() == [4808, 110]
    assert trace.osl.tolist() == [10, 27]


def test_our_own_format_names_models_and_prefixes(tmp_path: Path) -> None:
    text = (
        "arrival_s,isl,osl,model,prefix,prefix_tokens\n"
        "0,100,5,a,sys,64\n1,100,5,b,,\n2,90,5,a,sys,64\n"
    )
    trace = read_trace(written(tmp_path, text))
    assert trace.models == ("a", "b")
    assert trace.model.tolist() == [0, 1, 0]
    assert trace.shared is not None
    assert trace.shared.at.tolist() == [0, 1, 1, 2]
    assert trace.shared.segment.tolist() == [0, 0]
    assert trace.shared.end.tolist() == [64]


def test_azures_trace_of_2024_has_an_offset_in_its_times(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-17 03:00:00.509930+00:00,2399,6\n"
    )
    trace = read_trace(written(tmp_path, text))
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 7 * 86400 + 3 * 3600 + 0.5])  # a gap


def test_burstgpt_is_read_without_its_failed_requests(tmp_path: Path) -> None:
    text = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "45,GPT-4,472,18,490,Conversation log\n5,ChatGPT,1087,230,1317,API log\n"
        "118,ChatGPT,417,0,417,Conversation log\n"
    )
    trace = read_trace(written(tmp_path, text))
    assert trace.arrival_s.tolist() == [0.0, 40.0]
    assert (trace.isl.tolist(), trace.osl.tolist()) == ([1087, 472], [230, 18])


MOONCAKE = (
    '{"timestamp": 3052, "input_length": 1500, "output_length": 9, "hash_ids": [0, 1, 2]}\n'
    '{"timestamp": 0, "input_length": 1300, "output_length": 5, "hash_ids": [0, 1, 3]}\n\n'
    '{"timestamp": 9000, "input_length": 600, "output_length": 5, "hash_ids": [4, 1]}\n'
)


def mooncake(folder: Path, text: str) -> Path:
    path = folder / "trace.jsonl"
    path.write_text(text)
    return path


def test_mooncakes_blocks_are_shared_only_behind_the_same_blocks(tmp_path: Path) -> None:
    trace = read_trace(mooncake(tmp_path, MOONCAKE), 512)
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 3.052, 9.0])
    assert trace.isl.tolist() == [1300, 1500, 600]
    assert trace.shared is not None
    assert trace.shared.at.tolist() == [0, 2, 4, 4]  # 2, 3 and the 1 behind a 4 are nobody else's
    assert trace.shared.end.tolist() == [512, 1024]


def test_hash_ids_without_a_block_size_are_refused(tmp_path: Path) -> None:
    path = mooncake(tmp_path, MOONCAKE)
    with pytest.raises(InputError, match=r"line 2: hash_ids without a block size; needed: --hash"):
        read_trace(path)
    with pytest.raises(InputError, match="hash block is 0 tokens; allowed: 1 to"):
        read_trace(path, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: Input data was truncated"),
        ('{"timestamp": 0, "input_length": 5}', "line 2: .*missing required field `output_len"),
        ('{"timestamp": 0, "input_length": 0, "output_length": 5}', "line 2: input_length is 0"),
        ('{"timestamp": 0, "input_length": "a", "output_length": 5}', "line 2: Expected `int`"),
        ('{"timestamp": 1e300, "input_length": 5, "output_length": 5}', "timestamp is 1e"),
    ],
)
def test_a_malformed_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    good = '{"timestamp": 0, "input_length": 5, "output_length": 5}\n'
    with pytest.raises(InputError, match=message):
        read_trace(mooncake(tmp_path, good + line + "\n"))


def test_sessions_of_a_file_think_between_their_turns_and_share_what_was_said(
    tmp_path: Path,
) -> None:
    text = (
        "arrival_s,isl,osl,session,think_s\n"
        "0,100,20,a,\n1,50,5,b,\n4,150,10,a,2.5\n9,400,10,a,3\n12,90,10,,\n"
    )
    trace = read_trace(written(tmp_path, text))
    assert trace.sessions is not None
    assert trace.sessions.session.tolist() == [0, 1, 0, 0, -1]
    assert trace.sessions.previous.tolist() == [-1, -1, 0, 2, -1]
    assert trace.sessions.think_s.tolist() == [0, 0, 2.5, 3, 0]
    assert trace.shared is not None
    assert trace.shared.end.tolist() == [120, 160]  # what the first and the second turn ended at
    assert trace.shared.at.tolist() == [0, 1, 1, 3, 5, 5]


def test_lengths_of_sharegpt_are_counted_and_drawn_in_pairs(tmp_path: Path) -> None:
    said = [("a" * 400, "b" * 80), ("c" * 40, "d" * 8), ("e" * 20, "")]
    entries = [
        {"conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}]}
        for a, b in said
    ]
    path = tmp_path / "sharegpt.json"
    path.write_text(json.dumps(entries))
    lengths = read_lengths(path)
    assert [x.tolist() for x in lengths] == [[100, 10], [20, 2]]
    drawn = with_lengths(draw(Traffic(5.0, Lengths(1), Lengths(1), 20.0)), lengths, 0)
    assert {*zip(drawn.isl.tolist(), drawn.osl.tolist(), strict=True)} == {(100, 20), (10, 2)}
    assert [x.tolist() for x in read_lengths(mooncake(tmp_path, MOONCAKE))][1] == [5, 9, 5]


def test_stages_follow_each_other_at_their_own_rates() -> None:
    stages = [Stage(2.0, 300.0), Stage(20.0, 100.0)]
    traffic = in_stages(stages, Lengths(10), Lengths(10))
    arrival = draw(traffic).arrival_s
    assert len(arrival) == 600 + 2000
    assert (arrival < 300).sum() == pytest.approx(600, rel=0.1)
    assert (np.diff(arrival) >= 0).all()
    twice = draw(replace(traffic, request_rate=2 * traffic.request_rate)).arrival_s
    assert (twice < 300).sum() == pytest.approx(1200, rel=0.1)
    with pytest.raises(InputError, match="0 stages"):
        in_stages([], Lengths(10), Lengths(10))
    with pytest.raises(InputError, match="duration is 0 s"):
        in_stages([Stage(1.0, 10.0), Stage(1.0, 0.0)], Lengths(10), Lengths(10))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,5,5", r"line 3: arrival_s is 'x'; expected: seconds"),
        ("nan,5,5", r"line 3: arrival_s is 'nan'; expected: seconds"),
        ("1,5.5,5", r"line 3: isl is '5\.5'; expected: a whole number of tokens"),
        ("1,5,0", r"line 3: osl is 0; expected: a whole number of tokens, 1 to"),
        ("1,5", r"line 3: osl is ''; expected: a whole number of tokens"),
    ],
)
def test_a_malformed_line_is_named_with_what_was_expected(
    tmp_path: Path, row: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_trace(written(tmp_path, f"arrival_s,isl,osl\n0,5,5\n{row}\n"))


def test_files_that_hold_no_trace_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 0 requests"):
        read_trace(written(tmp_path, "arrival_s,isl,osl\n"))
    with pytest.raises(InputError, match=r"line 1: columns a, b; expected: TIMESTAMP"):
        read_trace(written(tmp_path, "a,b\n1,2\n"))
    with pytest.raises(InputError, match="cannot read"):
        read_trace(tmp_path / "absent.csv")
