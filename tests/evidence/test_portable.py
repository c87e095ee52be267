"""What is forwarded names no folder of this machine."""

from __future__ import annotations

import pytest

from shardwise.evidence.portable import portable, without_folders


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("shardwise study /home/me/models/Llama -o /tmp/out/", "shardwise study Llama -o out"),
        ("--catalogue=~/gpus/mine.toml", "--catalogue=mine.toml"),
        ("../other/rows.csv", "rows.csv"),
        ("'/home/me/a b/x' --tp 1,2", "'a b/x' --tp 1,2"),
        ("http://10.0.0.1:8000/v1/completions", "http://10.0.0.1:8000/v1/completions"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-70B"),
        ("study/report.html", "study/report.html"),
        ("512/128 tokens, tok/s, n/a", "512/128 tokens, tok/s, n/a"),
        ("/", "/"),
    ],
)
def test_a_path_is_reduced_to_its_last_part(given: str, kept: str) -> None:
    assert without_folders(given) == kept


def test_records_are_cleaned_at_every_depth() -> None:
    found = portable({"argv": ["/opt/venv/bin/python", "-m", "x"], "n": 3, "a": {"b": ("/x/y",)}})
    assert found == {"argv": ["python", "-m", "x"], "n": 3, "a": {"b": ["y"]}}
