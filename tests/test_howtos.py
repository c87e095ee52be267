"""Every command that a how-to shows runs as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

HOWTOS = Path(__file__).resolve().parents[1] / "docs" / "howto"
BLOCK = re.compile(r"^```(\w+) ?([\w.-]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    return [p for p in sorted(HOWTOS.glob("*.md")) if "```sh run" in p.read_text("utf-8")]


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.stem)
def test_every_command_of_a_howto_runs(page: Path, tmp_path: Path) -> None:
    env = {**os.environ, "SHARDWISE_HOME": str(tmp_path / "home")}
    for language, name, text in BLOCK.findall(page.read_text("utf-8")):
        if language == "sh" and name == "run":
            for line in text.replace("\\\n", " ").strip().splitlines():
                words = shlex.split(line)
                assert words[0] == "shardwise", line
                done = subprocess.run(
                    [sys.executable, "-m", "shardwise.cli.main", *words[1:]],
                    cwd=tmp_path,
                    env=env,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=120,
                )
                assert done.returncode == 0, f"{line}\n{done.stderr}"
        elif "." in name:
            (tmp_path / name).write_text(text, "utf-8")
