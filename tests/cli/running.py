"""The command line in this process: what `main` prints and exits with, without a process start."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from shardwise.cli.main import main


def in_process(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `shardwise WORDS` as if in a process of its own; an unexpected exception is raised."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    threshold = gc.get_threshold()
    with (
        patch.object(sys, "argv", ["shardwise", *words]),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            gc.set_threshold(*threshold)
            atexit.unregister(gc.freeze)
    return subprocess.CompletedProcess(list(words), code, out.getvalue(), err.getvalue())
