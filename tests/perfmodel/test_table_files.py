"""Files of rows as spreadsheets and people write them: read alike, or refused in one line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.errors import InputError
from shardwise.perfmodel.rows import parse_rows, read_table, unused_columns

HEADER = "model_id,gpu_id,engine_id,weight_dtype,tp,mode,concurrency,isl,osl,ttft_ms,tpot_ms,e2e_s"
ROW = "llama-3.1-70b,h200,vllm,fp8,4,serving_closed_loop,8,100,101,50,10,1.05"


def _file(folder: Path, data: bytes | str) -> Path:
    path = folder / "rows.csv"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    "data",
    [
        f"{HEADER}\n{ROW}\n",
        f"{HEADER}\r\n{ROW}\r\n",
        f"\ufeff{HEADER}\n{ROW}\n",
        f"{HEADER}\n\n{ROW}",
        f"{HEADER}\n{ROW}\n".replace(",", ";"),
        f"{HEADER}\n{ROW}\n".replace(",", "\t"),
        f"{HEADER}\n{ROW}\n".replace("h200", '"h200"'),
        f"{HEADER},note\n" + ROW + ',"two\nlines, and a comma"\n',
        f"{HEADER}\n{ROW}\n".replace("model_id", " model_id "),
    ],
    ids=["lf", "crlf", "bom", "blank", "semicolons", "tabs", "quotes", "newline", "spaces"],
)
def test_a_file_reads_the_same_however_it_was_saved(tmp_path: Path, data: str) -> None:
    _, table = read_table(_file(tmp_path, data))
    (row,), problems = parse_rows(table)
    assert not problems
    assert (row.model, row.gpu, row.tp_size) == ("llama-3.1-70b", "h200", 4)
    assert row.observed == {"ttft_s": 0.05, "tpot_s": 0.01, "e2e_latency_s": 1.05}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (f"{HEADER}\n{ROW}\n".encode("utf-16"), "save it as UTF-8"),
        (f"{HEADER}\n{ROW}\n".encode("utf-16-le"), "save it as UTF-8"),
        (f"{HEADER}\n{ROW},caf\u00e9\n".encode("latin-1"), "not UTF-8 at line 2"),
        (f"{HEADER},tp\n{ROW},8\n", "the column tp twice"),
        (f"{HEADER}\n" + ROW.replace("h200", '"h200'), "cannot read"),
        (f"{HEADER}\n", "no rows"),
        ("", "lacks the columns"),
    ],
    ids=["utf-16", "utf-16-le", "latin-1", "twice", "open quote", "no rows", "empty"],
)
def test_a_file_that_cannot_be_read_as_meant_is_refused(
    tmp_path: Path, data: bytes | str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        read_table(_file(tmp_path, data))


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"kv_dtype": "int8"}, "kv_dtype is 'int8'"),
        # seconds in columns of milliseconds, and the other way round
        ({"tpot_ms": "0.01"}, "tpot_ms is 0.01; allowed: 0.05 to 1e+08, in ms"),
        ({"e2e_s": "1050"}, "e2e_s is 1e+03 times ttft_ms"),
        ({"e2e_s": "1050000"}, "e2e_s is 1.05e+06; allowed: 5e-05 to 100000, in s"),
        ({"ttft_ms": "50000", "tpot_ms": "10000"}, "e2e_s is 0.001 times"),
    ],
)
def test_a_bad_row_has_its_number_and_the_others_are_read(
    tmp_path: Path, cells: dict[str, str], said: str
) -> None:
    _, table = read_table(_file(tmp_path, f"{HEADER}\n{ROW}\n{ROW}\n{ROW}\n"))
    table[1] |= cells
    rows, (problem,) = parse_rows(table)
    assert [row.number for row in rows] == [1, 3]
    assert problem.number == 2
    assert said in problem.reason


def test_a_line_with_more_cells_than_the_header_is_a_bad_row(tmp_path: Path) -> None:
    _, table = read_table(_file(tmp_path, f"{HEADER}\n{ROW},8\n{ROW}\n"))
    rows, (problem,) = parse_rows(table)
    assert [row.number for row in rows] == [2]
    assert "more cells than the header" in problem.reason


def test_columns_that_nothing_reads_are_known() -> None:
    header = [*HEADER.split(","), "ttft_s", "comment", "pred_ttft_ms", "measured_on"]
    assert unused_columns(header) == ["ttft_s", "comment"]


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    for prefix in (b"", HEADER.encode() + b"\n"):
        path.write_bytes(prefix + data)
        with suppress(InputError):
            parse_rows(read_table(path)[1])


@given(st.lists(st.text(max_size=12), min_size=12, max_size=12))
def test_any_text_in_the_cells_is_a_row_or_a_problem(texts: list[str]) -> None:
    names = HEADER.split(",")
    rows, problems = parse_rows([dict(zip(names, texts, strict=True))])
    assert len(rows) + len(problems) == 1


def test_every_column_whose_value_changes_a_row_counts_as_read() -> None:
    header = [*HEADER.split(","), "length_cv", "cached_tokens", "ep", "dp", "requests"]
    assert unused_columns(header) == []
