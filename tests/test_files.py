"""Files are written whole or not at all, devices are written to and stay, and reading ends."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shardwise import files
from shardwise.errors import InputError
from shardwise.files import read_limited, read_utf8, replacing, write_whole


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before")
    write_whole(path, b"after")
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - the one above
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_of_a_link_the_file_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "after"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    write_whole(path, b"through")
    reader.join(timeout=10)
    assert read == [b"through"]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_full_device_is_an_error_and_stays_a_device(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full: run it on Linux")
    (tmp_path / "link").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "link", b"x")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)
    assert list(tmp_path.iterdir()) == [tmp_path / "link"]


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "llama-3.1-8b", "--gpu", "h200", "--isl", "64", "--osl", "8", "--output"],
        ["plan", "llama-3.1-8b", "--gpu", "h200", "--isl", "64", "--osl", "8", "--save"],
        ["predict", "rows.csv", "--output"],
    ],
    ids=lambda words: words[-1],
)
def test_a_command_told_to_write_to_a_device_leaves_it(words: list[str], tmp_path: Path) -> None:
    """Root renamed a file over /dev/null, and so took it from every program of the machine."""
    (tmp_path / "device").symlink_to("/dev/null")
    head = "model_id,gpu_id,engine_id,weight_dtype,tp,mode,concurrency,isl,osl\n"
    (tmp_path / "rows.csv").write_text(head + "llama-3.1-8b,h200,vllm,fp8,1,closed_loop,8,64,8\n")
    line = [sys.executable, "-m", "shardwise.cli.main", *words, "device"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert (tmp_path / "device").is_symlink()


def test_a_file_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("no /dev/zero: run it on Linux")
    monkeypatch.setattr(files, "MOST_BYTES", 1 << 20)
    with pytest.raises(InputError, match="larger than"):
        read_limited(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text".encode("utf-16"), "UTF-16"),
        (b"fine\n\xe9t\xe9", "not UTF-8 at line 2"),
        (b"\x00\x01", "no text"),
    ],
)
def test_what_is_not_utf_8_says_how_to_save_it(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_utf8(tmp_path / "file")
    assert "save it as UTF-8" in str(caught.value)


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes("text".encode("utf-8-sig"))
    assert read_utf8(tmp_path / "file") == "text"
