"""Commands as a person meets them: on a real pseudo-terminal, piped, and with hostile names."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from shardwise.hosting import deployment_file, state
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable

SHARDWISE = [sys.executable, "-m", "shardwise.cli.main"]
COLOUR = re.compile(rb"\x1b\[[0-9;]*(3[0-7]|9[0-7]|38)[0-9;]*m")
STUDY = ["study", "llama-3.1-8b", "--gpu", "h200", "--gpus", "2", "--tp", "1,2", "--batch", "1,16"]
HOSTILE = "evil\x1b[2J\u202e<script>alert(1)"


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    return {**kept, "TERM": "xterm-256color", **more}


def piped(*arguments: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*SHARDWISE, *arguments], capture_output=True, env=environment(**more), check=False
    )


def on_terminal(
    arguments: list[str],
    width: int = 200,
    until: Callable[[bytes], bool] = lambda _: False,
    **more: str,
) -> tuple[int, bytes]:
    """Exit code and everything written to a terminal; interrupted (Ctrl-C) once `until` holds."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*SHARDWISE, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(COLUMNS=str(width), LINES="50", **more),
        start_new_session=True,
    )
    os.close(theirs)
    written, deadline, told = b"", time.monotonic() + 60, False
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                written += os.read(ours, 65536)
            except OSError:  # the other end has closed
                break
        elif process.poll() is not None:
            break
        if not told and until(written):
            process.send_signal(signal.SIGINT)
            told = True
    os.close(ours)
    return process.wait(10), written


def test_a_study_is_coloured_in_a_terminal_with_bars_where_they_fit() -> None:
    code, written = on_terminal(STUDY)
    assert code == 0
    assert COLOUR.search(written)
    assert "███" in written.decode()
    assert "└" not in written.decode()


def test_no_color_is_respected_in_a_terminal() -> None:
    _, written = on_terminal(STUDY, NO_COLOR="1")
    assert not COLOUR.search(written)


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    _, written = on_terminal(STUDY, width)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode()).replace("\r", "").split("\n")
    assert max(map(len, lines)) <= width


def test_a_piped_study_is_plain_aligned_text() -> None:
    found = piped(*STUDY)
    assert found.returncode == 0
    assert b"\x1b" not in found.stdout + found.stderr
    assert "███" in found.stdout.decode()


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("command", ["study", "plan"])
def test_a_hostile_model_name_cannot_reach_the_terminal(
    tmp_path: Path, command: str, terminal: bool
) -> None:
    folder = tmp_path / (HOSTILE + "x" * 150)
    folder.mkdir()
    shipped = files("shardwise.architecture").joinpath("data/llama-3.1-8b.json")
    (folder / "config.json").write_bytes(shipped.read_bytes())
    asked = STUDY[2:] if command == "study" else ["--gpu", "h200", "--isl", "64", "--osl", "64"]
    arguments = [command, str(folder), *asked]
    if terminal:
        code, written = on_terminal(arguments)
    else:
        found = piped(*arguments)
        code, written = found.returncode, found.stdout + found.stderr
    assert code == 0
    assert b"evil" in written
    assert b"\x1b[2J" not in written
    assert "\u202e" not in written.decode()


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment as its controller left it: one replica given up, with a note from its log."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / "d.toml"
    model = ModelTable(model="m", engine="command", command=["true", "{port}"])
    deployment_file.save(DeploymentFile(models=[model]), path)
    where = state.folder(path)
    where.mkdir(parents=True)
    shutil.copy(path, where / "deployment.toml")
    lost = state.ReplicaState("m/0", "m", "http://127.0.0.1:1", [0], "", "gave up", restarts=3)
    lost.note = f"[red]exit 1[/red] {HOSTILE}"
    state.Journal(
        where, state.State("d", str(path), "http://127.0.0.1:2", "caddy", replicas=[lost])
    ).write()
    return path


def test_status_is_plain_when_piped_and_shows_notes_as_they_are(deployment: Path) -> None:
    found = piped("status", str(deployment))
    assert found.returncode == 0
    assert b"\x1b" not in found.stdout
    said = found.stdout.decode()
    assert "[red]exit 1[/red]" in said
    assert "gave up" in said
    assert "\u202e" not in said


def test_status_watch_redraws_in_a_terminal_until_interrupted(deployment: Path) -> None:
    code, written = on_terminal(
        ["status", "--watch", str(deployment)], until=lambda said: said.count(b"gave up") >= 2
    )
    assert code == 130
    assert COLOUR.search(written)
    assert b"last 30 s" in written
    assert b"\x1b[2J" not in written


def test_status_watch_has_no_colour_with_no_color(deployment: Path) -> None:
    code, written = on_terminal(
        ["status", "--watch", str(deployment)],
        until=lambda said: b"gave up" in said,
        NO_COLOR="1",
    )
    assert code == 130
    assert b"gave up" in written
    assert not COLOUR.search(written)
